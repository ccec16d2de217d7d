"""BiDA's contrast: target features find the source's prototypes (forward), source features the target's (backward).

Letters: N pictures of each domain, D channels, (h, w) the features' grid, P = h w cells, (H, W) the labels' size, C classes;
f features, y labels, rho(c) prototype of class c, s cosine, tau temperature; n(p, c) label pixels of class c in cell p.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as functional
from torch import Tensor

from course_lib import ranks
from course_lib.losses.inputs import IGNORE, SHORTEST, checked_temperature, full_precision, train_ids, without_autocast
from course_lib.losses.prototype import labels_at
from course_lib.losses.segmentation import count_ids

ABSENT = -1.0  # the cosine to the prototype of a class that is not there (released code)


class Contrast(NamedTuple):
    """The two directions, numbers."""

    forward: Tensor  # L_FC
    backward: Tensor  # L_BC


def bidirectional_contrast(
    source_features: Tensor,
    source_labels: Tensor,
    target_features: Tensor,
    target_labels: Tensor,
    num_classes: int,
    temperature: float | Tensor = 0.1,
    overlap_only: bool = True,
    through_prototypes: bool = True,
    pairwise: bool = False,
    balanced: bool = False,
    ignore_index: int = IGNORE,
) -> Contrast:
    """How badly each domain's pixels find their class among the other domain's prototypes: (forward, backward).

        rho_S(c) = sum_p f_S(p) y_S(p,c) / sum_p y_S(p,c)            rho_T(c) likewise, from the current pictures alone
        L_FC = - sum_c sum_p y_T(p,c) log [ exp(s(f_T(p), rho_S(c)) / tau) / sum_c exp(s(f_T(p), rho_S(c)) / tau) ] / n_T
        L_BC = - sum_c sum_p y_S(p,c) log [ exp(s(f_S(p), rho_T(c)) / tau) / sum_c exp(s(f_S(p), rho_T(c)) / tau) ] / n_S

    features (N, D, h, w); labels (N, H, W) train ids of any integer type, at the grid's size or any larger one;
    `ignore_index` does not count; on the CPU another id is a ValueError, on a GPU ids are not looked at. Means over the n
    counted label pixels keep the weight from growing with the picture. Nothing counted: 0 with zero gradient, never NaN.

    Labels stay at their own size: cells are compared with n(p, c), the histogram of the labels in each cell, which gives the
    value of full-resolution maps of nearest-upsampled cosines without making them. Prototypes take the label that
    `labels_at` picks for each cell, as released.

    temperature: 0.1, released. A tensor without dimensions gets its gradient.
    overlap_only: count the classes that both domains show, as released. False: every labelled pixel counts; one whose class has
        no prototype is only pushed away from the others.
    through_prototypes: gradient reaches the other domain's features through rho, as released. False: rho is a constant.
    pairwise: source picture k meets target picture k alone, and the mean is over pairs, as released (batches of two).
        False: one set of prototypes per domain from the whole batch, of all processes. (True: each process its own pairs.)
    balanced: every counted class counts alike, whatever its pixels: the mean over classes of the mean over each one's pixels.
        False: the published mean over pixels, nearly all of them road, building and sky.

    A class without prototype has the cosine -1 and stays in the denominator, as released: with tau = 0.1 its share is
    negligible. Landmarks: ln(number of classes there) when features say nothing; with several processes the mean over them is
    the loss of the whole batch, but gradient through rho then stops at this process's features. Half precision and autocast are
    computed in float32.

    Source: BiDA (ECCV 2022), seminar slide "Bi-directional contrastive learning"; values of the released function.

    >>> f = torch.eye(2).view(1, 2, 1, 2)  # two cells, at right angles
    >>> y = torch.tensor([[[0, 1]]])
    >>> [round(loss.item(), 6) for loss in bidirectional_contrast(f, y, f, y, num_classes=2)]  # ln(1 + e^-10)
    [4.5e-05, 4.5e-05]
    """
    _check(source_features, source_labels, target_features, target_labels)
    temperature = checked_temperature(temperature)
    with without_autocast(source_features):
        S = _cells(source_features, source_labels, num_classes, ignore_index)
        T = _cells(target_features, target_labels, num_classes, ignore_index)
        if pairwise:
            if len(S.f) != len(T.f):
                raise ValueError(
                    f"pairwise=True pairs source picture k with target picture k; got {len(S.f)} and {len(T.f)} pictures. "
                    "Give equal numbers, or pairwise=False."
                )
            how = temperature, overlap_only, through_prototypes, balanced
            pairs = [_pair(S.picture(k), T.picture(k), *how) for k in range(len(S.f))] or [_pair(S, T, *how)]  # no picture: 0
            return Contrast(*(torch.stack(parts).mean() for parts in zip(*pairs)))
        return _pair(S, T, temperature, overlap_only, through_prototypes, balanced, shared=True)


class _Cells(NamedTuple):
    """A domain's features and labels, cell by cell."""

    f: Tensor  # (N, D, P)
    y: Tensor  # (N, P), the nearest label: for prototypes
    n: Tensor  # (N, C, P), the histogram: for the loss

    def picture(self, k: int) -> "_Cells":
        return _Cells(self.f[k : k + 1], self.y[k : k + 1], self.n[k : k + 1])


