"""Which pictures to label: those that are farthest from all that are labelled, and whose depth is hard to learn (SegSDF).

Letters: F pictures, D numbers of a picture's features, S the pictures that are chosen, d a distance, e an error of depth,
D_S, D_T the disparities (h, w) that a student predicts and that are true.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from course_lib.losses.inputs import full_precision

GRID = (4, 8)  # [code] cells of the pooled features


@torch.no_grad()
def place_features(features: Tensor, grid: tuple[int, int] = GRID) -> Tensor:
    """The features of pictures by place: maps (N, C, h, w) -> (N, C x cells), means over the cells of a grid, each cell's
    vector brought to the length 1.

    Source: Hoyer et al. (CVPR 2021), released code, which standardises each channel over all pictures and cells instead; the
    length of one picture's cells depends on no other picture (ours).
    """
    if features.ndim != 4:
        raise ValueError(f"place_features got {tuple(features.shape)}; it wants the features of a prediction, (N, C, h, w).")
    cells = functional.adaptive_avg_pool2d(full_precision(features), grid)
    return functional.normalize(cells, dim=1).flatten(1)


@torch.no_grad()
def depth_error(
    student: Tensor, truth: Tensor, bottom: float = 0.13, nearest: float = 0.07, window: int = 3
) -> Tensor:
    """How wrong a predicted depth is, picture by picture: (N, h, w) and (N, H, W) -> e (N,), 0 where nothing counts.

        e_n = mean_p |log(1 + D_S) - log(1 + D_T)|,   p: above the bottom rows, D_T known, max_{window round p} D_T >= nearest

    bottom: [code] the share of rows at the bottom that do not count. nearest: what is farther away does not count; in the unit
    of `data.disparity` 0.07 is 2 m / 0.07 = 29 m. window: pixels by which near things grow (ours).

    The number 0.07 is [code], its scale is not: there each picture's disparities are stretched to 0..1 first. That is the same
    distance only in a picture that reaches from 2 m to the sky; in one that begins at 4 m, 57 m would count. Also other than
    released: there the far part grows by 3 pixels, since a network that learnt depth from video takes cars that drive ahead
    for infinitely far; and the mean is over all pixels, those that do not count as 0.

    Source: Hoyer et al. (CVPR 2021), released code.
    """
    if student.ndim != 3 or truth.ndim != 3 or len(student) != len(truth):
        raise ValueError(
            f"depth_error got {tuple(student.shape)} and {tuple(truth.shape)}; it wants (N, h, w) and (N, H, W), the same N."
        )
    H, W = truth.shape[1:]
    D_T, D_S = full_precision(truth), full_precision(student)
    if D_S.shape != D_T.shape:
        D_S = functional.interpolate(D_S[:, None], size=(H, W), mode="bilinear", align_corners=False)[:, 0]
    grown = functional.max_pool2d(D_T[:, None], window, stride=1, padding=window // 2)[:, 0]
    rows = torch.arange(H, device=truth.device) < H - round(bottom * H)
    counts = (D_T >= 0) & (grown >= nearest) & rows[:, None]
    error = torch.where(counts, (torch.log1p(D_S) - torch.log1p(D_T.clamp(min=0))).abs(), 0)
    return error.sum(dim=(1, 2)) / counts.sum(dim=(1, 2)).clamp(min=1)


@torch.no_grad()
def farthest_points(
    features: Tensor, count: int, chosen: Sequence[int] = (0,), errors: Tensor | None = None, weight: float = 1000.0
) -> list[int]:
    """Pictures one after the other, each the farthest from those before it: features (F, D) -> `count` indices.

        next = argmax_{n not in S} ( min_{m in S} ||f_n - f_m||_2 + weight e_n ),   of several the first

    chosen: those to begin with, which count among `count` and come first. errors: e (F,), None: 0. Distances are
    computed one row at a time, so that memory is that of the features. The first n of a longer choice are the shorter one.

    Source: Hoyer et al. (CVPR 2021), released code; weight [code].

    >>> farthest_points(torch.tensor([[0.0], [1.0], [5.0], [4.0]]), 3)
    [0, 2, 1]
    """
    F = len(features)
    begin = list(chosen)
    if features.ndim != 2 or not 1 <= count <= F:
        raise ValueError(f"farthest_points got features {tuple(features.shape)} and count={count}; it wants (F, D) and 1 to F.")
    if not begin or len(set(begin)) < len(begin) or not all(0 <= n < F for n in begin):
        raise ValueError(f"farthest_points got chosen={begin[:5]}; it wants one index or more, different ones, 0 to {F - 1}.")
    if errors is not None and errors.shape != (F,):
        raise ValueError(f"errors is {tuple(errors.shape)}; it wants one number for each picture, ({F},).")
    features = full_precision(features)
    hard = torch.zeros(F, dtype=features.dtype) if errors is None else weight * errors.to(features)
    hard = hard.to(features.device)
    nearest = torch.full_like(hard, torch.inf)
    free = torch.ones_like(hard, dtype=torch.bool)
    found: list[int] = []
    while len(found) < count:
        n = begin[len(found)] if len(found) < len(begin) else int(torch.where(free, nearest + hard, -torch.inf).argmax())
        found.append(n)
        free[n] = False
        nearest = torch.minimum(nearest, torch.linalg.vector_norm(features - features[n], dim=1))      # min_m ||f_n - f_m||
    return found
