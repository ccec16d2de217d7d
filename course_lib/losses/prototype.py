"""ProCA's contrast: the feature of a pixel is drawn to the prototype of its class, away from those of all other classes.

Letters: N images, D channels, C classes, (H, W) the features' size, P pixels of one image;
F features, p_c prototype of class c, y labels, tau temperature.
"""

from typing import Literal

import torch
import torch.nn.functional as functional
from torch import Tensor

from course_lib import ranks
from course_lib.losses.inputs import (
    IGNORE,
    SHORTEST,
    Reduction,
    checked_temperature,
    checked_weight,
    refuse_gradient,
    train_ids,
    without_autocast,
)
from course_lib.losses.once import once_differentiable
from course_lib.losses.segmentation import count_ids, labelled_mean

Similarity = Literal["dot", "cosine"]


def prototype_contrast(
    features: Tensor,
    labels: Tensor,
    prototypes: Tensor,
    temperature: float | Tensor,
    similarity: Similarity = "dot",
    seen: Tensor | None = None,
    balanced: bool = False,
    weight: Tensor | None = None,
    ignore_index: int = IGNORE,
    reduction: Reduction = "mean",
) -> Tensor:
    """How badly pixels find the prototype of their class among all prototypes: the mean over labelled pixels, a number.

        P_{n,i,j,c} = exp(p_c . F_{n,i,j} / tau) / sum_c exp(p_c . F_{n,i,j} / tau)
        L           = - sum_{n,i,j} sum_c y_{n,i,j,c} log P_{n,i,j,c}  /  number of labelled pixels

    One function for all of the slides' terms: target features with pseudo-labels give L^{t->s}, source features with
    the truth L^{s->s}, features of D channels L_ContraFeat, logits (D = C) with prototypes of logits L_ContraOut. The
    slides sum over pixels; the mean, as the authors' code has it, keeps the weight of the term from growing with the picture.

    features (N, D, H, W) with labels (N, H, W), or (N, D) with (N,): train ids of any integer type, at the features'
        size (`labels_at`); `ignore_index` does not count; on the CPU another id is a ValueError, on a GPU ids are not looked
        at. No labelled pixel: 0, with zero gradient.
    prototypes (C, D): constants, `PrototypeBank.prototypes`. They get no gradient, so prototypes that require one are an error.
    temperature: a number, or a tensor without dimensions, which gets its gradient. The released code divides cosines by 50.
        Then all P are within 4 % of 1/C and L is within 0.04 of ln C, whatever the features are: the difference is about
        (mean_c cos(F, p_c) - cos(F, p_y)) / 50, and its gradient is small. Around 0.1 the nearest wrong class counts most.
    similarity: "dot" is the slides' p_c . F; "cosine" divides by both lengths, as released.
    balanced: a class counts as a class, not by its pixels: the mean over the labelled classes of the mean over each one's
        pixels. False: the published mean over pixels, nearly all of them road, building and sky.
    weight (C,): constants that scale classes, as in `cross_entropy`.
    reduction: "none" gives the pixels' losses in the labels' shape, times their weights, 0 where ignored; of this process.
    seen (C,) bool: classes never seen have no prototype; they are left out of the sum over c, their pixels ignored. None: all.

    With several processes, each one's sum is scaled so that the mean of their losses is the loss of the whole batch. It
    cannot be differentiated twice. Half-precision features and autocast are computed in float32.
    Landmarks: ln C when F says nothing. Cosines: between ln(1 + (C-1) e^(-2/tau)) and ln(1 + (C-1) e^(2/tau)).

    Source: ProCA (Jiang et al., ECCV 2022), seminar slides "Contrast adaptation" and "Label space adaptation".

    >>> p = torch.eye(3)
    >>> round(prototype_contrast(p, torch.arange(3), p, temperature=1.0).item(), 4)  # ln(1 + 2/e)
    0.5514
    >>> round(prototype_contrast(p, torch.tensor([2, 0, 255]), p, temperature=1.0).item(), 4)  # 1 further: each at another's
    1.5514
    """
    temperature = checked_temperature(temperature)
    if similarity not in ("dot", "cosine"):
        raise ValueError(f"similarity is {similarity!r}; choose 'dot' (the slides) or 'cosine' (the released code).")
    F, y = as_columns(features, labels)
    if prototypes.ndim != 2 or prototypes.shape[1] != F.shape[1]:
        raise ValueError(
            f"prototype_contrast got features of {F.shape[1]} channels and prototypes {tuple(prototypes.shape)}; it wants (C, "
            f"{F.shape[1]}). Features and logits have prototypes of their own."
        )
    refuse_gradient("prototypes", prototypes)
    if balanced and (weight is not None or reduction != "mean"):
        raise ValueError(
            "balanced=True is a mean with weights of its own; it goes with neither weight nor reduction='none'. Leave one of "
            "them out."
        )
    y = train_ids(y, len(prototypes), ignore_index)
    p = prototypes.to(torch.promote_types(F.dtype, torch.float32))
    if similarity == "cosine":
        p = functional.normalize(p, eps=SHORTEST)
    s = _Similarity.apply(F, p, similarity == "cosine") / temperature                 # p_c . F / tau, (N, C, P)
    if seen is not None:
        s = s.masked_fill(~seen[:, None], torch.finfo(s.dtype).min)                   # -inf would be NaN if none is seen
        y = torch.where(seen[y.clamp(0, len(p) - 1)], y, ignore_index)
    if balanced:
        n = ranks.total(count_ids(torch.where(y == ignore_index, len(p), y), len(p) + 1)[: len(p)]).to(s.dtype)
        w = (n > 0) / n.clamp(min=1) / (n > 0).sum().clamp(min=1)                     # 1 / n_c, over the classes there
        return labelled_mean(s, y, w, ignore_index, "none").sum() * ranks.count()
    loss = labelled_mean(s, y, checked_weight(weight, len(p), s.dtype), ignore_index, reduction)  # - sum y log P / sum y
    return loss.view(labels.shape) if reduction == "none" else loss


