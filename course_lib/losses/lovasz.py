"""The Lovasz-softmax loss: a smooth surrogate of 1 - mIoU, which cross-entropy does not measure.

Letters: N images, C classes, (H, W) the label's size, (h, w) the network's output size; i a pixel, p_i(c) its probabilities.
"""

import torch
from torch import Tensor

from course_lib.losses.inputs import IGNORE, full_precision, train_ids
from course_lib.losses.segmentation import upsample


def lovasz_softmax(
    logits: Tensor, label: Tensor, ignore_index: int = IGNORE, align_corners: bool = True
) -> Tensor:
    """Mean over the classes present in `label` of the Lovasz extension of 1 - IoU_c; a number, 0 when no pixel has a label.

        e_i = 1 - p_i(c) if y_i = c, else p_i(c)                         how wrong pixel i is about class c
        L_c = sum_k e_(k) g_k,     e_(1) >= e_(2) >= ...                  sorted, the worst first
        g_k = J_k - J_{k-1},       J_k = 1 - I_k / U_k                    1 - IoU when the k worst pixels are all wrong

    with I_k = n_c minus the pixels of c among the k worst, U_k = n_c plus the others among them, n_c the pixels of c. One more
    wrong pixel of c lowers I by one, another one raises U by one, so without any difference of nearly equal numbers:

        g_k = 1 / U_k   if the k-th is of class c,        I_k / (U_k (U_k - 1))   if not

    As long as the order stays L_c is linear in p: the weights are found without gradient, one class at a time, and the
    graph holds one (N, C, H, W) tensor of them. logits (N, C, h, w) are brought to the label's size; label (N, H, W) train
    ids of any integer type, of which `ignore_index` does not count; on the CPU another id is a ValueError, on a GPU ids are not
    looked at. All images of the batch are one set of pixels, as ProCA has it (L_sup = cross-entropy + 0.75 Lovasz).
    IoU is no sum over pixels: with several processes each looks at its own images, as published, and the mean of their losses
    is NOT the loss of the whole batch, unlike the other losses here. Half precision and autocast are computed in
    float32, float64 in float64.

    Source: Berman, Triki, Blaschko, "The Lovasz-Softmax loss" (CVPR 2018), eq. 8, 9 and 11.

    >>> label = torch.tensor([[[0, 0], [1, 1]]])
    >>> right = 100 * torch.nn.functional.one_hot(label).permute(0, 3, 1, 2).float()
    >>> lovasz_softmax(right, label).item(), lovasz_softmax(-right, label).item()
    (0.0, 1.0)
    """
    if logits.ndim != 4 or label.ndim != 3 or len(logits) != len(label):
        raise ValueError(
            f"lovasz_softmax got logits {tuple(logits.shape)} and labels {tuple(label.shape)}; it wants (N, C, h, w) and "
            "(N, H, W) with the same N. Pass logits, not probabilities: the softmax is inside."
        )
    y, logits = train_ids(label, logits.shape[1], ignore_index), full_precision(logits)
    if logits.shape[-2:] != y.shape[-2:]:
        logits = upsample(logits, y.shape[-2:], align_corners)
    p = torch.softmax(logits, dim=1)
    slope, constant, present = _linear(p.detach(), torch.where(y == ignore_index, -1, y))
    total = (slope * p).sum()  # not a matrix product, which autocast takes in half precision
    return (total + constant) / present.clamp(min=1)


@torch.no_grad()
def _linear(p: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """slope (as p), constant and number of present classes, with  sum_c L_c = sum slope * p + constant  near p. -1: ignore."""
    slope, constant, present = torch.zeros_like(p), p.new_zeros(()), p.new_zeros(())
    known = y >= 0
    for c in range(p.shape[1]):
        mine = y == c
        e = torch.where(known, torch.where(mine, 1 - p[:, c], p[:, c]), -1).flatten()  # ignored pixels come last
        order = e.argsort(descending=True)
        of_c = mine.flatten()[order]
        n_c = of_c.sum()
        I_k = n_c - of_c.cumsum(0)
        U_k = n_c + (~of_c).cumsum(0)
        g = torch.where(of_c, 1 / U_k.to(e), I_k / (U_k * (U_k - 1)).clamp(min=1).to(e))  # all 0 when n_c = 0
        weight = torch.empty_like(e).scatter_(0, order, g).view_as(known) * known
        slope[:, c] = torch.where(mine, -weight, weight)                               # de/dp = -1 for pixels of c
        constant += (weight * mine).sum()
        present += n_c > 0
    return slope, constant, present
