"""Attraction of cells to a memory of good features of their class: a contrast without negatives.

Letters: C classes, D numbers of a feature; of class c: M cells with features p_i and weights w_i, N vectors z_j of the memory
with weights v_j; p^, z^ the same at unit length.

    w^_i = M w_i / sum_i w_i,    v^_j = N v_j / sum_j v_j                                       both have the mean 1
    L    = 1/C sum_c  1/(M N) sum_ij  w^_i v^_j (1 - p^_i . z^_j)

The weights only say which pairs count. As both have the mean 1, the sum over all pairs is one product of two means:

    a_c  = sum_i w_i p^_i / sum_i w_i,    b_c = sum_j v_j z^_j / sum_j v_j,    L = 1/C sum_c (1 - a_c . b_c)

Source: SemiSegContrast (Alonso et al., ICCV 2021).
"""

import torch
from torch import Tensor

from course_lib import ranks
from course_lib.losses.inputs import IGNORE, SHORTEST, full_precision, refuse_gradient, train_ids, without_autocast
from course_lib.losses.prototype import as_columns


def memory_contrast(
    features: Tensor,
    labels: Tensor,
    memory: Tensor,
    there: Tensor,
    weight: Tensor | None = None,
    memory_weight: Tensor | None = None,
    ignore_index: int = IGNORE,
) -> Tensor:
    """How far cells are from the memory of their class, a number from 0 (the same direction) to 2 (the opposite one).

    features (N, D, H, W) with labels (N, H, W), or (P, D) with (P,): train ids of any integer type at the features' size;
        `ignore_index` does not count; on the CPU another id is a ValueError, on a GPU ids are not looked at.
    memory (C, K, D): constants, with there (C, K) bool, which places have a vector. `FeatureQueue.features` and `.there`.
    weight: w in the labels' shape, positive, with a gradient; None: 1. memory_weight: v (C, K), likewise. As released, v is
        divided by itself, so that it is 1 and its selectors never learn: None.

    Time and memory grow with the cells and with the memory, not with their product. A class counts where it has a cell, of any
    process, and a vector in the memory; all others are 0 in the mean over the C classes, as released. A feature of length 0 has
    the cosine 0 to all. With R processes the cells are those of all of them, and each gets the same number. Half precision
    and autocast are computed in float32, float64 in float64. Rounding: some units of 1e-7, also near 0.

    >>> z = torch.eye(2)[:, None]  # one vector of each of two classes
    >>> there = torch.ones(2, 1, dtype=torch.bool)
    >>> p = torch.tensor([[3.0, 0.0], [0.0, 2.0]])
    >>> [memory_contrast(p, torch.tensor(y), z, there).item() for y in ([0, 1], [0, 0], [255, 255])]
    [0.0, 0.25, 0.0]

    Raises ValueError for shapes, types and ids.
    """
    F, Y = as_columns(features, labels)
    C = _checked(F, labels, memory, there, weight, memory_weight)
    y = train_ids(Y, C, ignore_index)                                                       # (N, P)
    with without_autocast(F):
        p = full_precision(F).contiguous()  # one order of the sums, whatever format the features have
        w = torch.ones_like(y, dtype=p.dtype) if weight is None else full_precision(weight).view(y.shape).to(p.dtype)
        of_class = y[:, None] == torch.arange(C, device=y.device)[:, None]                  # (N, C, P)
        w = torch.where(of_class, w[:, None], 0.0)
        sums = torch.cat([torch.bmm(w * _inverse_length(p, 1), p.mT), w.sum(2, keepdim=True)], dim=2).sum(0)
        sums = ranks.gather(sums[None]).sum(0)                                              # (C, D + 1), of all processes
        a, present = _mean(sums), sums[:, -1] > 0
        z = full_precision(memory).to(p.dtype)
        v = there.to(p.dtype) if memory_weight is None else torch.where(there, full_precision(memory_weight).to(p.dtype), 0.0)
        scaled = v[:, None] * _inverse_length(z, 2).mT                                      # (C, 1, K)
        b = _mean(torch.cat([torch.bmm(scaled, z)[:, 0], v.sum(1, keepdim=True)], dim=1))
        counts = present & there.any(dim=1)
        return torch.where(counts, 1 - (a * b).sum(dim=1), 0.0).sum() / C


def _inverse_length(x: Tensor, dim: int) -> Tensor:
    """1 / |x| along `dim`, which is kept; 0, without a gradient, for a vector that has no direction."""
    length = torch.linalg.vector_norm(x, dim=dim, keepdim=True)
    long = length > SHORTEST
    return long / torch.where(long, length, 1.0)


def _mean(sums: Tensor) -> Tensor:
    """(C, D + 1) with the sum of the weights last -> (C, D)."""
    total = sums[:, -1:]
    some = total > 0
    return torch.where(some, sums[:, :-1], 0.0) / torch.where(some, total, 1.0)


def _checked(
    F: Tensor, labels: Tensor, memory: Tensor, there: Tensor, weight: Tensor | None, memory_weight: Tensor | None
) -> int:
    """The number of classes, once all shapes fit."""
    if memory.ndim != 3 or memory.shape[2] != F.shape[1] or there.shape != memory.shape[:2] or there.dtype != torch.bool:
        raise ValueError(
            f"memory_contrast got features of {F.shape[1]} numbers, a memory {tuple(memory.shape)} and there "
            f"{tuple(there.shape)} of {there.dtype}; it wants (C, K, {F.shape[1]}) and (C, K) bool."
        )
    refuse_gradient("memory", memory)
    if weight is not None and weight.shape != labels.shape:
        raise ValueError(
            f"weight is {tuple(weight.shape)} and the labels are {tuple(labels.shape)}; it wants one positive number for each."
        )
    if memory_weight is not None and memory_weight.shape != there.shape:
        raise ValueError(
            f"memory_weight is {tuple(memory_weight.shape)} and the memory has {tuple(there.shape)} places; it wants one "
            "positive number for each."
        )
    return len(memory)