def _cells(features: Tensor, labels: Tensor, num_classes: int, ignore_index: int) -> _Cells:
    f = full_precision(features).flatten(2)
    labels = train_ids(labels, num_classes, ignore_index)
    labels = torch.where(labels == ignore_index, num_classes, labels)  # of no class
    y = labels_at(labels, features.shape[-2:]).flatten(1)
    return _Cells(f, y, label_histogram(labels, features.shape[-2:], num_classes).flatten(2).to(f.dtype))


def label_histogram(labels: Tensor, size: tuple[int, int], num_classes: int) -> Tensor:
    """n(p, c): how many labels (N, H, W) of each class lie in each cell of a grid (h, w) under it, (N, C, h, w) int64.

    A label pixel belongs to the cell that nearest upsampling of the grid puts there; ids outside 0..C-1 are not counted.

    >>> label_histogram(torch.tensor([[[0, 0, 1, 255]]]), (1, 2), 2)[0, :, 0].tolist()  # class 0: 2 and 0, class 1: 0 and 1
    [[2, 0], [0, 1]]
    """
    (N, H, W), (h, w) = labels.shape, size
    rows = torch.arange(H, device=labels.device) * h // H
    columns = torch.arange(W, device=labels.device) * w // W
    picture = torch.arange(N, device=labels.device)[:, None, None]
    known = (labels >= 0) & (labels < num_classes)
    c = torch.where(known, labels.long(), num_classes)                     # one bin more takes what is not counted
    place = ((picture * h + rows[:, None]) * w + columns) * (num_classes + 1) + c
    counts = count_ids(place, N * h * w * (num_classes + 1))
    return counts.view(N, h, w, num_classes + 1)[..., :num_classes].permute(0, 3, 1, 2)


def _pair(
    S: _Cells, T: _Cells, tau: float | Tensor, overlap_only: bool, through: bool, balanced: bool, shared: bool = False
) -> Contrast:
    rho_S, there_S = batch_prototypes(S.f, S.y, S.n.shape[1], shared)
    rho_T, there_T = batch_prototypes(T.f, T.y, T.n.shape[1], shared)
    if not through:
        rho_S, rho_T = rho_S.detach(), rho_T.detach()
    w = (there_S & there_T) if overlap_only else torch.ones_like(there_S)  # w_c
    return Contrast(
        _direction(T, rho_S, there_S, w, tau, balanced, shared),           # L_FC
        _direction(S, rho_T, there_T, w, tau, balanced, shared),           # L_BC
    )


def batch_prototypes(f: Tensor, y: Tensor, num_classes: int, shared: bool = True) -> tuple[Tensor, Tensor]:
    """rho(c) of cells f (N, D, P) with labels y (N, P): (C, D), zero where the class is absent; and which are there, (C,).

    shared: over the batches of all processes; gradient flows into this process's cells alone. Half precision and autocast are
    computed in float32.
    """
    f = full_precision(f)
    with without_autocast(f):
        indicator = functional.one_hot(y.clamp(max=num_classes), num_classes + 1)[..., :num_classes].to(f.dtype)  # 1[y = c]
        sums, counts = torch.einsum("npc,ndp->cd", indicator, f), indicator.sum((0, 1))
    if shared and ranks.count() > 1:
        sums, counts = sums + (ranks.total(sums) - sums.detach()), ranks.total(counts)
    return sums / counts.clamp(min=1)[:, None], counts > 0


def _direction(
    X: _Cells, rho: Tensor, there: Tensor, w: Tensor, tau: float | Tensor, balanced: bool, shared: bool
) -> Tensor:
    """- sum_{p,c} w_c n(p,c) log softmax_c(s(f(p), rho(c)) / tau) / sum_{p,c} w_c n(p,c)"""
    s = torch.einsum("cd,ndp->ncp", functional.normalize(rho, eps=SHORTEST), functional.normalize(X.f, dim=1, eps=SHORTEST))
    s = torch.where(there[:, None], s, ABSENT)
    total_of, processes = (ranks.total, ranks.count()) if shared else (lambda x: x, 1)
    counts = total_of((X.n * w[:, None]).sum((0, 2)))                      # sum_p w_c n(p,c)
    if balanced:
        w = (counts > 0) / counts.clamp(min=1) / (counts > 0).sum().clamp(min=1)
    else:
        w = w / counts.sum().clamp(min=1)
    return -(X.n * w[:, None] * torch.log_softmax(s / tau, dim=1)).sum() * processes


def _check(f_s: Tensor, y_s: Tensor, f_t: Tensor, y_t: Tensor) -> None:
    for side, f, y in (("source", f_s, y_s), ("target", f_t, y_t)):
        if f.ndim != 4 or y.ndim != 3 or len(f) != len(y):
            raise ValueError(
                f"bidirectional_contrast got {side} features {tuple(f.shape)} and labels {tuple(y.shape)}; it wants "
                "(N, D, h, w) and (N, H, W) with the same N. Pass train ids, not one-hot maps."
            )
        if y.shape[1] < f.shape[2] or y.shape[2] < f.shape[3]:
            raise ValueError(
                f"The {side} labels are {tuple(y.shape[1:])}, smaller than the features' {tuple(f.shape[2:])}; several cells "
                "would share a label. Give labels at the picture's size."
            )
    if f_s.shape[1] != f_t.shape[1]:
        raise ValueError(f"Source features have {f_s.shape[1]} channels, target features {f_t.shape[1]}; they must be alike.")