def labels_at(labels: Tensor, size: tuple[int, int]) -> Tensor:
    """Labels (N, H, W) at another size (N, h, w), the features' or a picture's: row i takes row floor(i H / h).

    In whole numbers, hence exact. torch's "nearest" multiplies by H / h in float32, and is one row off at some sizes
    (row 82 of 123 takes row 2 of 3 here, row 1 there), at none of the published ones.

    >>> labels_at(torch.arange(16).view(1, 4, 4), (2, 2))
    tensor([[[ 0,  2],
             [ 8, 10]]])
    """
    (H, W), (h, w) = labels.shape[-2:], size
    rows = torch.arange(h, device=labels.device) * H // h
    columns = torch.arange(w, device=labels.device) * W // w
    return labels[:, rows[:, None], columns]


def as_columns(features: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Maps (N, D, H, W) with (N, H, W), or vectors (P, D) with (P,), as columns (N, D, P) with (N, P): views, no copies."""
    if features.ndim == 4 and labels.shape == (len(features), *features.shape[2:]):
        return features.flatten(2), labels.flatten(1)
    if features.ndim == 2 and labels.shape == features.shape[:1]:
        return features.T[None], labels[None]
    raise ValueError(
        f"Got features {tuple(features.shape)} and labels {tuple(labels.shape)}; wanted (N, D, H, W) with (N, H, W) or (N, D) "
        "with (N,). Bring labels to the features' size first: course_lib.losses.prototype.labels_at(labels, size)."
    )


def weighted_prototypes(g: Tensor, p: Tensor, F: Tensor) -> Tensor:
    """sum_c g_c p_c: g (N, C, P), p (C, D) -> (N, D, P), in the memory order of F."""
    return (g.mT @ p).mT if F.stride(1) == 1 else torch.bmm(p.T.expand(len(F), -1, -1), g)


class _Similarity(torch.autograd.Function):
    """s_c = p_c . F, or p_c . F / |F| with unit p_c. F (N, D, P), p (C, D) -> s (N, C, P).

        ds_c / dF = p_c      or      (p_c - s_c F / |F|) / |F|

    Forward keeps F itself and no copy; backward makes one tensor of F's size, the gradient. Autograd's own chain through
    a normalised copy holds three.
    """

    @staticmethod
    def forward(ctx, F: Tensor, p: Tensor, cosine: bool) -> Tensor:
        with without_autocast(F):
            wide = F.to(p.dtype)
            s = torch.bmm(p.expand(len(F), -1, -1), wide)                             # p_c . F
            inverse = None
            if cosine:
                length = torch.linalg.vector_norm(wide, dim=1, keepdim=True)
                inverse = torch.where(length > SHORTEST, 1 / length, 0)               # 1 / |F|
                s *= inverse
        ctx.save_for_backward(F, p, s, inverse)
        return s

    @staticmethod
    @once_differentiable("write prototype_contrast's formula with torch's own operations")
    def backward(ctx, g: Tensor) -> tuple[Tensor, None, None]:
        F, p, s, inverse = ctx.saved_tensors
        with without_autocast(F):
            if inverse is not None:
                g = g * inverse                                                       # g_c / |F|
            dF = weighted_prototypes(g, p, F)                                         # sum_c g_c p_c
            if inverse is not None:
                dF.addcmul_(F.to(p.dtype), (g * s).sum(1, keepdim=True) * inverse, value=-1)  # - sum_c g_c s_c F / |F|^2
        return dF.to(F.dtype), None, None
