"""Labels of a coarse grid and the feature distance against loops; empty masks, equal features, several processes."""

import numpy as np
import pytest
import torch

from course_lib import ranks
from course_lib.losses import feature_distance, label_down
from tests.bounds import bound, close
from tests.processes import together

C = 5


def labels(height: int = 16, width: int = 24, seed: int = 0) -> torch.Tensor:
    """Blocks of 4 x 4 of one class, with some pixels of others and without a label."""
    generator = torch.Generator().manual_seed(seed)
    y = torch.randint(0, C, (2, height // 4, width // 4), generator=generator).repeat_interleave(4, 1).repeat_interleave(4, 2)
    noise = torch.randint(0, C, y.shape, generator=generator)
    y = torch.where(torch.rand(y.shape, generator=generator) < 0.25, noise, y)
    return y.masked_fill(torch.rand(y.shape, generator=generator) < 0.1, 255)


@pytest.mark.parametrize("ratio", [0.5, 0.75, 1.0])
def test_a_cell_has_the_class_that_covers_enough_of_it(ratio):
    y = labels()
    found = label_down(y, (4, 6), C, ratio)
    for n, i, j in np.ndindex(2, 4, 6):
        cell = y[n, 4 * i : 4 * i + 4, 4 * j : 4 * j + 4].flatten().tolist()
        share, best = max((cell.count(c) / 16, -c) for c in range(C))
        assert found[n, i, j] == (-best if share >= ratio else 255), (n, i, j)
    if ratio == 0.75:
        assert 0 < (found == 255).float().mean() < 1


def test_pixels_without_a_label_belong_to_no_class():
    y = torch.full((1, 4, 4), 2)
    y[0, 0] = 255
    assert label_down(y, (1, 1), C).item() == 2 and label_down(y, (1, 1), C, ratio=0.8).item() == 255
    assert label_down(torch.full((1, 4, 4), 255), (2, 2), C).eq(255).all()


def test_sizes_that_do_not_divide_and_the_meta_device():
    assert label_down(labels(16, 24), (3, 5), C).shape == (2, 3, 5)
    assert label_down(labels().to("meta"), (4, 6), C).shape == (2, 4, 6)


def test_it_is_the_mean_distance_of_the_masked_cells():
    generator = torch.Generator().manual_seed(0)
    F, F0 = (torch.randn(2, 7, 3, 4, generator=generator) for _ in range(2))
    mask = torch.rand(2, 3, 4, generator=generator) < 0.5
    cells = [(n, i, j) for n, i, j in np.ndindex(2, 3, 4) if mask[n, i, j]]
    gaps = ([(F[n, d, i, j] - F0[n, d, i, j]).double().item() for d in range(7)] for n, i, j in cells)
    wanted = np.mean([np.sqrt(sum(gap**2 for gap in cell)) for cell in gaps])
    close(feature_distance(F, F0, mask), wanted, bound(7 + len(cells) + 4, torch.float32, 2 * wanted))


def test_an_empty_mask_gives_0_and_equal_features_a_finite_gradient():
    F = torch.randn(1, 3, 2, 2, requires_grad=True)
    for frozen, mask in ((torch.zeros(1, 3, 2, 2), torch.zeros(1, 2, 2)), (F.detach().clone(), torch.ones(1, 2, 2))):
        loss = feature_distance(F, frozen, mask.bool())
        (gradient,) = torch.autograd.grad(loss, F)
        assert loss.item() == 0 and (gradient == 0).all()


def test_the_frozen_features_get_no_gradient():
    F, F0 = (torch.randn(1, 3, 2, 2, requires_grad=True) for _ in range(2))
    feature_distance(F, F0, torch.ones(1, 2, 2, dtype=torch.bool)).backward()
    assert F0.grad is None and F.grad is not None


def part() -> torch.Tensor:
    rank, count = ranks.rank(), ranks.count()
    generator = torch.Generator().manual_seed(0)
    F, F0 = (torch.randn(2, 7, 3, 4, generator=generator) for _ in range(2))
    mask = torch.rand(2, 3, 4, generator=generator) < 0.5
    mask[1] &= torch.arange(4) == 0  # uneven between the pictures
    own = slice(rank * 2 // count, (rank + 1) * 2 // count)
    return feature_distance(F[own], F0[own], mask[own])


def test_two_processes_give_the_mean_of_the_whole_batch(tmp_path):
    close(sum(together(part, tmp_path)) / 2, part(), bound(40, torch.float32, 2 * part()))


def test_errors_say_what_came_and_what_was_wanted():
    with pytest.raises(ValueError, match=r"label_down got labels \(2, 3\) of torch.int64; it wants train ids \(N, H, W\)"):
        label_down(torch.zeros(2, 3, dtype=torch.int64), (1, 1), C)
    with pytest.raises(ValueError, match="ratio=0; it wants a share above 0"):
        label_down(labels(), (1, 1), C, ratio=0)
    with pytest.raises(ValueError, match=r"features \(1, 3, 2, 2\) and \(1, 3, 2, 3\) and a mask \(1, 2, 2\)"):
        feature_distance(torch.zeros(1, 3, 2, 2), torch.zeros(1, 3, 2, 3), torch.ones(1, 2, 2))
