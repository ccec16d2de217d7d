"""How far a network's features have moved from those of a frozen one, on the cells of some classes.

Letters: N images, D feature channels; H, W the label, h, w the grid of the features.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from course_lib import ranks
from course_lib.losses.inputs import IGNORE, full_precision


@torch.no_grad()
def label_down(
    label: Tensor, size: tuple[int, int], num_classes: int, ratio: float = 0.75, ignore_index: int = IGNORE
) -> Tensor:
    """The labels of a coarse grid: a cell has a class where that covers at least `ratio` of it, else `ignore_index`.

    label (N, H, W) train ids, `size` (h, w) -> (N, h, w). Pixels without a label belong to no class. Where sizes do not divide,
    cells overlap by a pixel. The host does not wait for a GPU.

    Source: DAFormer (CVPR 2022).

    >>> label_down(torch.tensor([[[3, 3, 1, 1], [3, 255, 1, 2]]]), (1, 2), 4).tolist()  # 3/4 of class 3, 3/4 of class 1
    [[[3, 1]]]
    """
    if label.ndim != 3 or label.is_floating_point():
        raise ValueError(f"label_down got labels {tuple(label.shape)} of {label.dtype}; it wants train ids (N, H, W).")
    if not 0 < ratio <= 1:
        raise ValueError(f"label_down got ratio={ratio}; it wants a share above 0 and at most 1.")
    covered = [F.adaptive_avg_pool2d((label == c).float()[:, None], size)[:, 0] for c in range(num_classes)]
    share, y = torch.stack(covered).max(dim=0)                                                # (N, h, w) each
    return torch.where(share >= ratio - 1e-6, y, ignore_index)  # float32 of at most 2^20 pixels


def feature_distance(features: Tensor, frozen: Tensor, mask: Tensor) -> Tensor:
    """The mean distance of the features of the masked cells:  1/|A| sum_{p in A} ||F_p - F'_p||_2;  0 where A is empty.

    features, frozen (N, D, h, w), the second without gradient; mask (N, h, w) bool. With R processes A are the cells of all of
    them, and each sums its own, times R (`cross_entropy`). Half precision is computed in float32.

    Source: DAFormer (CVPR 2022) (its release gives NaN for an empty mask).

    >>> feature_distance(torch.ones(1, 4, 1, 2), torch.zeros(1, 4, 1, 2), torch.tensor([[[True, False]]])).item()
    2.0
    """
    if features.shape != frozen.shape or mask.shape != (features.shape[0], *features.shape[2:]):
        raise ValueError(
            f"feature_distance got features {tuple(features.shape)} and {tuple(frozen.shape)} and a mask {tuple(mask.shape)}; "
            "it wants (N, D, h, w) twice and (N, h, w)."
        )
    distance = torch.linalg.vector_norm(full_precision(features) - full_precision(frozen).detach(), dim=1)
    count = ranks.total(mask.sum())
    return torch.where(mask, distance, 0.0).sum() * ranks.count() / count.clamp(min=1)
