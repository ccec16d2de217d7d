"""BiDA's contrast: the released function's numbers, the full-resolution form by loops, what counts, and two processes."""

import math

import pytest
import torch
from torch.nn import functional as F

from course_lib import ranks
from course_lib.losses import bidirectional_contrast
from course_lib.losses.bidirectional import batch_prototypes, label_histogram
from tests.bounds import bound, close, near, printed, stated
from tests.oracles import bidirectional as oracle
from tests.processes import together

C = 5


def rounding(dtype):
    """Of a loss: the sum over up to 24 cells and 5 channels of a prototype, the lengths, the cosine, softmax over 5 classes and
    the weighted mean over 120 numbers are about 100 roundings; a cosine of size 1 counts 1 / tau = 10 times in two places,
    and the losses are below 5."""
    return bound(100, dtype, 2 * 10 + 5)


ROUNDING = rounding(torch.float64)


def problem(N=2, D=4, h=3, w=4, H=7, W=11, dtype=torch.float64):
    """(f_s, y_s, f_t, y_t): class 3 is in the source alone, 4 in the target alone; target picture 0 has few labels."""
    generator = torch.Generator().manual_seed(0)
    f_s, f_t = (torch.randn(N, D, h, w, generator=generator, dtype=torch.float64).to(dtype) for _ in range(2))
    y_s, y_t = (torch.randint(0, 4, (N, H, W), generator=generator) for _ in range(2))
    y_t[y_t == 3] = 4
    y_t[0, 2:] = 255
    y_s[-1, 0, 0] = 255
    return f_s, y_s, f_t, y_t


def with_gradient(parts):
    f_s, y_s, f_t, y_t = parts
    return f_s.clone().requires_grad_(), y_s, f_t.clone().requires_grad_(), y_t


def values(parts, **options):
    return tuple(loss.item() for loss in bidirectional_contrast(*parts, C, **options))


# ---- the value ------------------------------------------------------------------------------------------------------


