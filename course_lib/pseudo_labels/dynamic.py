"""BiDA's dynamic pseudo-labels: which prototype a target feature lies nearest to, found again in every iteration.

Letters: N pictures, D channels, (h, w) the features' grid, P cells, C classes; f features, rho(c) and mu(c) prototypes of
class c (of this iteration; moving averages), xi(c) the domain bias of class c, s cosine, T the threshold.

A classifier that has learnt from source pictures alone is sure of what looks like the source. Prototypes are moved into
the target's clusters before features are compared with them.
"""

import torch
import torch.nn.functional as functional
from torch import Tensor

from course_lib.losses.inputs import SHORTEST, full_precision, without_autocast
from course_lib.losses.prototype import labels_at
from course_lib.pseudo_labels.thresholds import IGNORE


def calibrate(rho_S: Tensor, mu_S: Tensor, mu_T: Tensor, known: Tensor | None = None) -> Tensor:
    """Source prototypes moved into the target's clusters, (C, D).

        xi(c)         = mu_T(c) - mu_S(c)             the class-wise domain bias
        rho_S->T(c)   = rho_S(c) + xi(c)

    rho_S, mu_S, mu_T (C, D); known (C,) bool: classes of which both averages exist; the others stay where they are. None: all.
    Features as they are, not brought to length 1: the difference of two means is a shift of the features themselves. Half
    precision becomes float32.

    Source: BiDA (ECCV 2022), seminar slide "Dynamic pseudo labeling".

    >>> calibrate(torch.tensor([[1.0, 1.0]]), torch.tensor([[0.0, 1.0]]), torch.tensor([[2.0, 1.0]]))
    tensor([[3., 1.]])
    """
    if not rho_S.shape == mu_S.shape == mu_T.shape:
        raise ValueError(
            f"calibrate got prototypes {tuple(rho_S.shape)}, {tuple(mu_S.shape)} and {tuple(mu_T.shape)}; it wants three of "
            "(C, D)."
        )
    rho_S, mu_S, mu_T = map(full_precision, (rho_S, mu_S, mu_T))
    xi = mu_T - mu_S
    return rho_S + (xi if known is None else torch.where(known[:, None], xi, 0))


@torch.no_grad()
def dynamic_labels(
    features: Tensor, prototypes: Tensor, threshold: float, there: Tensor | None = None, ignore_index: int = IGNORE
) -> Tensor:
    """The class of the nearest prototype where it is near enough, `ignore_index` elsewhere; without gradient.

        c'(p)  = argmax_c s(f(p), rho(c))
        y_D(p) = c'(p)   if s(f(p), rho(c'(p))) > T,   else 255

    features (N, D, h, w) -> labels (N, h, w), or (N, D) -> (N,); int64 train ids. prototypes (C, D), as `calibrate` makes them.
    threshold: T, a cosine, -1 to 1. No reachable source gives BiDA's; the recipes' is ours.
    there (C,) bool: classes that have a prototype; the others give no label. None: all. A vector of length 0
        has no direction: such a prototype is never the nearest, and such a feature gets no label.

    Source: BiDA (ECCV 2022), seminar slide "Dynamic pseudo labeling", y_D. (The released code compares the class NUMBER with
    its threshold, and nothing reads the result.)

    >>> p = torch.eye(2)
    >>> dynamic_labels(torch.tensor([[1.0, 0.0], [1.0, 1.0], [0.1, 2.0]]), p, threshold=0.9)
    tensor([  0, 255,   1])
    """
    s, c = labels_from(features, prototypes, there)
    return torch.where(s > threshold, c, ignore_index)


@torch.no_grad()
def labels_from(features: Tensor, prototypes: Tensor, there: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """The largest cosine and its class, in the shape of `dynamic_labels`'s result; -inf where no prototype has a direction.

    >>> [part.tolist() for part in labels_from(torch.tensor([[3.0, 0.0]]), torch.eye(2))]
    [[1.0], [0]]
    """
    if features.ndim not in (2, 4) or prototypes.ndim != 2 or features.shape[1] != prototypes.shape[1]:
        raise ValueError(
            f"dynamic_labels got features {tuple(features.shape)} and prototypes {tuple(prototypes.shape)}; it wants "
            "(N, D, h, w) or (N, D), and (C, D) with the same D."
        )
    with without_autocast(features):
        f = full_precision(features)
        rho = prototypes.to(f.dtype)
        # the length of f scales all cosines of a place alike: argmax first, then one division
        dots = torch.einsum("cd,nd...->nc...", functional.normalize(rho, eps=SHORTEST), f)
        gone = torch.linalg.vector_norm(rho, dim=1) <= SHORTEST
        if there is not None:
            gone = gone | ~there
        dots = dots.masked_fill(gone.view(-1, *[1] * (f.ndim - 2)), -torch.inf)
        best, c = dots.max(dim=1)
        length = torch.linalg.vector_norm(f, dim=1)
        s = (best / length.clamp(min=SHORTEST)).clamp(max=1)  # rounding: a cosine of 1.0000001 is not above T = 1
        return torch.where(length > SHORTEST, s, -torch.inf), c


def hybrid_labels(dynamic: Tensor, static: Tensor, ignore_index: int = IGNORE) -> Tensor:
    """The dynamic label where there is one, else the static one:  y_T = y_D if y_D != 255 else y_F.

    Two maps of one shape, or a dynamic map (N, h, w) on a coarser grid than the static (N, H, W): a cell's label then goes to
    all pixels of that cell. int64, `ignore_index` where neither has one. The slides give the dynamic label priority; a comment
    in the release gives it to the static one: swap the arguments for that.

    Source: BiDA (ECCV 2022), seminar slide "Hybrid pseudo labels".

    >>> hybrid_labels(torch.tensor([1, 255, 255]), torch.tensor([2, 2, 255]))
    tensor([  1,   2, 255])
    """
    if dynamic.shape != static.shape:
        if dynamic.ndim != 3 or static.ndim != 3 or len(dynamic) != len(static) or not _covers(static, dynamic):
            raise ValueError(
                f"hybrid_labels got maps {tuple(dynamic.shape)} and {tuple(static.shape)}; it wants one shape, or (N, h, w) "
                "with a larger (N, H, W)."
            )
        dynamic = labels_at(dynamic, static.shape[1:])
    return torch.where(dynamic != ignore_index, dynamic.long(), static.long())


def _covers(large: Tensor, small: Tensor) -> bool:
    return all(a >= b for a, b in zip(large.shape[1:], small.shape[1:], strict=True))
