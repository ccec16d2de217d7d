"""Masks against loops over pixels, their kept share, schedules at their ends."""

import re
from dataclasses import replace

import numpy as np
import pytest
import torch

from course_lib import ranks
from course_lib.masks import MaskSettings, block_mask, decay, warm_up
from tests.bounds import bound, close


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("size, cell, grid", [((8, 12), 4, (2, 3)), ((9, 13), 4, (3, 4)), ((3, 5), 8, (1, 1))])
def test_cells_equal_the_loop_over_pixels(size, cell, grid):
    u = torch.rand(5, *grid, generator=seeded())
    found = block_mask(5, size, cell, 0.6, generator=seeded())
    assert found.shape == (5, *size) and found.dtype == torch.bool
    for n, i, j in np.ndindex(*found.shape):
        assert found[n, i, j] == (u[n, i // cell, j // cell] > 0.6)


@pytest.mark.parametrize("hidden", [0.0, 0.3, 0.7, 1.0])
def test_the_kept_share_tends_to_one_less_the_hidden(hidden):
    kept = block_mask(20, (80, 80), 2, hidden, generator=seeded()).double().mean().item()
    assert abs(kept - (1 - hidden)) <= 5 * (hidden * (1 - hidden) / (20 * 40 * 40)) ** 0.5  # 32,000 independent cells


def test_two_processes_hide_what_one_would(monkeypatch):
    whole, parts = block_mask(4, (8, 8), 2, 0.5, generator=seeded()), []
    monkeypatch.setattr(ranks, "count", lambda: 2)
    for r in (0, 1):
        monkeypatch.setattr(ranks, "rank", lambda r=r: r)
        parts.append(block_mask(2, (8, 8), 2, 0.5, generator=seeded()))
    assert torch.equal(torch.cat(parts), whole)


def test_the_gradient_reaches_the_logits_of_hidden_pixels_and_the_device_is_not_asked():
    M = block_mask(1, (8, 8), 4, 0.5, generator=seeded())
    image = torch.ones(1, 3, 8, 8, requires_grad=True)
    logits = torch.nn.functional.conv2d(image * M[:, None], torch.ones(2, 3, 3, 3), padding=1)
    logits.retain_grad()
    logits.sum().backward()
    assert not M.all() and (logits.grad != 0).all() and torch.equal(image.grad[0, 0] != 0, M[0])
    assert block_mask(2, (5, 7), 2, 0.5, "meta", seeded()).shape == (2, 5, 7)


def test_schedules_are_linear_and_stay_at_their_ends():
    assert [warm_up(t, 10) for t in (0, 10, 25)] == [0, 1, 1] and [decay(t, 10) for t in (0, 10, 25)] == [1, 0, 0]
    close([warm_up(t, 10) + decay(t, 10) for t in range(11)], [1.0] * 11, bound(3, torch.float64))
    close([warm_up(t, 8) for t in range(8)], [t / 8 for t in range(8)], bound(1, torch.float64))
    assert warm_up(0, 0) == 1 and decay(0, 0) == 0


def test_errors_say_what_came_and_what_was_wanted():
    with pytest.raises(ValueError, match="cell is 0 and hidden is 0.5; it wants a side of at least 1 pixel"):
        block_mask(1, (4, 4), 0, 0.5)
    with pytest.raises(ValueError, match="cell is 2 and hidden is 1.5; it wants .* a share, 0 to 1"):
        block_mask(1, (4, 4), 2, 1.5)
    for schedule in (warm_up, decay):
        with pytest.raises(ValueError, match="Got step -1 of 5; both count from 0"):
            schedule(-1, 5)


@pytest.mark.parametrize(
    "field, value, words",
    [
        ("mask_cell", 0, "mask_cell is 0; it wants a whole number from 1"),
        ("mask_hidden", 1.1, "mask_hidden is 1.1; it wants a number from 0.0 to 1.0"),
    ],
)
def test_settings_out_of_range_are_refused(field, value, words):
    with pytest.raises(ValueError, match=re.escape(words)):
        replace(MaskSettings(), **{field: value})