def golden():
    """papers/bida.md, B3: what the released function was run on, in float32; 4 or 5 of the 6 decimals it printed hold."""
    k = torch.arange(64, dtype=torch.float32)
    i, j = torch.meshgrid(torch.arange(8), torch.arange(8), indexing="ij")
    y_s, y_t = (i // 2 + j // 2) % 3, (i // 4 + j // 2) % 4
    y_t[:2] = 255
    return torch.sin(k).view(1, 4, 4, 4), y_s[None], torch.cos(1.3 * k).view(1, 4, 4, 4), y_t[None]


@pytest.mark.parametrize(
    "direction, loss, of_source, of_target",
    [("forward", "1.35103", "5.49904", "0.24067"), ("backward", "5.29309", "2.25484", "4.5368")],
)
def test_equals_the_released_function(direction, loss, of_source, of_target):
    f_s, y_s, f_t, y_t = parts = with_gradient([x.double() if x.is_floating_point() else x for x in golden()])
    value = getattr(bidirectional_contrast(*parts, 19, pairwise=True), direction)
    gradients = torch.autograd.grad(value, (f_s, f_t))
    close(value, *printed(loss))
    close(gradients[0].norm(), *printed(of_source))
    close(gradients[1].norm(), *printed(of_target))


@pytest.mark.parametrize("pairwise", [True, False])
@pytest.mark.parametrize("overlap_only", [True, False])
@pytest.mark.parametrize("size", [(3, 4), (7, 11), (6, 8)])
def test_the_histogram_gives_the_full_resolution_form(size, overlap_only, pairwise):
    parts = problem(H=size[0], W=size[1])
    options = {"temperature": 0.3, "overlap_only": overlap_only, "pairwise": pairwise}
    wanted = oracle.contrast(*(x.numpy() for x in parts), C, **options)
    close(values(parts, **options), wanted, ROUNDING)
    assert min(wanted) > 0.5  # neither direction is empty


def test_one_pair_is_the_same_pooled_or_pairwise_and_two_are_not():
    one, two = problem(N=1), problem(N=2)
    close(values(one, pairwise=True), values(one, pairwise=False), ROUNDING)
    for a, b in zip(values(two, pairwise=True), values(two, pairwise=False)):
        assert abs(a - b) > 1e-2


def test_features_that_say_nothing_cost_log_of_the_classes_there():
    f_s, y_s, f_t, y_t = problem()
    same = torch.ones_like(f_s)
    absent = stated(math.exp(-20), "the absent class has the cosine -1, and with it a share of e^-20 / 4")
    close(values((same, y_s, same, y_t)), (math.log(4), math.log(4)), absent + ROUNDING)


def test_the_names_say_who_looks_for_whose_prototypes():
    """Target features that lie on the source's prototypes make the forward term small, not the backward one."""
    f_s, y_s, f_t, y_t = problem(H=3, W=4)
    rho, there = batch_prototypes(f_s.flatten(2), y_s.flatten(1), C)
    at_home = rho[y_t.clamp(max=C - 1)].movedim(-1, 1)
    loss = bidirectional_contrast(f_s, y_s, at_home, y_t, C, temperature=0.01)
    assert 1000 * loss.forward < 1 < loss.backward and there.tolist() == [True] * 4 + [False]


# ---- the histogram --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("grid, size", [((3, 4), (6, 8)), ((3, 4), (7, 11)), ((5, 5), (5, 5)), ((1, 1), (4, 3))])
def test_label_histogram_counts_the_pixels_under_each_cell(grid, size):
    labels = torch.randint(0, C + 1, (2, *size), generator=torch.Generator().manual_seed(3))
    labels[labels == C] = 255
    labels[0, 0, 0], labels[1, -1, -1] = -1, C  # no class either
    places = torch.arange(grid[0] * grid[1]).view(1, 1, *grid)
    cell = F.interpolate(places.double(), size=size, mode="nearest")[0, 0].long()
    n = label_histogram(labels, grid, C)
    assert n.dtype == torch.int64 and n.shape == (2, C, *grid)
    for k in range(2):
        for c in range(C):
            for p in range(grid[0] * grid[1]):
                assert n[k, c].flatten()[p] == ((cell == p) & (labels[k] == c)).sum()


def test_labels_at_a_multiple_of_the_grid_count_as_often():
    f_s, y_s, f_t, y_t = problem(H=3, W=4)
    large = [y.repeat_interleave(5, 1).repeat_interleave(3, 2) for y in (y_s, y_t)]
    assert torch.equal(label_histogram(large[0], (3, 4), C), 15 * label_histogram(y_s, (3, 4), C))
    close(values((f_s, large[0], f_t, large[1])), values((f_s, y_s, f_t, y_t)), ROUNDING)


# ---- what does not count --------------------------------------------------------------------------------------------


def nothing(parts, **options):
    """Whether both losses are exactly 0 with zero gradient."""
    f_s, _, f_t, _ = parts = with_gradient(parts)
    loss = bidirectional_contrast(*parts, C, **options)
    sum(loss).backward()
    return [x.item() for x in loss] == [0.0, 0.0] and not f_s.grad.any() and not f_t.grad.any()


@pytest.mark.parametrize("pairwise", [True, False])
def test_no_common_class_is_zero_with_zero_gradient(pairwise):
    """The released code divides 0 by 0 here."""
    f_s, y_s, f_t, y_t = problem()
    assert nothing((f_s, y_s % 2, f_t, 2 + y_t % 2), pairwise=pairwise)
    assert not nothing(problem(), pairwise=pairwise)


@pytest.mark.parametrize("pairwise", [True, False])
@pytest.mark.parametrize("overlap_only", [True, False])
def test_all_ignored_is_zero_with_zero_gradient(pairwise, overlap_only):
    f_s, y_s, f_t, y_t = problem()
    none = torch.full_like(y_s, 255)
    assert nothing((f_s, none, f_t, none), pairwise=pairwise, overlap_only=overlap_only)
    assert nothing((f_s, y_s, f_t, none), pairwise=pairwise)
    alone = bidirectional_contrast(*with_gradient((f_s, y_s, f_t, none)), C, overlap_only=overlap_only)
    assert alone.forward == 0 and alone.backward.isfinite()


def test_overlap_only_leaves_out_the_classes_of_one_domain():
    """Class 4 is the target's alone: a pixel of it finds no source prototype, and is only pushed away from the others."""
    f_s, y_s, f_t, y_t = problem()
    common, everything = values(problem()), values(problem(), overlap_only=False)
    other = torch.where(y_t == 4, 255, y_t)
    close(values((f_s, y_s, f_t, other))[0], common[0], ROUNDING)  # it did not count
    close(values((f_s, y_s, f_t, other), overlap_only=False)[0], common[0], ROUNDING)
    assert everything[0] > common[0] + 1
    alone = torch.where(y_t == 4, 4, 255)
    assert values((f_s, y_s, f_t, alone), overlap_only=False)[0] > 10  # 1 / tau, and what the others have
    assert values((f_s, y_s, f_t, alone))[0] == 0


def test_ignored_pixels_have_no_gradient_where_they_fill_a_cell():
    f_s, y_s, f_t, y_t = parts = with_gradient(problem(H=6, W=8))
    sum(bidirectional_contrast(*parts, C)).backward()
    empty = label_histogram(y_t, (3, 4), C).sum(1) == 0
    assert empty.any() and not f_t.grad.movedim(1, -1)[empty].any()
    assert f_t.grad.movedim(1, -1)[~empty].abs().amax(-1).min() > 0


# ---- classes alike --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pairwise", [True, False])
@pytest.mark.parametrize("overlap_only", [True, False])
@pytest.mark.parametrize("size", [(3, 4), (7, 11)])
def test_balanced_is_the_mean_over_classes_of_each_ones_mean(size, overlap_only, pairwise):
    parts = problem(H=size[0], W=size[1])
    options = {"temperature": 0.3, "overlap_only": overlap_only, "pairwise": pairwise, "balanced": True}
    wanted = oracle.contrast(*(x.numpy() for x in parts), C, **options)
    close(values(parts, **options), wanted, ROUNDING)
    for a, b in zip(wanted, values(parts, **options | {"balanced": False})):
        assert abs(a - b) > 1e-4


def test_balanced_does_not_hear_who_has_more_pixels():
    """The picture twice beside itself, the second time without class 0: prototypes and means of each class stay."""
    f_s, y_s, f_t, y_t = problem(H=3, W=4)
    wide = [torch.cat([f, f], dim=3) for f in (f_s, f_t)]
    more = [torch.cat([y, torch.where(y == 0, 255, y)], dim=2) for y in (y_s, y_t)]
    doubled = (wide[0], more[0], wide[1], more[1])
    close(values(doubled, balanced=True), values(problem(H=3, W=4), balanced=True), ROUNDING)
    for a, b in zip(values(doubled), values(problem(H=3, W=4))):
        assert abs(a - b) > 1e-2


def test_balanced_is_the_mean_over_pixels_where_classes_have_as_many():
    f_s, _, f_t, _ = problem(H=4, W=3)
    labels = torch.arange(12).view(1, 3, 4).expand(2, 3, 4)
    even = (f_s, labels % 4, f_t, labels // 3)
    assert near(values(even, balanced=True), values(even), ROUNDING) and min(values(even)) > 0.5


@pytest.mark.parametrize("pairwise", [True, False])
def test_balanced_with_nothing_counted_is_zero_with_zero_gradient(pairwise):
    f_s, y_s, f_t, y_t = problem()
    none = torch.full_like(y_s, 255)
    options = {"pairwise": pairwise, "balanced": True}
    assert nothing((f_s, y_s, f_t, none), **options) and nothing((f_s, y_s % 2, f_t, 2 + y_t % 2), **options)
    assert nothing((f_s, none, f_t, none), overlap_only=False, **options)


# ---- the gradient ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("through", [True, False])
@pytest.mark.parametrize("pairwise", [True, False])
def test_gradient_reaches_the_other_domain_through_its_prototypes_alone(through, pairwise):
    f_s, y_s, f_t, y_t = parts = with_gradient(problem())
    own = bidirectional_contrast(*parts, C, 0.5, through_prototypes=through, pairwise=pairwise)
    of_source, of_target = torch.autograd.grad(own.forward, (f_s, f_t), allow_unused=True, retain_graph=True)
    assert of_target.any() and (of_source is not None and bool(of_source.any())) == through
    of_source, of_target = torch.autograd.grad(own.backward, (f_s, f_t), allow_unused=True)
    assert of_source.any() and (of_target is not None and bool(of_target.any())) == through


def test_prototypes_as_constants_change_no_value():
    assert values(problem(), through_prototypes=False) == values(problem())


def test_a_feature_of_length_zero_has_no_direction():
    f_s, y_s, f_t, y_t = parts = with_gradient(problem())
    with torch.no_grad():
        f_t[1, :, 0, 0] = 0
    loss = bidirectional_contrast(*parts, C)
    sum(loss).backward()
    assert all(x.isfinite() for x in loss) and f_t.grad.isfinite().all() and f_s.grad.isfinite().all()


# ---- errors ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes, options, message",
    [
        ({}, {"temperature": 0.0}, "temperature is 0.0; .* above 0"),
        ({}, {"temperature": math.nan}, "temperature is nan"),
        ({1: torch.zeros(3, 7, 11).long()}, {}, r"source features \(2, 4, 3, 4\) and labels \(3, 7, 11\).*the same N"),
        ({3: torch.zeros(2, C, 7, 11).long()}, {}, r"target features .* and labels \(2, 5, 7, 11\).*not one-hot"),
        ({3: torch.zeros(2, 7, 3).long()}, {}, r"target labels are \(7, 3\), smaller than the features' \(3, 4\)"),
        ({2: torch.zeros(2, 9, 3, 4)}, {}, "Source features have 4 channels, target features 9"),
        ({2: torch.zeros(1, 4, 3, 4), 3: torch.zeros(1, 7, 11).long()}, {"pairwise": True}, "got 2 and 1 pictures.*=False"),
    ],
)
def test_errors_say_what_came_and_what_was_wanted(changes, options, message):
    parts = list(problem())
    for place, value in changes.items():
        parts[place] = value
    with pytest.raises(ValueError, match=message):
        bidirectional_contrast(*parts, C, **options)


def test_unequal_numbers_of_pictures_are_pooled():
    f_s, y_s, f_t, y_t = problem()
    wanted = oracle.contrast(*(x.numpy() for x in (f_s, y_s, f_t[1:], y_t[1:])), C, 0.1)
    close(values((f_s, y_s, f_t[1:], y_t[1:])), wanted, ROUNDING)


# ---- two processes --------------------------------------------------------------------------------------------------


def run(part: slice, **options) -> dict:
    f_s, y_s, f_t, y_t = with_gradient(tuple(x[part] for x in problem(N=4)))
    loss = bidirectional_contrast(f_s, y_s, f_t, y_t, C, **options)
    sum(loss).backward()
    return {"values": [x.item() for x in loss], "gradient": torch.stack([f_s.grad, f_t.grad])}


SHARED = {
    "constant": {"through_prototypes": False},
    "released": {},
    "pairwise": {"pairwise": True},
    "balanced": {"through_prototypes": False, "balanced": True},
    "balanced, all classes": {"through_prototypes": False, "balanced": True, "overlap_only": False},
    "balanced, pairwise": {"pairwise": True, "balanced": True},
}


def work() -> dict:
    part = slice(2 * ranks.rank(), 2 * ranks.rank() + 2)
    return {name: run(part, **options) for name, options in SHARED.items()}


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    return together(work, tmp_path_factory.mktemp("ranks"))


@pytest.mark.parametrize("name", SHARED)
def test_two_processes_have_the_loss_of_one(results, name):
    whole, parts = run(slice(None), **SHARED[name]), [result[name] for result in results]
    mean = torch.tensor([part["values"] for part in parts]).mean(0)
    close(mean.tolist(), whole["values"], rounding(torch.float32))
    assert abs(parts[0]["values"][0] - parts[1]["values"][0]) > 0.1
    gradient = torch.cat([part["gradient"] for part in parts], dim=1) / 2
    if name == "released":  # gradient through rho stops at the process's own features
        assert (gradient - whole["gradient"]).abs().max() > 1e-3
    else:
        close(gradient, whole["gradient"], bound(100, torch.float32, whole["gradient"].abs().max()))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_prototypes_of_half_precision_are_summed_in_float32(dtype):
    """4000 cells of 20: float16 holds no such sum, and bfloat16's stops growing."""
    f = torch.full((1, 1, 4000), 20.0, dtype=dtype)
    rho, _ = batch_prototypes(f, torch.zeros(1, 4000, dtype=torch.int64), 1)
    assert rho.dtype == torch.float32 and rho.item() == 20.0
