"""How near features of one class are to one another, and how far from other classes: what a contrastive loss promises.

Letters: f_i (D,) features of unit length, y_i their classes; n_c how many class c has, m_c their mean; only classes with
two or more features take part.

    within      mean over c of the mean of f_i . f_j over i != j of class c      = (n_c |m_c|^2 - 1) / (n_c - 1)
    between     mean over pairs c != d of the mean of f_i . f_j, i of c, j of d  = m_c . m_d
    silhouette  mean over c of the mean over i of class c of  (b_i - a_i) / max(a_i, b_i),
                a_i the mean of 1 - f_i . f_j over the others of its class, b_i the smallest such mean over another class

A mean over classes, not over features: a street is mostly road. All three follow from the m_c, so that no pair is formed.
The silhouette is that of Rousseeuw (J. Comput. Appl. Math. 1987) with the cosine distance.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from course_lib.losses.inputs import IGNORE, full_precision, train_ids


class Separation(NamedTuple):
    """Cosines from -1 to 1; nan where fewer than two classes have two features."""

    within: float  # mean cosine of two features of one class
    between: float  # and of two classes
    silhouette: float  # from -1 to 1; 1: classes are far apart, 0: they touch
    classes: int  # that took part


@torch.no_grad()
def separation(features: Tensor, labels: Tensor, num_classes: int) -> Separation:
    """Measure (N, D) features with labels (N,), train ids; 255 is left out. One visit of each, in float64 on the CPU.

    Raises ValueError for other shapes, ids of no class, or a feature that is not finite or has no direction.

    >>> f = torch.tensor([[1.0, 0.0], [2.0, 0.0], [0.0, 1.0], [0.0, 3.0]])
    >>> separation(f, torch.tensor([0, 0, 1, 1]), 2)
    Separation(within=1.0, between=0.0, silhouette=1.0, classes=2)
    """
    if features.ndim != 2 or labels.shape != features.shape[:1]:
        raise ValueError(
            f"separation got features {tuple(features.shape)} and labels {tuple(labels.shape)}; it wants (N, D) and (N,). Maps "
            "(N, D, h, w) are features.movedim(1, -1).flatten(0, 2)."
        )
    train_ids(labels, num_classes)
    known = labels != IGNORE
    f, y = full_precision(features[known]).cpu().double(), labels[known].cpu().long()
    length = torch.linalg.vector_norm(f, dim=1)
    if not bool((length.isfinite() & (length > 0)).all()):
        raise ValueError("separation got a feature that is not finite, or is zero and has no direction. Leave it out.")
    f = f / length[:, None]
    n = torch.bincount(y, minlength=num_classes)[:num_classes]
    m = torch.zeros(num_classes, f.shape[1], dtype=f.dtype).index_add_(0, y, f) / n.clamp(min=1)[:, None]
    there = n >= 2
    C = int(there.sum())
    if C < 2:
        return Separation(float("nan"), float("nan"), float("nan"), C)
    within = (n * m.square().sum(1) - 1)[there] / (n[there] - 1)
    apart = m[there] @ m[there].T
    between = (apart.sum() - apart.diagonal().sum()) / (C * (C - 1))
    part = there[y]
    f, y = f[part], y[part]
    distance = 1 - f @ m.T                                              # of each feature to each class, on average
    own = distance.gather(1, y[:, None])[:, 0] * n[y] / (n[y] - 1)      # a_i: without itself, at distance 0
    others = distance.masked_fill(~there, torch.inf).scatter(1, y[:, None], torch.inf).amin(1)          # b_i
    largest = torch.maximum(own, others)
    nothing = f.shape[1] * torch.finfo(f.dtype).eps                      # what rounding leaves of a distance of 0
    s = torch.where(largest > nothing, (others - own) / largest.clamp(min=nothing), 0.0)
    silhouette = torch.zeros(num_classes, dtype=f.dtype).index_add_(0, y, s)[there] / n[there]
    return Separation(within.mean().item(), between.item(), silhouette.mean().item(), C)
