"""Dynamic and hybrid labels: the nearest prototype by loops over pixels, calibration, edges of the threshold, fusion."""

import math
import re

import pytest
import torch
from torch.nn import functional as F

from course_lib.losses.prototype import labels_at
from course_lib.pseudo_labels import calibrate, density_accuracy, dynamic_labels, hybrid_labels, labels_from
from tests.bounds import bound, close
from tests.oracles import pseudo_labels as oracle

C, D = 6, 4
DIVISION = bound(1, torch.float32)
MEANS = bound(60, torch.float64, 5.0)  # means of 20 numbers below 5, added and subtracted


def drawn(*shape, seed: int = 0, dtype=torch.float64) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def problem(dtype=torch.float64):
    """(f, rho): two maps of 5x7 places and six prototypes."""
    return drawn(2, D, 5, 7, dtype=dtype), drawn(C, D, seed=1, dtype=dtype)


# ---- calibration ----------------------------------------------------------------------------------------------------


def test_prototypes_move_by_the_domain_bias():
    rho, mu_S, mu_T = (drawn(C, D, seed=k) for k in range(3))
    found = calibrate(rho, mu_S, mu_T)
    wanted = [[rho[c, d] + (mu_T[c, d] - mu_S[c, d]) for d in range(D)] for c in range(C)]
    assert torch.equal(found, torch.tensor(wanted, dtype=torch.float64)) and not torch.equal(found, rho)


def test_without_a_bias_calibrated_prototypes_are_the_plain_ones():
    f, rho = problem()
    mu = drawn(C, D, seed=2)
    assert torch.equal(calibrate(rho, mu, mu), rho)
    assert torch.equal(dynamic_labels(f, calibrate(rho, mu, mu), 0.5), dynamic_labels(f, rho, 0.5))


def test_a_shift_of_every_class_is_taken_back_exactly():
    """The target is the source moved by d_c, class by class, and the averages know both: prototypes land on its means."""
    labels = torch.arange(C).repeat(20)
    source, shift = drawn(len(labels), D), drawn(C, D, seed=1)
    target = source + shift[labels]
    mu_S, mu_T = (torch.stack([f[labels == c].mean(0) for c in range(C)]) for f in (source, target))
    close(calibrate(mu_S, mu_S, mu_T), mu_T, MEANS)
    batch = torch.stack([source[labels == c][:3].mean(0) for c in range(C)])  # of three features each: moved likewise
    close(calibrate(batch, mu_S, mu_T), batch + shift, MEANS)


def test_calibration_labels_what_the_bias_hid():
    """Both classes of the target are turned by a quarter: without the bias every label is the other class."""
    rho = torch.eye(2)
    target = torch.tensor([[0.0, 1.0], [-1.0, 0.0]])  # of class 0 and of class 1
    assert dynamic_labels(target, rho, 0.9).tolist() == [1, 255]
    assert dynamic_labels(target, calibrate(rho, rho, target), 0.9).tolist() == [0, 1]


def test_classes_without_both_averages_stay_where_they_are():
    rho, mu_S, mu_T = (drawn(C, D, seed=k) for k in range(3))
    mu_T[1], mu_S[4] = 0, math.nan
    known = torch.tensor([True, False, True, True, False, True])
    found = calibrate(rho, mu_S, mu_T, known)
    assert torch.equal(found[~known], rho[~known]) and torch.equal(found[known], calibrate(rho, mu_S, mu_T)[known])


def test_calibration_wants_three_of_one_shape():
    with pytest.raises(ValueError, match=r"prototypes \(6, 4\), \(6, 4\) and \(5, 4\); it wants three of \(C, D\)"):
        calibrate(drawn(6, 4), drawn(6, 4), drawn(5, 4))


# ---- dynamic labels -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("threshold", [-1.0, -0.2, 0.5, 0.8])
def test_equal_the_loop_over_places(threshold):
    f, rho = problem()
    found = dynamic_labels(f, rho, threshold)
    assert found.tolist() == oracle.dynamic_labels(f.tolist(), rho.tolist(), threshold)
    assert found.dtype == torch.int64 and found.shape == (2, 5, 7) and len(found.unique()) > 3
    assert (found == 255).any() == (threshold > 0)


def test_vectors_are_labelled_like_the_places_of_a_map():
    f, rho = problem()
    assert torch.equal(dynamic_labels(f.movedim(1, -1).reshape(-1, D), rho, 0.5), dynamic_labels(f, rho, 0.5).flatten())


def test_the_largest_cosine_comes_with_its_class():
    f, rho = problem()
    s, c = labels_from(f, rho)
    cosines = F.cosine_similarity(f[:, None], rho[None, :, :, None, None], dim=2)
    close(s, cosines.amax(1), bound(3 * D + 10, torch.float64))
    assert torch.equal(c, cosines.argmax(1))


