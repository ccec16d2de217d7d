"""Supervised segmentation losses.

Letters: N images, C classes, (H, W) the label's size, (h, w) the network's output size.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from course_lib import ranks
from course_lib.losses.inputs import IGNORE, Reduction, checked_weight, full_precision, mean_or_map, train_ids


def upsample(logits: Tensor, size: tuple[int, int], align_corners: bool = True) -> Tensor:
    """Bring (N, C, h, w) to (N, C, *size), bilinear; `align_corners` as the network's predictions have it.

    True is what the networks of the seminar's papers were trained and scored with; `False` costs AdaptSegNet's released model
    1.6 mIoU (40.8 instead of 42.4), because its 720x1280 picture has 91x161 outputs: the corners do align. DAFormer and what
    is built on it have False.
    """
    return F.interpolate(logits, size=size, mode="bilinear", align_corners=align_corners)


def count_ids(ids: Tensor, size: int) -> Tensor:
    """How often each of 0..size-1 occurs in `ids`, (size,) int64. (`torch.bincount` makes the host wait for a GPU.)

    >>> count_ids(torch.tensor([[0, 2], [2, 2]]), 4)
    tensor([1, 0, 3, 0])
    """
    ids = ids.flatten()
    return torch.zeros(size, dtype=torch.int64, device=ids.device).scatter_add_(0, ids, torch.ones_like(ids[:1]).expand_as(ids))


def cross_entropy(
    logits: Tensor,
    label: Tensor,
    weight: Tensor | None = None,
    ignore_index: int = IGNORE,
    reduction: Reduction = "mean",
    align_corners: bool = True,
) -> Tensor:
    """Mean cross-entropy over the pixels that have a label; 0 (not NaN) when none has.

        L_seg = - 1/|P| sum_{p in P} log softmax(logits_p)[label_p],   P = {p : label_p != 255}

    logits (N, C, h, w) are brought to the label's size first (`upsample`). label (N, H, W): train ids of any integer type;
        `ignore_index` does not count; on the CPU another id is a ValueError, on a GPU ids are not looked at.
    weight (C,): constants that scale classes, as in torch: the mean is divided by the sum of the pixels' weights.
    reduction: "none" gives the map (N, H, W) of the pixels' losses, times their weights, 0 where ignored; of this process.

    With R processes (`course_lib.ranks`), P are the pixels of all of them and each sums over its own, times R: the mean
    of the processes' losses is the loss of the whole batch, however unevenly its labels lie. All of them call it.
    Half precision and autocast are computed in float32, float64 in float64.

    Source: AdaptSegNet (CVPR 2018) eq. 3, L_seg.

    >>> import torch
    >>> logits, label = torch.zeros(1, 19, 4, 8), torch.zeros(1, 4, 8, dtype=torch.int64)
    >>> round(cross_entropy(logits, label).item(), 4)  # knows nothing: ln 19
    2.9444
    >>> cross_entropy(logits, torch.full_like(label, 255)).item()
    0.0
    """
    if logits.ndim != 4 or label.ndim != 3 or len(logits) != len(label):
        raise ValueError(
            f"cross_entropy got logits {tuple(logits.shape)} and labels {tuple(label.shape)}; it wants (N, C, h, w) and "
            "(N, H, W) with the same N. Pass train ids, not one-hot maps."
        )
    y, logits = train_ids(label, logits.shape[1], ignore_index), full_precision(logits)
    if logits.shape[-2:] != y.shape[-2:]:
        logits = upsample(logits, y.shape[-2:], align_corners)
    weight = checked_weight(weight, logits.shape[1], logits.dtype)
    return labelled_mean(logits, y, weight, ignore_index, reduction)


def labelled_mean(
    logits: Tensor, y: Tensor, weight: Tensor | None, ignore_index: int, reduction: Reduction = "mean"
) -> Tensor:
    """- sum_p w_{y_p} log softmax(logits_p)[y_p] / sum_p w_{y_p} over the labelled p of all processes, or the terms' map."""
    # summed here: on CUDA torch's own sum of maps has no deterministic form, and --deterministic would refuse it
    losses = F.cross_entropy(logits, y, weight=weight, ignore_index=ignore_index, reduction="none")
    if reduction != "mean":
        return mean_or_map(losses, reduction)
    known = y != ignore_index
    count = ranks.total((known if weight is None else weight[y.clamp(0, len(weight) - 1)] * known).sum())
    return losses.sum() * ranks.count() / torch.where(count > 0, count, 1)
