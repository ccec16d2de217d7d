"""ProCA's contrast against a slow oracle, its gradient against differences, its ranges and its memory.

Two processes: tests/test_prototypes.py.
"""

import math
from itertools import pairwise

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from course_lib import ranks
from course_lib.losses import prototype_contrast
from course_lib.losses.prototype import labels_at
from tests.bounds import bound, close, far, near, printed, stated
from tests.oracles import prototypes as oracle
from tests.processes import together

SIMILARITIES = {"dot": oracle.dot, "cosine": oracle.cosine}


def problem(N=2, D=5, H=3, W=4, C=4, dtype=torch.float64):
    """Features (N, D, H, W), labels (N, H, W) with ignored pixels, most of them in the first image; prototypes (C, D)."""
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(N, D, H, W, generator=generator, dtype=torch.float64)
    labels = torch.randint(0, C, (N, H, W), generator=generator)
    labels[0, 1:] = 255
    labels[-1, 0, 0] = 255
    return features.to(dtype), labels, torch.randn(C, D, generator=generator, dtype=torch.float64).to(dtype)


def rounding(slope=1.0, dtype=torch.float64, D=6, size=10.0):
    """Of a loss: inner products and lengths of D channels, softmax over up to 6 classes, a mean over up to 40 pixels; products
    of up to `size` are divided by tau, slope = 1 / tau, and stand in two places."""
    return bound(3 * D + 70, dtype, 2 * size * slope + math.log(6))


def rows(features):
    """(N, D, H, W) as a list of vectors, pixel by pixel."""
    return features.permute(0, 2, 3, 1).flatten(0, 2)


# ---- the value ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("similarity", SIMILARITIES)
@pytest.mark.parametrize("temperature", [0.1, 1.0, 50.0])
def test_equals_the_oracle_for_maps_and_vectors(similarity, temperature):
    features, labels, prototypes = problem()
    wanted = oracle.contrast(
        rows(features).tolist(), labels.flatten().tolist(), prototypes.tolist(), temperature, SIMILARITIES[similarity]
    )
    maps = prototype_contrast(features, labels, prototypes, temperature, similarity)
    flat = prototype_contrast(rows(features), labels.flatten(), prototypes, temperature, similarity)
    assert near(maps.item(), wanted, rounding(1 / temperature)) and near(flat.item(), wanted, rounding(1 / temperature))


def test_the_slides_dot_product_is_the_default():
    features, labels, prototypes = problem()
    loss = prototype_contrast(features, labels, prototypes, 1.0)
    assert loss == prototype_contrast(features, labels, prototypes, 1.0, "dot")
    assert abs(loss - prototype_contrast(features, labels, prototypes, 1.0, "cosine")) > 0.1


def test_a_feature_that_says_nothing_costs_log_c():
    loss = prototype_contrast(torch.zeros(7, 5), torch.arange(7), torch.randn(7, 5), 0.1)
    close(loss.item(), math.log(7), bound(30, torch.float32, math.log(7)))


@pytest.mark.parametrize("K, D, low, high", [(19, 2048, 2.9255, 2.9634), (19, 19, 2.9066, 2.9824), (16, 64, 2.7344, 2.8109)])
def test_released_form_stays_near_log_k(K, D, low, high):
    """Unit vectors divided by 50: features after a ReLU on the first line, of any sign on the others."""
    generator = torch.Generator().manual_seed(1)
    features, prototypes = torch.randn(400, D, generator=generator), torch.randn(K, D, generator=generator)
    if D == 2048:
        features, prototypes = features.relu(), prototypes.relu()
    labels = torch.randint(0, K, (400,), generator=generator)
    for f in (features, 100 * features, prototypes[labels], -prototypes[labels] if D != 2048 else features):
        assert low <= prototype_contrast(f, labels, prototypes, 50.0, "cosine").item() <= high


def test_the_ends_of_the_released_range_are_reached():
    """All other prototypes opposite to one's own: as good and as bad as it can be, ln(1 + 18 exp(-+2/50))."""
    prototypes = -torch.eye(1, 3).repeat(19, 1)
    prototypes[4] *= -1
    best = prototype_contrast(prototypes[4:5], torch.tensor([4]), prototypes, 50.0, "cosine")
    worst = prototype_contrast(-prototypes[4:5], torch.tensor([4]), prototypes, 50.0, "cosine")
    close(best, *printed("2.9066"))
    close(worst, *printed("2.9824"))