def test_lengths_do_not_matter():
    f, rho = problem()
    longer = rho * torch.logspace(-3, 3, C, dtype=torch.float64)[:, None]
    assert torch.equal(dynamic_labels(f * drawn(2, 1, 5, 7, seed=3).exp(), longer, 0.5), dynamic_labels(f, rho, 0.5))


def test_a_cosine_of_exactly_the_threshold_is_not_enough():
    f, rho = torch.tensor([[3.0, 4.0], [4.0, 3.0]]), torch.tensor([[1.0, 0.0]])
    assert dynamic_labels(f, rho, threshold=labels_from(f, rho)[0][0].item()).tolist() == [255, 0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_threshold_1_labels_nothing(dtype):
    """Not even prototypes themselves, whose cosine comes out as 1.0000001 now and then."""
    rho = drawn(200, 7, dtype=dtype)
    found = dynamic_labels(3 * rho, rho, 1.0)
    assert (found == 255).all() and torch.equal(dynamic_labels(3 * rho, rho, 0.999), torch.arange(200))


def test_threshold_minus_1_labels_everything_but_the_opposite():
    f = torch.tensor([[-2.0, 0.0], [-2.0, 0.1], [0.0, 5.0]])
    assert dynamic_labels(f, torch.tensor([[1.0, 0.0]]), -1.0).tolist() == [255, 0, 0]


def test_classes_that_are_not_there_give_no_label():
    f, rho = problem()
    there = torch.tensor([True, False, True, True, False, True])
    found = dynamic_labels(f, rho, -1.0, there)
    wanted = [row if kept else None for row, kept in zip(rho.tolist(), there.tolist(), strict=True)]
    assert found.tolist() == oracle.dynamic_labels(f.tolist(), wanted, -1.0)
    assert {1, 4} <= set(dynamic_labels(f, rho, -1.0).unique().tolist()) and not {1, 4} & set(found.unique().tolist())


def test_without_any_prototype_there_is_no_label():
    f, rho = problem()
    for found in (dynamic_labels(f, rho, -1.0, torch.zeros(C, dtype=torch.bool)), dynamic_labels(f, 0 * rho, -1.0)):
        assert (found == 255).all() and found.dtype == torch.int64


def test_what_has_no_direction_is_nobodys_nearest():
    """All cosines are negative: a prototype of length 0 would win with 0, a feature of length 0 would have one."""
    rho = torch.tensor([[1.0, 0.0], [0.0, 0.0], [0.0, 1.0]])
    f = torch.tensor([[-1.0, -2.0], [0.0, 0.0]])
    assert dynamic_labels(f, rho, -0.9).tolist() == [0, 255]
    assert dynamic_labels(f, rho, -2.0).tolist() == [0, 255] and labels_from(f, rho)[0][1] == -math.inf


def test_features_that_are_not_finite_have_no_label():
    f = torch.tensor([[math.nan, 1.0], [math.inf, 1.0], [1.0, 0.0]])
    assert dynamic_labels(f, torch.eye(2), -1.0).tolist() == [255, 255, 0]


def test_labels_have_no_gradient():
    f, rho = problem()
    s, c = labels_from(f.requires_grad_(), rho.requires_grad_())
    assert not s.requires_grad and not c.requires_grad and not dynamic_labels(f, rho, 0.5).requires_grad


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_half_precision_and_autocast_are_compared_in_float32(dtype):
    f, rho = problem(dtype)
    wanted = dynamic_labels(f.float(), rho.float(), 0.5)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(dynamic_labels(f, rho, 0.5), wanted)
        s, _ = labels_from(f, rho)
    assert s.dtype == torch.float32 and torch.equal(s, labels_from(f.float(), rho.float())[0])


def test_prototypes_of_another_precision_are_taken():
    f, rho = problem()
    assert torch.equal(dynamic_labels(f.float(), rho, 0.5), dynamic_labels(f, rho.float(), 0.5))


@pytest.mark.parametrize("f, rho", [((2, 4, 5, 7), (6, 3)), ((2, 4, 5), (6, 4)), ((2, 4), (1, 6, 4)), ((4,), (6, 4))])
def test_errors_say_what_came_and_what_was_wanted(f, rho):
    came = f"features {re.escape(str(f))} and prototypes {re.escape(str(rho))}"
    with pytest.raises(ValueError, match=rf"{came}; it wants .*\(C, D\) with the same D"):
        dynamic_labels(torch.zeros(f), torch.zeros(rho), 0.5)


# ---- hybrid labels --------------------------------------------------------------------------------------------------


def maps(h=6, w=8, seed=0, N=2):
    """(y_D, y_F), about a third of each 255."""
    generator = torch.Generator().manual_seed(seed)
    y = torch.randint(0, C, (2, N, h, w), generator=generator)
    return torch.where(torch.rand(y.shape, generator=generator) < 0.35, 255, y).unbind()


def test_the_dynamic_label_comes_first_and_the_static_one_fills_its_gaps():
    y_D, y_F = maps()
    found = hybrid_labels(y_D, y_F)
    wanted = [d if d != 255 else f for d, f in zip(y_D.flatten().tolist(), y_F.flatten().tolist(), strict=True)]
    assert found.flatten().tolist() == wanted and found.dtype == torch.int64
    assert ((y_D != 255) & (y_F != 255) & (y_D != y_F)).any()  # the two do disagree


def test_swapped_arguments_give_the_static_label_priority():
    """The order that a comment of the released code has: no static label is ever changed."""
    y_D, y_F = maps()
    static_first = hybrid_labels(y_F, y_D)
    assert torch.equal(static_first[y_F != 255], y_F[y_F != 255])
    assert torch.equal(static_first[y_F == 255], y_D[y_F == 255])
    assert not torch.equal(static_first, hybrid_labels(y_D, y_F))


@pytest.mark.parametrize("seed", range(10))
def test_density_lies_between_that_of_the_denser_and_the_sum(seed):
    y_D, y_F = maps(seed=seed)
    d_D, d_F, d_hybrid = ((y != 255).double().mean().item() for y in (y_D, y_F, hybrid_labels(y_D, y_F)))
    assert max(d_F, d_D) < d_hybrid < d_F + d_D  # neither contains the other, and they overlap
    assert (hybrid_labels(y_F, y_D) != 255).double().mean().item() == d_hybrid


def test_bytes_are_labels_too():
    y_D, y_F = maps()
    found = hybrid_labels(y_D.byte(), y_F.byte())
    assert torch.equal(found, hybrid_labels(y_D, y_F)) and found.dtype == torch.int64


@pytest.mark.parametrize("size", [(6, 8), (12, 16), (13, 16), (17, 23), (6, 9), (50, 8), (92, 183)])
def test_a_coarse_map_is_spread_as_torchs_nearest_upsampling(size):
    y_D, _ = maps()
    wanted = F.interpolate(y_D[:, None].double(), size=size, mode="nearest")[:, 0].long()
    nothing = torch.full((2, *size), 255)
    assert torch.equal(hybrid_labels(y_D, nothing), wanted) and torch.equal(labels_at(y_D, size), wanted)
    y_F = maps(*size, seed=5)[1]
    assert torch.equal(hybrid_labels(y_D, y_F), torch.where(wanted != 255, wanted, y_F))


@pytest.mark.parametrize(
    "dynamic, static",
    [((2, 6, 8), (2, 5, 8)), ((2, 6, 8), (2, 12, 7)), ((1, 6, 8), (2, 12, 16)), ((6, 8), (12, 16)), ((2, 4, 6, 8), (2, 6, 8))],
)
def test_maps_that_do_not_fit_are_refused(dynamic, static):
    came = f"maps {re.escape(str(dynamic))} and {re.escape(str(static))}"
    with pytest.raises(ValueError, match=rf"{came}; it wants one shape, or \(N, h, w\) with a larger \(N, H, W\)"):
        hybrid_labels(torch.zeros(dynamic).long(), torch.zeros(static).long())


# ---- what they are worth --------------------------------------------------------------------------------------------


def test_density_and_accuracy_of_the_kinds_by_hand():
    """Sixteen pixels, two of them void in the truth; y_D on a 2x2 grid says one label for four pixels."""
    truth = torch.tensor([[[0, 0, 1, 1], [0, 0, 1, 255], [2, 2, 1, 1], [2, 255, 0, 0]]])
    y_F = torch.tensor([[[0, 255, 1, 255], [255, 1, 255, 1], [2, 255, 1, 255], [255, 2, 255, 0]]])
    y_D = torch.tensor([[[0, 255], [2, 1]]])
    nothing = torch.full_like(truth, 255)
    close(density_accuracy(y_F, truth), (6 / 16, 5 / 6), DIVISION)  # 8 labels, 2 on void; the 1 on class 0 is wrong
    # 12 labels, 1 of them on void; two of the 1s lie on class 0
    close(density_accuracy(hybrid_labels(y_D, nothing), truth), (11 / 16, 9 / 11), DIVISION)
    # of y_F's own only (0, 2) and the void (1, 3) are left, the wrong 1 is overruled, and so is the right 0 at (3, 3)
    close(density_accuracy(hybrid_labels(y_D, y_F), truth), (12 / 16, 10 / 12), DIVISION)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_prototypes_are_calibrated_in_float32(dtype):
    """1000 + (1000.0 - 999.5): the sum of the rounded shift would be 1000 or 1004 in bfloat16."""
    rho_S, mu_S, mu_T = (torch.tensor([[value]], dtype=dtype) for value in (1000.0, 0.25, 0.5))
    moved = calibrate(rho_S, mu_S, mu_T)
    assert moved.dtype == torch.float32 and moved.item() == 1000.25
