"""DepthMix's masks against loops: what is nearer wins, the tie, both masks of a pair, unknown pixels."""

import numpy as np
import pytest
import torch

from course_lib.mixing import depth_mask, scaled
from tests.oracles import mixing as oracle

TIE = 0.03


def disparities(seed: int, n: int = 4, h: int = 6, w: int = 8, unknown: float = 0.1) -> torch.Tensor:
    """Of pictures whose ranges differ; in float64, so that no rounding decides."""
    generator = torch.Generator().manual_seed(seed)
    D, missing = torch.rand(2, n, h, w, generator=generator, dtype=torch.float64)
    D = D * torch.linspace(0.2, 0.9, n, dtype=torch.float64).view(n, 1, 1)
    return torch.where(missing < unknown, -1.0, D)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("tie", [0.0, TIE, 0.5])
def test_it_equals_the_loop(seed, tie):
    a, b = disparities(seed), disparities(seed + 10)
    found = depth_mask(a, b, tie)
    assert found.dtype == torch.bool and np.array_equal(found.numpy(), oracle.depth_mask(a.numpy(), b.numpy(), tie))
    assert found.any() and not found.all()


def test_the_nearer_pixel_wins_at_the_tie_the_pasted_one():
    """Both pictures from 0 to 1, so that shares are the numbers themselves."""
    pasted = torch.tensor([[[0.0, 1.0, 0.50, 0.50, 0.50, 0.50]]], dtype=torch.float64)
    under = torch.tensor([[[1.0, 0.0, 0.40, 0.52, 0.54, 0.90]]], dtype=torch.float64)
    assert depth_mask(pasted, under).tolist() == [[[False, True, True, True, False, False]]]
    assert depth_mask(pasted, under, 0.0).tolist() == [[[False, True, True, False, False, False]]]


@pytest.mark.parametrize("tie", [0.0, TIE])
def test_both_masks_of_a_pair_cover_every_pixel_and_overlap_at_ties_alone(tie):
    a, b = disparities(1, unknown=0.0), disparities(2, unknown=0.0)
    M_ab, M_ba = depth_mask(a, b, tie), depth_mask(b, a, tie)
    assert (M_ab | M_ba).all()
    ties = (scaled(a) - scaled(b)).abs() <= tie
    assert torch.equal(M_ab & M_ba, ties) and ties.any() == (tie > 0)


def test_units_do_not_matter():
    a, b = disparities(3), disparities(4)
    times = torch.where(a < 0, a, 3 * a + 1)
    assert torch.equal(depth_mask(times, b), depth_mask(a, b))


def test_unknown_is_as_far_as_the_farthest_and_has_no_part_in_the_scale():
    D = torch.tensor([[[-1.0, 0.2, 0.4, 0.6]]])
    assert scaled(D).tolist() == [[[0.0, 0.0, pytest.approx(0.5), 1.0]]]
    nothing, flat = torch.full((1, 1, 4), -1.0), torch.full((1, 1, 4), 0.3)
    for empty in (nothing, flat):
        assert scaled(empty).tolist() == [[[0.0] * 4]]
    assert depth_mask(nothing, D).tolist() == [[[True, True, False, False]]] and depth_mask(D, nothing).all()


def test_shapes_are_looked_at():
    with pytest.raises(ValueError, match=r"disparities \(2, 6, 8\) and \(3, 6, 8\); it wants \(N, H, W\), both of one shape"):
        depth_mask(torch.zeros(2, 6, 8), torch.zeros(3, 6, 8))


def test_it_needs_no_values():
    assert depth_mask(*torch.empty(2, 3, 4, 5, device="meta")).shape == (3, 4, 5)