def test_released_form_pulls_as_the_landmark_says():
    """L ~ ln K + (mean_c cos(F, p_c) - cos(F, p_y)) / 50."""
    features, labels, prototypes = problem(N=1, D=8, C=6)
    labels = torch.arange(12).view(1, 3, 4) % 6
    cosines = torch.nn.functional.normalize(rows(features)) @ torch.nn.functional.normalize(prototypes).T
    lead = cosines.mean(1) - cosines[torch.arange(12), labels.flatten()]
    loss = prototype_contrast(features, labels, prototypes, 50.0, "cosine")
    series = stated(2 / 50**2 / 2, "the next term of the series: the variance of cosines / 50, halved, with cosines in -1..1")
    close(loss.item(), math.log(6) + lead.mean().item() / 50, series)


# ---- what does not count --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("similarity", SIMILARITIES)
def test_all_ignored_is_zero_with_zero_gradient(similarity):
    features, labels, prototypes = problem()
    features.requires_grad_()
    loss = prototype_contrast(features, torch.full_like(labels, 255), prototypes, 0.1, similarity)
    loss.backward()
    assert loss.item() == 0.0 and features.grad.abs().max() == 0.0


def test_ignored_pixels_have_no_say_and_no_gradient():
    features, labels, prototypes = problem()
    changed = torch.where((labels == 255)[:, None], 100.0, features).requires_grad_()
    loss = prototype_contrast(changed, labels, prototypes, 1.0, "cosine")
    loss.backward()
    close(loss.item(), prototype_contrast(features, labels, prototypes, 1.0, "cosine").item(), rounding())
    assert not changed.grad.permute(0, 2, 3, 1)[labels == 255].any()
    assert changed.grad.permute(0, 2, 3, 1)[labels != 255].abs().amax(1).min() > 0


@pytest.mark.parametrize("similarity", SIMILARITIES)
def test_unseen_classes_are_left_out(similarity):
    features, labels, prototypes = problem()
    seen = torch.tensor([True, False, True, True])
    without = torch.where(labels == 1, 255, labels)
    kept = torch.where(without > 1, without - 1, without).clamp(max=255)
    kept[without == 255] = 255
    wanted = prototype_contrast(features, kept, prototypes[seen], 1.0, similarity)
    prototypes[1] = 0
    close(prototype_contrast(features, labels, prototypes, 1.0, similarity, seen).item(), wanted.item(), rounding())
    none = features.requires_grad_()
    loss = prototype_contrast(none, labels, prototypes, 1.0, similarity, torch.zeros(4, dtype=torch.bool))
    loss.backward()
    assert loss.item() == 0.0 and not none.grad.any()


# ---- the gradient ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("similarity", SIMILARITIES)
@pytest.mark.parametrize("layout", ["maps", "channels_last", "flat"])
def test_gradient_is_that_of_the_plain_formula(similarity, layout):
    features, labels, prototypes = problem()
    if layout == "channels_last":
        features = features.contiguous(memory_format=torch.channels_last)
    f, y = (rows(features), labels.flatten()) if layout == "flat" else (features, labels)
    f.requires_grad_()
    assert torch.autograd.gradcheck(lambda f: prototype_contrast(f, y, prototypes, 0.5, similarity), f)
    t = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda f, t: prototype_contrast(f, y, prototypes, t, similarity), (f, t))
    (gradient,) = torch.autograd.grad(prototype_contrast(f, y, prototypes, 0.5, similarity), f)
    assert gradient.stride() == f.stride()


def test_a_feature_of_length_zero_has_no_direction():
    features = torch.zeros(2, 3).requires_grad_()
    loss = prototype_contrast(features, torch.tensor([0, 1]), torch.eye(3), 0.1, "cosine")
    loss.backward()
    assert near(loss.item(), math.log(3), bound(10, torch.float32, math.log(3))) and not features.grad.any()


def test_memory_is_one_gradient_and_a_few_numbers_per_pixel_and_class():
    N, D, C = 2000, 256, 19
    features, labels = torch.randn(1, D, 40, 50).requires_grad_(), torch.randint(0, C, (1, 40, 50))
    labels[:, :10] = 255
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
        prototype_contrast(features, labels, torch.randn(C, D), 50.0, "cosine").backward()
    changes = [event for event in record.profiler.kineto_results.events() if event.name() == "[memory]"]
    alive, peak = 0, 0
    for event in sorted(changes, key=lambda event: event.start_ns()):
        alive += event.nbytes()
        peak = max(peak, alive)
    assert 4 * N * D < peak < 4 * N * (D + 8 * C)  # a second tensor of the features' size would be 4 N * 2 D


