"""The reverse Huber loss of depth: linear for small errors, quadratic for large ones.

Letters: N pictures, (H, W) the target's size, (h, w) the network's output size; D a predicted map, D* the true one, r = D - D*,
P the pixels that count.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from course_lib import ranks
from course_lib.losses.inputs import full_precision


def berhu(prediction: Tensor, target: Tensor, share: float = 0.2, bottom: float = 0.1) -> Tensor:
    """The mean BerHu loss over the pixels that have a target; 0 (not NaN) when none has.

        L = 1/|P| sum_{p in P} B(r_p),   B(r) = |r| where |r| <= c, else (r^2 + c^2) / (2 c),   c = share max_{p in P} |r_p|
        P = {p : D*_p >= 0 and p is in the upper H - round(bottom H) rows}

    prediction (N, h, w) is brought to the target's size first, bilinear, corners not aligned. target (N, H, W): below 0 where
        nothing is known, as `data.disparity` has it.
    share: c is this part of the largest error of the batch, and a constant: no gradient goes through it.
    bottom: the share of rows that do not count: the car's own bonnet.

    With R processes (`course_lib.ranks`), P and the largest error are those of all of them: the mean of the processes' losses
    is the loss of the whole batch. Half precision is computed in float32, float64 in float64.

    Source: Laina et al. (3DV 2016) eq. 1; share [paper] there, bottom [code] of Hoyer et al. (CVPR 2021).

    >>> D = torch.tensor([[[0.5, 0.1]]])
    >>> round(berhu(D, torch.tensor([[[0.0, -1.0]]]), bottom=0.0).item(), 3)  # c = 0.1: (0.25 + 0.01) / 0.2
    1.3
    """
    if prediction.ndim != 3 or target.ndim != 3 or len(prediction) != len(target):
        raise ValueError(
            f"berhu got predictions {tuple(prediction.shape)} and targets {tuple(target.shape)}; it wants (N, h, w) and "
            "(N, H, W) with the same N: maps without an axis of channels."
        )
    for name, value in (("share", share), ("bottom", bottom)):
        if not 0 <= value <= 1:
            raise ValueError(f"{name} is {value}; berhu wants a share from 0 to 1.")
    if share == 0:
        raise ValueError("share is 0; berhu wants one above 0, as it divides by c.")
    D = full_precision(prediction)
    if D.shape != target.shape:
        D = F.interpolate(D[:, None], size=target.shape[-2:], mode="bilinear", align_corners=False)[:, 0]
    H = target.shape[1]
    counts = (target >= 0) & (torch.arange(H, device=target.device) < H - round(bottom * H))[:, None]           # P
    r = torch.where(counts, D - target.to(D.dtype), 0).abs()
    largest = ranks.gather(r.detach().amax().view(1)).amax() if r.numel() else r.new_zeros(())
    c = (share * largest).clamp(min=torch.finfo(r.dtype).tiny)
    losses = torch.where(r <= c, r, (r.square() + c.square()) / (2 * c))                                       # B(r)
    return losses.sum() * ranks.count() / ranks.total(counts.sum()).clamp(min=1)
