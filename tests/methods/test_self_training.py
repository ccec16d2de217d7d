"""Self-training: the target's given labels, and the source as much as lambda_source says."""

import math

import pytest
import torch

from course_lib.data import Batch
from course_lib.engine import LoopSettings, train
from course_lib.losses import cross_entropy
from course_lib.methods import OptimiserSettings, SelfTraining, SelfTrainingSettings
from course_lib.methods.step import Stream
from tests.bounds import bound, close, near
from tests.methods.test_proca import Tiny, batch

LOSS = bound(100, torch.float32, 20.0) + bound(4096, torch.float32, 6.0)  # as in test_proca: logits below 20, 4096 pixels


def method(lambda_source: float = 0.0, aux: bool = False) -> SelfTraining:
    torch.manual_seed(0)
    optimiser = OptimiserSettings(lr=0.01, head_factor=1.0, momentum=0.0, weight_decay=0.0)
    return SelfTraining(Tiny(aux=aux), SelfTrainingSettings(lambda_source=lambda_source), optimiser)


def test_without_lambda_the_source_is_never_touched():
    m, target = method(), batch(2)
    (losses,) = m.losses(target)
    wanted = cross_entropy(m.segmenter(target.image).logits, target.label)
    assert list(losses) == ["pseudo"] and near(losses["pseudo"].item(), wanted.item(), LOSS)
    assert m.streams(m.settings) == {"target": Stream("files")} and "pseudo" not in m.weights  # counts whole
    assert SelfTrainingSettings().lambda_source == 0.0  # ProCA's release


def test_with_lambda_the_source_joins_in_with_its_weight():
    m, source, target = method(0.3, aux=True), batch(1), batch(2)
    (losses,) = m.losses(source=source, target=target)
    prediction = m.segmenter(source.image)
    close({name: loss.item() for name, loss in losses.items()}, {
            "segmentation": cross_entropy(prediction.logits, source.label).item(),
            "segmentation_aux": cross_entropy(prediction.aux_logits, source.label).item(),
            "pseudo": cross_entropy(m.segmenter(target.image).logits, target.label).item(),
        }, LOSS)
    assert near(m.weights, {"segmentation": 0.3, "segmentation_aux": 0.03, "lovasz": 0.0}, bound(3, torch.float64))
    assert m.streams(m.settings) == {"source": Stream("true"), "target": Stream("files")}
    close(m.landmarks["pseudo"][0], math.log(4), bound(5, torch.float64, 2.0))


@pytest.mark.parametrize("weight", [0.0, 0.5])
def test_a_step_of_the_engine_is_the_equation(weight):
    """w - lr * d(L_seg(P_t, y~) + lambda L_seg(P_s, Y)) / dw"""
    m, twin, source, target = method(weight), method(weight), batch(1), batch(2)
    loaders = ({"source": [source]} if weight else {}) | {"target": [target]}
    train(m, loaders, LoopSettings(steps=1), quiet=True)
    total = cross_entropy(twin.segmenter(target.image).logits, target.label)
    if weight:
        total = total + weight * cross_entropy(twin.segmenter(source.image).logits, source.label)
    total.backward()
    for a, b in zip(m.segmenter.parameters(), twin.segmenter.parameters(), strict=True):
        rounding = bound(4, torch.float32, b) + bound(4200, torch.float32, 0.01 * b.grad.abs().max())
        close(a, b.detach() - 0.01 * b.grad, rounding)


def test_a_target_without_any_label_costs_nothing():
    m, target = method(), batch(2)
    (losses,) = m.losses(Batch(target.image, torch.full_like(target.label, 255), target.name))
    losses["pseudo"].backward()
    assert losses["pseudo"] == 0 and not m.segmenter.head.weight.grad.any()