# ---- sizes and errors -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(3, 5), (4, 4), (7, 13), (1, 1)])
def test_labels_at_is_torchs_nearest(size):
    labels = torch.arange(2 * 7 * 13).view(2, 7, 13)
    wanted = torch.nn.functional.interpolate(labels[:, None].double(), size=size, mode="nearest")[:, 0].long()
    assert torch.equal(labels_at(labels, size), wanted)


def test_labels_at_is_the_exact_floor():
    """torch's product with 3 / 123 in float32 is below 1 and 2 there."""
    columns = torch.arange(3).view(1, 1, 3)
    found = labels_at(columns, (1, 123))
    assert found.flatten().tolist() == [i * 3 // 123 for i in range(123)]
    nearest = torch.nn.functional.interpolate(columns[:, None].double(), size=(1, 123), mode="nearest")[0].long()
    assert (found != nearest).nonzero()[:, 2].tolist() == [41, 82]


@pytest.mark.parametrize(
    "change, message",
    [
        ({"labels": torch.zeros(2, 6, 8, dtype=torch.int64)}, r"features \(2, 5, 3, 4\) and labels \(2, 6, 8\).*labels_at"),
        ({"prototypes": torch.zeros(4, 7)}, r"features of 5 channels and prototypes \(4, 7\); it wants \(C, 5\)"),
        ({"temperature": 0.0}, "temperature is 0.0; .* above 0"),
        ({"similarity": "l2"}, "similarity is 'l2'; choose 'dot'"),
    ],
)
def test_errors_say_what_came_and_what_was_wanted(change, message):
    features, labels, prototypes = problem()
    arguments = {"features": features, "labels": labels, "prototypes": prototypes, "temperature": 1.0} | change
    with pytest.raises(ValueError, match=message):
        prototype_contrast(**arguments)


def test_descending_brings_features_to_their_prototypes():
    """The term does what the slides' drawing shows: each step more pixels are nearest to their own prototype."""
    features, labels, prototypes = problem(N=2, D=16, H=6, W=6)
    losses = []
    for _ in range(4):
        features = features.detach().requires_grad_()
        loss = prototype_contrast(features, labels, prototypes, 0.1, "cosine")
        loss.backward()
        losses.append(loss.item())
        features = features - 10 * features.grad
    assert all(after < before for before, after in pairwise(losses))


def test_balanced_counts_classes_alike():
    """Mean over the labelled classes of the mean over each one's pixels; absent and ignored ones do not count."""
    generator = torch.Generator().manual_seed(3)
    F, p = torch.randn(2, 6, 4, 5, generator=generator), torch.randn(5, 6, generator=generator)
    y = torch.randint(0, 3, (2, 4, 5), generator=generator)  # classes 3 and 4 are absent
    y[0, :2], y[1, 0, :3] = 255, 2
    logits = torch.einsum("ndhw,cd->nchw", F / F.norm(dim=1, keepdim=True), p / p.norm(dim=1, keepdim=True)) / 0.1
    per_pixel = -logits.log_softmax(1)
    wanted = torch.stack([per_pixel[:, c][y == c].mean() for c in range(3)]).mean()
    found = prototype_contrast(F, y, p, 0.1, "cosine", balanced=True)
    close(found.item(), wanted.item(), rounding(10, torch.float32))
    assert far(found, prototype_contrast(F, y, p, 0.1, "cosine"), 1e-3)
    features = F.clone().requires_grad_()
    nothing = prototype_contrast(features, torch.full_like(y, 255), p, 0.1, "cosine", balanced=True)
    nothing.backward()
    assert nothing.item() == 0 and not features.grad.any()


def _balanced_part() -> dict:
    generator = torch.Generator().manual_seed(4)
    F, p = torch.randn(4, 6, 3, 3, generator=generator), torch.randn(5, 6, generator=generator)
    y = torch.randint(0, 5, (4, 3, 3), generator=generator)
    y[:2][y[:2] < 3] = 255  # unevenly labelled
    n = len(F) // ranks.count()
    mine = slice(ranks.rank() * n, (ranks.rank() + 1) * n)
    return {"loss": prototype_contrast(F[mine], y[mine], p, 0.1, "cosine", balanced=True)}


def test_balanced_of_two_processes_is_that_of_one(tmp_path):
    parts = together(_balanced_part, tmp_path)
    mean = sum(part["loss"] for part in parts) / 2
    close(mean.item(), _balanced_part()["loss"].item(), rounding(10, torch.float32))
