"""AdaptSegNet's step: who learns from which loss, in which order, with which weights."""

import math

import pytest
import torch
from torch import nn

from course_lib.data import Batch
from course_lib.engine import LoopSettings, train
from course_lib.losses import cross_entropy
from course_lib.losses.adversarial import SOURCE, TARGET, domain_loss, probabilities
from course_lib.methods import AdaptSegNet, AdaptSegNetSettings, OptimiserSettings
from course_lib.networks import Prediction
from tests.bounds import bound, close

# The convolutions' 27 and 6 products, the discriminator's 64, 64 and 128, logits and scores below 4; means over 4096 pixels
LOSS = bound(300, torch.float32, 4.0) + bound(4096, torch.float32, 3.0)


class Tiny(nn.Module):
    """A segmenter of two convolutions at stride 2, with or without an auxiliary output."""

    num_classes, feature_dim, normalisation = 4, 6, "imagenet"

    def __init__(self, aux: bool = False):
        super().__init__()
        self.backbone = nn.Conv2d(3, 6, 3, stride=2, padding=1)
        self.head = nn.Conv2d(6, 4, 1)
        self.aux = nn.Conv2d(6, 4, 1) if aux else None

    def backbone_parameters(self):
        return list(self.backbone.parameters())

    def head_parameters(self):
        return list(self.head.parameters()) + (list(self.aux.parameters()) if self.aux else [])

    def forward(self, image):
        features = self.backbone(image).relu()
        return Prediction(features, self.head(features), self.aux(features) if self.aux else None)


def batch(seed: int) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    image = torch.randn(2, 3, 32, 64, generator=generator)
    return Batch(image, torch.randint(0, 4, (2, 32, 64), generator=generator), [f"{seed}a.png", f"{seed}b.png"])


def method(aux: bool = False, **settings) -> AdaptSegNet:
    torch.manual_seed(0)
    settings = AdaptSegNetSettings(discriminator_width=4, discriminator_depth=3, **settings)
    return AdaptSegNet(Tiny(aux), settings, OptimiserSettings(lr=0.1, head_factor=1.0, momentum=0.0, weight_decay=0.0))


def gradients(module: nn.Module) -> list:
    return [None if p.grad is None else p.grad.clone() for p in module.parameters()]


def test_order_and_names_of_the_backward_passes():
    names = [list(losses) for losses in method().losses(batch(1), batch(2))]
    assert names == [
        ["segmentation"],
        ["adversarial_main"],
        ["discriminator_main_source"],
        ["discriminator_main_target"],
    ]
    names = [list(losses) for losses in method(aux=True, levels="multi").losses(batch(1), batch(2))]
    assert names[0] == ["segmentation", "segmentation_aux"] and names[1] == ["adversarial_main", "adversarial_aux"]


def test_values_are_the_equations():
    m, source, target = method(), batch(1), batch(2)
    seg, adv, d_source, d_target = (list(x.values())[0].item() for x in m.losses(source, target))
    with torch.no_grad():
        P = m.segmenter(source.image).logits
        T = m.segmenter(target.image).logits
        D = m.discriminators["main"]
        close(seg, cross_entropy(P, source.label).item(), LOSS)
        close(adv, domain_loss(D(probabilities(T, (32, 64))), SOURCE).item(), LOSS)
        close(d_source, domain_loss(D(probabilities(P, (32, 64))), SOURCE).item(), LOSS)
        close(d_target, domain_loss(D(probabilities(T, (32, 64))), TARGET).item(), LOSS)


def test_each_loss_teaches_only_whom_it_should():
    m = method()
    for losses in m.losses(batch(1), batch(2)):
        for module in (m.segmenter, m.discriminators):
            module.zero_grad(set_to_none=True)
        ((name, loss),) = losses.items()
        loss.backward()
        teaches_segmenter = any(g is not None for g in gradients(m.segmenter))
        teaches_discriminator = any(g is not None for g in gradients(m.discriminators))
        assert teaches_segmenter == (not name.startswith("discriminator")), name
        assert teaches_discriminator == name.startswith("discriminator"), name


def test_the_adversarial_step_lowers_what_the_discriminator_calls_target():
    m, target = method(), batch(2)
    D = m.discriminators["main"]

    def says_target() -> float:
        with torch.no_grad():
            return D(probabilities(m.segmenter(target.image).logits, (32, 64))).mean().item()

    before = says_target()
    passes = m.losses(batch(1), target)
    next(passes)
    next(passes)["adversarial_main"].backward()
    m.optimisers["segmenter"].step()
    assert says_target() < before


def test_weights_and_landmarks_are_the_published_ones():
    m = method(aux=True, levels="multi")
    assert m.weights == {
        "segmentation_aux": 0.1,
        "lovasz": 0.0,
        "adversarial_main": 0.001,
        "adversarial_aux": 0.0002,
        "discriminator_main_source": 0.5,
        "discriminator_main_target": 0.5,
        "discriminator_aux_source": 0.5,
        "discriminator_aux_target": 0.5,
    }
    close(m.landmarks["discriminator_main_source"][0], math.log(2), bound(5, torch.float32))
    close(m.landmarks["segmentation"][0], math.log(4), bound(5, torch.float32, 2.0))


def test_without_adversarial_weight_it_is_source_only_training():
    """lambda = 0 leaves the segmenter with exactly the supervised steps."""
    with_game, reference = method(lambda_adv=0.0), method()
    train(with_game, {"source": [batch(1)] * 3, "target": [batch(2)] * 3}, LoopSettings(steps=3), quiet=True)
    optimiser = torch.optim.SGD(reference.segmenter.parameters(), lr=0.1)
    for step in range(3):
        optimiser.param_groups[0]["lr"] = 0.1 * (1 - step / 250_000) ** 0.9
        optimiser.zero_grad()
        cross_entropy(reference.segmenter(batch(1).image).logits, batch(1).label).backward()
        optimiser.step()
    for a, b in zip(with_game.segmenter.parameters(), reference.segmenter.parameters(), strict=True):
        close(a, b, bound(3000, torch.float32))


def test_least_squares_has_no_ln_2_landmark():
    assert "discriminator_main_source" not in method(gan="least-squares").landmarks


def test_a_second_level_needs_an_auxiliary_output():
    m = method(levels="multi")
    with pytest.raises(ValueError, match="auxiliary head .*aux.*, or choose levels='single'"):
        list(m.losses(batch(1), batch(2)))
