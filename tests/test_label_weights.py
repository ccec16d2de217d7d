"""Weights of a teacher's labels against loops: shares, powers, thresholds, moving quantiles; state, processes, no question."""

import copy
import math
import re
from dataclasses import replace

import pytest
import torch

from course_lib import ranks
from course_lib.pseudo_labels import ClassQuantiles, Labeller, LabelWeightSettings, batch_weight, picture_weight
from tests.bounds import bound, close
from tests.oracles import pseudo_labels as oracle

C = 5
ONE = bound(2, torch.float32)
SOFTMAX = bound(C + 5, torch.float32, 12.0)  # exp of numbers up to 12 off their largest; C terms


def drawn(seed: int = 0, n: int = 3, h: int = 4, w: int = 6) -> torch.Tensor:
    """Logits; class 4 is never the largest."""
    x = 4 * torch.randn(n, C, h, w, generator=torch.Generator().manual_seed(seed))
    x[:, 4] = -20
    return x


def labelled(logits: torch.Tensor) -> tuple[list[float], list[int]]:
    """Confidence and class of each pixel, in order, by the equation."""
    sure, y = [], []
    for pixel in logits.double().permute(0, 2, 3, 1).flatten(0, 2).tolist():
        weights = [math.exp(v - max(pixel)) for v in pixel]
        sure.append(max(weights) / sum(weights))
        y.append(pixel.index(max(pixel)))
    return sure, y


