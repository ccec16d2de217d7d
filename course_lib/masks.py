"""Masks of pictures: cells that are hidden; and weights that change over the steps.

Letters: N pictures, (H, W) their size, b the side of a cell in pixels, r the share that is hidden.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from course_lib.mixing import uniform
from course_lib.typed import AT_LEAST_1, SHARE, in_range


@dataclass(frozen=True)
class MaskSettings:
    """Of `block_mask`."""

    mask_cell: int = 64  # [code] MIC, pixels of a crop of 1024x1024 (HRDA); 32 of 512x512 keeps the proportion
    mask_hidden: float = 0.7  # [code] MIC

    def __post_init__(self) -> None:
        in_range(self, mask_cell=AT_LEAST_1, mask_hidden=SHARE)


def block_mask(
    count: int,
    size: tuple[int, int],
    cell: int,
    hidden: float,
    device: torch.device | str = "cpu",
    generator: torch.Generator | None = None,
) -> Tensor:
    """Which pixels stay: a grid of cells, each hidden with probability `hidden`; (count, H, W) bool.

        M_n(i, j) = 1[ u_n(floor(i / b), floor(j / b)) > r ],   u uniform in (0, 1)

    The kept share tends to 1 - r. Cells at the right and at the bottom may be cut. The masked picture is `image * M[:, None]`:
    0 is the mean colour of a normalised picture. The generator has the same state in all processes (`mixing.uniform`).

    Source: MIC (Hoyer et al., CVPR 2023).

    >>> block_mask(1, (4, 6), cell=2, hidden=0.5, generator=torch.Generator().manual_seed(0)).int().tolist()[0][::2]
    [[0, 0, 1, 1, 0, 0], [0, 0, 0, 0, 1, 1]]
    """
    if cell < 1 or not 0 <= hidden <= 1:
        raise ValueError(f"cell is {cell} and hidden is {hidden}; it wants a side of at least 1 pixel and a share, 0 to 1.")
    H, W = size
    grid = (math.ceil(H / cell), math.ceil(W / cell))
    kept = uniform((count, *grid), device, generator) > hidden
    return kept.repeat_interleave(cell, dim=1).repeat_interleave(cell, dim=2)[:, :H, :W]


def warm_up(step: int, steps: int) -> float:
    """A factor that rises linearly from 0 at step 0 to 1 at step `steps`, and stays:  min(1, t / steps); 1 for steps = 0.

    >>> [warm_up(t, 4) for t in (0, 1, 4, 9)]
    [0.0, 0.25, 1.0, 1.0]
    """
    _check_step(step, steps)
    return min(1.0, step / steps) if steps else 1.0


def decay(step: int, steps: int) -> float:
    """A factor that falls linearly from 1 at step 0 to 0 at step `steps`, and stays:  max(0, 1 - t / steps); 0 for steps = 0.

    >>> [decay(t, 4) for t in (0, 1, 4, 9)]
    [1.0, 0.75, 0.0, 0.0]
    """
    _check_step(step, steps)
    return max(0.0, 1 - step / steps) if steps else 0.0


def _check_step(step: int, steps: int) -> None:
    if step < 0 or steps < 0:
        raise ValueError(f"Got step {step} of {steps}; both count from 0.")
