"""BiDA's contrast the plain way, after a description of the released code: full-resolution maps, one class at a time.

For benchmarks alone. Written from the description in words (masked average pooling, cosine maps, nearest upsampling, an
ordinary weighted cross-entropy), one pair of pictures at a time.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

IGNORE = 255


def contrast(f_s: Tensor, y_s: Tensor, f_t: Tensor, y_t: Tensor, num_classes: int) -> tuple[Tensor, Tensor]:
    """(forward, backward) of features (D, h, w) and labels (H, W), temperature 0.1."""
    small_s, small_t = shrink(y_s, f_s.shape[1:]), shrink(y_t, f_t.shape[1:])
    rho_s, rho_t = prototypes(f_s, small_s, num_classes), prototypes(f_t, small_t, num_classes)
    weight = torch.zeros(num_classes)
    for c in range(num_classes):
        if c in small_s.unique() and c in small_t.unique():
            weight[c] = 1
    return direction(f_t, y_t, rho_s, small_s, weight), direction(f_s, y_s, rho_t, small_t, weight)


def shrink(label: Tensor, size: torch.Size) -> Tensor:
    """(H, W) -> (h, w), nearest."""
    return F.interpolate(label[None, None].float(), size=tuple(size), mode="nearest")[0, 0].long()


def prototypes(f: Tensor, label: Tensor, num_classes: int) -> list[Tensor]:
    """Masked average pooling, class by class; zeros for one that is not there."""
    found = []
    for c in range(num_classes):
        if c in label.unique():
            mask = (label == c).float()
            found.append((f * mask).sum(dim=(1, 2)) / mask.sum())
        else:
            found.append(torch.zeros(len(f)))
    return found


def direction(f: Tensor, label: Tensor, rho: list[Tensor], other: Tensor, weight: Tensor) -> Tensor:
    """The weighted cross-entropy of upsampled cosines."""
    maps = []
    for c, prototype in enumerate(rho):
        if c in other.unique():
            cosine = F.cosine_similarity(f, prototype[:, None, None].expand_as(f), dim=0)
        else:
            cosine = torch.full(f.shape[1:], -1.0)
        maps.append(cosine * 10)
    # interpolate(mode="nearest") would put row 365 of 730 one cell too early: its scale is rounded to float32
    (H, W), (h, w) = label.shape, f.shape[1:]
    logits = torch.stack(maps)[None][:, :, torch.arange(H)[:, None] * h // H, torch.arange(W) * w // W]
    return F.cross_entropy(logits, label[None], weight=weight, ignore_index=IGNORE)