def moved(batches, quantile, momentum) -> list[float]:
    """m_c after the batches, by the equation; Ada-ST's place in each batch."""
    m: list[float] = [0.0] * C
    for sure, y in batches:
        for c, x in enumerate(oracle.thresholds(sure, y, C, quantile, cap=1.0)):
            if c in y:
                m[c] = x if m[c] == 0 else momentum * m[c] + (1 - momentum) * x
    return m


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("weighting", ["batch", "picture", "power", "threshold"])
def test_weights_equal_the_loop(weighting, seed):
    logits = drawn(seed)
    y, q = Labeller(C, LabelWeightSettings(weighting, threshold=0.9, confidence_power=3.0))(logits)
    sure, wanted = labelled(logits)
    confident = [p >= 0.9 for p in sure]
    of_picture = [sum(confident[24 * n : 24 * n + 24]) / 24 for n in range(3)]
    q_wanted = {
        "batch": [sum(confident) / len(sure)] * len(sure),
        "picture": [of_picture[k // 24] for k in range(len(sure))],
        "power": [p**3 for p in sure],
        "threshold": [float(yes) for yes in confident],
    }[weighting]
    assert y.flatten().tolist() == wanted and q.dtype == torch.float32 and q.shape == y.shape == (3, 4, 6)
    close(q.flatten(), q_wanted, SOFTMAX * 3 if weighting == "power" else ONE)
    assert 0 < sum(confident) < len(sure)


@pytest.mark.parametrize("quantile, momentum, cap", [(0.5, 0.9, 0.95), (0.35, 0.5, 1.0), (0.8, 0.0, 0.7)])
def test_moving_quantiles_equal_the_loop_over_batches(quantile, momentum, cap):
    labeller = Labeller(C, LabelWeightSettings("class", class_quantile=quantile, class_momentum=momentum, class_cap=cap))
    batches = []
    for k in range(5):
        logits = drawn(k)
        if k % 2:
            logits[:, 0] = -20  # no pixel of class 0: its threshold stays
        y, q = labeller(logits)
        batches.append(labelled(logits))
        t = [min(x, cap) for x in moved(batches, quantile, momentum)]
        close(labeller.quantiles.thresholds, t, SOFTMAX + bound(15, torch.float32))
        own = labeller.quantiles.thresholds.tolist()
        p = torch.softmax(logits, 1).amax(1).flatten().tolist()
        assert q.flatten().tolist() == [float(a >= own[c]) for a, c in zip(p, y.flatten().tolist(), strict=True)]
    assert labeller.quantiles.seen.tolist() == [True] * 4 + [False] and labeller.quantiles.thresholds[4] == 0


def test_the_first_batch_keeps_the_surest_half_of_every_class_and_one_threshold_starves_one():
    sure = torch.cat([torch.linspace(0.9, 0.94, 10), torch.linspace(0.3, 0.6, 10)])
    y = torch.arange(2).repeat_interleave(10)
    moving = ClassQuantiles(2)
    moving.update(sure, y)
    kept = sure >= moving.thresholds[y]
    assert [kept[y == c].sum().item() for c in (0, 1)] == [5, 5]
    assert not (sure >= 0.9)[y == 1].any()


def test_pixels_that_are_not_valid_have_no_part_in_the_thresholds():
    """Bottom rows of a car's own bonnet, surer than the street, would raise the threshold of their class for all pixels."""
    logits = drawn(0)
    valid = torch.zeros(logits[:, 0].shape, dtype=torch.bool)
    valid[:, : valid.shape[1] // 2] = True
    (y, _), sure = Labeller(C)(logits), logits.softmax(1).amax(1)
    all_of_them, counted, alone = (ClassQuantiles(C) for _ in range(3))
    all_of_them.update(sure, y)
    counted.update(sure, y, valid)
    alone.update(sure[valid], y[valid])
    assert torch.equal(counted.moving, alone.moving) and torch.equal(counted.seen, alone.seen)
    assert not torch.equal(counted.moving, all_of_them.moving)
    labeller = Labeller(C, LabelWeightSettings("class"))
    _, q = labeller(logits, valid=valid)
    assert not q[~valid].any() and not torch.equal(labeller.quantiles.moving, all_of_them.moving)


def test_in_eval_mode_thresholds_stay():
    labeller = Labeller(C, LabelWeightSettings("class"))
    labeller(drawn(0))
    before = copy.deepcopy(labeller.state_dict())
    labeller.eval()(drawn(1))
    assert all(torch.equal(before[k], v) for k, v in labeller.state_dict().items())
    labeller.train()(drawn(1))
    assert not torch.equal(before["quantiles.moving"], labeller.quantiles.moving)


def test_loaded_it_continues_bit_for_bit():
    a, b = (Labeller(C, LabelWeightSettings("class")) for _ in range(2))
    a(drawn(0))
    b.load_state_dict(a.state_dict())
    for found, wanted in zip(b(drawn(1)), a(drawn(1)), strict=True):
        assert torch.equal(found, wanted)
    assert torch.equal(a.quantiles.moving, b.quantiles.moving) and a.state_dict().keys() >= {"quantiles.moving"}


def test_pixels_that_are_not_valid_weigh_nothing_and_do_not_count_for_their_picture():
    sure = torch.tensor([[[0.99, 0.99, 0.5, 0.5]], [[0.99, 0.5, 0.5, 0.5]]])
    valid = torch.tensor([[[True, False, True, True]], [[False, False, False, False]]])
    close(picture_weight(sure, 0.9, valid)[:, 0, 0], [1 / 3, 0.0], ONE)
    logits = drawn()
    valid = torch.rand(3, 4, 6, generator=torch.Generator().manual_seed(5)) < 0.5
    for weighting in ("batch", "picture", "power", "threshold", "class"):
        labeller = Labeller(C, LabelWeightSettings(weighting, threshold=0.6)).eval()
        q = labeller(logits, valid=valid)[1]
        assert (q[~valid] == 0).all() and (q[valid] > 0).any()


def test_the_labeller_counts_a_pictures_valid_pixels_alone():
    logits, valid = drawn(), torch.zeros(3, 4, 6, dtype=torch.bool)
    valid[:, :, :2] = True
    q = Labeller(C, LabelWeightSettings("picture", threshold=0.9))(logits, valid=valid)[1]
    sure = torch.softmax(logits, 1).amax(1)
    close(q[:, 0, 0], (sure[:, :, :2] >= 0.9).double().mean((1, 2)), ONE)


def test_a_confidence_that_is_no_number_counts_as_0():
    moving, wanted = ClassQuantiles(2), ClassQuantiles(2)
    moving.update(torch.tensor([0.9, math.nan, 0.7, 0.5]), torch.tensor([0, 0, 0, 1]))
    wanted.update(torch.tensor([0.9, 0.0, 0.7, 0.5]), torch.tensor([0, 0, 0, 1]))
    assert torch.equal(moving.moving, wanted.moving) and moving.moving[1] == 0.5


def test_the_batch_is_that_of_all_processes(monkeypatch):
    sure = torch.rand(4, 3, 5, generator=torch.Generator().manual_seed(0))
    whole = batch_weight(sure, 0.5)
    monkeypatch.setattr(ranks, "count", lambda: 2)
    monkeypatch.setattr(ranks, "total", lambda part: (sure >= 0.5).sum())
    close(batch_weight(sure[:2], 0.5), whole[:2], ONE)


def test_logits_are_brought_to_the_size_of_the_pictures_before_the_softmax():
    logits = drawn()
    labeller = Labeller(C, LabelWeightSettings("power", confidence_power=1.0))
    y, q = labeller(logits, size=(7, 11))
    large = torch.nn.functional.interpolate(logits, size=(7, 11), mode="bilinear", align_corners=True)
    assert torch.equal(y, large.argmax(1))
    close(q.flatten(), labelled(large)[0], SOFTMAX)


@pytest.mark.parametrize("weighting", ["batch", "picture", "power", "threshold", "class"])
def test_logits_that_are_not_finite_weigh_nothing(weighting):
    logits = drawn()
    logits[0, 1, 2, 3], logits[1, 0, 0, 0] = math.nan, math.inf
    labeller = Labeller(C, LabelWeightSettings(weighting, threshold=0.5, confidence_power=0.0))
    q = labeller(logits)[1]
    assert q[0, 2, 3] == q[1, 0, 0] == 0 and q.isfinite().all() and q.sum() > 10
    assert all(b.isfinite().all() for b in labeller.buffers())


@pytest.mark.parametrize("weighting", ["batch", "picture", "power", "threshold", "class"])
def test_there_is_no_gradient_and_the_device_is_not_asked_for_a_value(weighting):
    labeller = Labeller(C, LabelWeightSettings(weighting))
    assert not labeller(drawn().requires_grad_())[1].requires_grad
    y, q = labeller.to("meta")(drawn().to("meta"), size=(8, 9), valid=torch.ones(3, 8, 9, dtype=torch.bool, device="meta"))
    assert y.shape == q.shape == (3, 8, 9)


def test_errors_say_what_came_and_what_was_wanted():
    with pytest.raises(ValueError, match=r"Labeller got logits \(5, 4, 6\); it wants \(N, C, h, w\)"):
        Labeller(C)(drawn()[0])
    with pytest.raises(ValueError, match=r"valid is \(4, 6\) and the labels are \(3, 4, 6\)"):
        Labeller(C)(drawn(), valid=torch.ones(4, 6).bool())
    with pytest.raises(ValueError, match="quantile is 2; it wants a number from 0.0 to 1.0"):
        ClassQuantiles(C, quantile=2)


@pytest.mark.parametrize(
    "field, value, words",
    [
        ("weighting", "none", "weighting: it holds 'none', wanted one of 'batch', 'picture', 'power', 'threshold', 'class'"),
        ("threshold", 1.5, "threshold is 1.5; it wants a number from 0.0 to 1.0"),
        ("confidence_power", -1.0, "confidence_power is -1.0; it wants a number from 0.0 to 100.0"),
        ("class_quantile", 1.1, "class_quantile is 1.1"),
        ("class_momentum", 1.0, "class_momentum is 1.0; it wants a number from 0.0 to 0.999999"),
        ("class_cap", -0.1, "class_cap is -0.1"),
    ],
)
def test_settings_out_of_range_are_refused(field, value, words):
    with pytest.raises(ValueError, match=re.escape(words)):
        replace(LabelWeightSettings(), **{field: value})
