"""Contrast of labelled cells with one another: a row has to find each candidate of its class among those of other classes.

Letters: A rows u_i with classes y_i, M candidates v_j with classes z_j, D numbers of each, tau the temperature, w_ij the weight
of a pair. P_i = {j : z_j = y_i}, the positives of row i; {k : z_k != y_i}, its negatives.

    s_ij = u_i . v_j / tau
    C_ij = log( exp(s_ij) + sum_{k : z_k != y_i} exp(s_ik) ) - s_ij
    L    = 1/|{i : P_i not empty}| sum_i 1/|P_i| sum_{j in P_i} w_ij C_ij

Other positives of the row are not in the sum over k. Computed in this form, which keeps the digits of small and large values:

    g_ij = log sum_{k : z_k != y_i} exp(s_ik - s_ij),    C_ij = log(1 + exp(g_ij))

Source: ContrastiveSeg (Wang et al., ICCV 2021) and PiPa (Chen et al., ACM MM 2023), with w = 1; CLUDA (Vayyat et al., arXiv
2022), with weights.
"""

import torch
from torch import Tensor

from course_lib import ranks
from course_lib.losses.inputs import IGNORE, checked_temperature, full_precision, train_ids, without_autocast
from course_lib.losses.nt_xent import softplus
from course_lib.losses.once import once_differentiable
from course_lib.losses.segmentation import count_ids

Weight = tuple[Tensor, Tensor]


def pair_contrast(
    u: Tensor,
    v: Tensor,
    u_class: Tensor,
    v_class: Tensor,
    temperature: float = 0.1,
    same_rows: bool = False,
    positive: Tensor | None = None,
    weight: Weight | None = None,
    chunk: int | None = 256,
    gather: bool = False,
) -> Tensor:
    """How badly rows find the candidates of their class among those of other classes, a number.

    u (A, D), v (M, D): as they are, nothing is divided by a length; the papers have rows of unit length. Both get a gradient.
    u_class (A,), v_class (M,): train ids of any integer type, 0 to 254; a row or a candidate of 255 does not take part, and
        its gradient is 0. On the CPU another id is a ValueError, on a GPU ids are not looked at.
    same_rows: row i and candidate i are one cell (A = M), which is no positive of itself. v may be u, or another feature of
        the same cells.
    positive (M,) bool: the candidates that may be positives; others are negatives alone. None: all.
    weight: factors (a, b) of the pairs' weights, w_ij = a_i . b_j, with a gradient: a (A,) and b (M,), or (A, K) and (M, K).
        1 - a_i b_j is that of (1, -a_i) and (1, b_j). None: all 1.
    chunk: rows computed at a time, in the backward pass too: memory is a few chunk x M matrices, never A x M, and each
        similarity is computed once. It cannot be differentiated twice. None: the whole matrix with torch's own gradient.
    gather: candidates are those of all processes, which hold equally many; with same_rows, row i of process r is candidate
        r A + i. False: this process's own.

    With R processes a row counts as one of all their rows: the mean of the processes' losses is the mean over all rows that
    have a positive. Half precision and autocast are computed in float32, float64 in float64.

    Rows without a positive do not count; a row without negatives has C = 0. No row that counts: 0, with zero gradient.
    Landmarks, w = 1: ln(1 + number of negatives) when all rows are alike; at unit length between
    ln(1 + n exp(-2/tau)) and ln(1 + n exp(2/tau)) for n negatives.

    >>> u = torch.eye(3)[[0, 0, 1, 1]]
    >>> y, swapped = torch.tensor([0, 0, 1, 1]), torch.tensor([0, 1, 0, 1])
    >>> [round(pair_contrast(u, u, c, c, 1.0, same_rows=True).item(), 4) for c in (y, swapped)]  # ln(1 + 2/e), ln(2 + e)
    [0.5514, 1.5514]

    Raises ValueError for shapes, types and settings.
    """
    y, z, (a, b) = _checked(u, v, u_class, v_class, temperature, same_rows, positive, weight, chunk)
    with without_autocast(u):
        u, v = full_precision(u), full_precision(v)
        dtype = torch.promote_types(u.dtype, v.dtype)
        u, v = u.to(dtype), v.to(dtype)
        a, b = (None if x is None else x.to(dtype) for x in (a, b))
        p = z if positive is None else torch.where(positive, z, IGNORE)              # classes of those that may be positives
        first = 0
        if gather:
            first = len(u) * ranks.rank()
            v, z, p = ranks.gather(v), ranks.gather(z), ranks.gather(p)
            b = None if b is None else ranks.gather(b)
        itself = first + torch.arange(len(u), device=u.device) if same_rows else None
        n = count_ids(p, IGNORE + 1)[y]                                              # |P_i|
        if itself is not None:
            n = n - (p[itself] == y).long()
        n = torch.where(y == IGNORE, 0, n)
        rows = ranks.total((n > 0).sum()).clamp(min=1)
        c = (n > 0).to(dtype) / n.clamp(min=1) * ranks.count() / rows                # of each row's sum in the loss
        y = torch.where(y == IGNORE, -1, y)                                          # equal to no candidate's class
        if chunk is None:
            return _whole(u, v, y, z, p, itself, c, temperature, a, b)
        return _Chunked.apply(u, v, a, b, y, z, p, itself, c, temperature, chunk, torch.is_grad_enabled())


def _whole(u, v, y, z, p, itself, c, temperature, a, b) -> Tensor:
    cosines = u @ v.T
    nothing = _nothing(cosines, temperature)
    negatives = cosines.masked_fill((y[:, None] == z) | (z == IGNORE), nothing)
    m = negatives.detach().amax(1, keepdim=True) if len(v) else nothing
    g = (m - cosines) / temperature + ((negatives - m) / temperature).logsumexp(1, keepdim=True)
    pairs = y[:, None] == p
    if itself is not None:
        pairs[torch.arange(len(u), device=u.device), itself] = False
    C = softplus(g.masked_fill(~pairs, 0.0))
    if a is not None:
        C = C * (a @ b.T)
    return (c[:, None] * C).where(pairs, 0.0).sum()


class _Chunked(torch.autograd.Function):
    """The same from `chunk` rows at a time. Their part of the gradient is taken on the spot.

        q_ij = w_ij sigmoid(g_ij) for j in P_i, else 0,      e_ik = exp(s_ik - m_i), m_i the largest of the negatives',
        E_i  = sum_k e_ik over the negatives,                c_i = 1 / (|P_i| number of rows that count)
        dL/ds_ik = c_i p_ik,   p_ik = e_ik / E_i sum_j q_ij for negatives, - q_ij for positives
        dL/du_i = c_i / tau sum_k p_ik v_k,   dL/dv_k = 1 / tau sum_i c_i p_ik u_i
        dL/da_i = c_i sum_j C_ij b_j,         dL/db_j = sum_i c_i C_ij a_i
    """

    @staticmethod
    def forward(ctx, u, v, a, b, y, z, p, itself, c, temperature, chunk, gradient):
        wanted = [gradient and needed for needed in ctx.needs_input_grad[:4]]
        d_u, d_v, d_a, d_b = (torch.zeros_like(x) if some else None for x, some in zip((u, v, a, b), wanted))
        nothing = _nothing(u, temperature)
        ignored = torch.where(z == IGNORE, nothing, u.new_zeros(()))                # added to the products: exp gives 0
        L, k = u.new_zeros(()), min(chunk, len(u))
        blocks = u.new_empty(2, k, len(v)), torch.empty(k, len(v), dtype=torch.bool, device=u.device)
        for start in range(0, len(u) if len(v) else 0, chunk):
            part = slice(start, start + chunk)
            (s, e), mask = blocks[0][:, : len(u[part])], blocks[1][: len(u[part])]
            torch.addmm(ignored, u[part], v.T, out=s)
            torch.eq(y[part, None], z, out=mask)
            e.copy_(s).masked_fill_(mask, nothing)
            m = e.amax(1, keepdim=True)
            e.sub_(m).div_(temperature).exp_()                                      # e_ik
            E = e.sum(1, keepdim=True)
            g = s.sub_(m).div_(-temperature).add_(E.log())
            torch.ne(y[part, None], p, out=mask)                                    # no positive
            if itself is not None:
                mask[torch.arange(len(mask), device=u.device), itself[part]] = True
            C = softplus(g.masked_fill_(mask, -torch.inf))
            w = None if a is None else a[part] @ b.T
            L += c[part] @ (C if w is None else C * w).sum(1)
            if not any(wanted):
                continue
            share = c[part, None]
            if d_a is not None:
                torch.mm(C, b, out=d_a[part]).mul_(share)
            if d_b is not None:
                d_b.addmm_(C.T, a[part] * share)
            q = g.sigmoid_() if w is None else g.sigmoid_().mul_(w)
            e.mul_(q.sum(1, keepdim=True) / E).sub_(q)                              # p_ik
            if d_u is not None:
                torch.mm(e, v, out=d_u[part]).mul_(share / temperature)
            if d_v is not None:
                d_v.addmm_(e.T, u[part] * (share / temperature))
        ctx.save_for_backward(d_u, d_v, d_a, d_b)
        return L

    @staticmethod
    @once_differentiable("the whole matrix can: chunk=None")
    def backward(ctx, upstream):
        return *(None if d is None else upstream * d for d in ctx.saved_tensors), *[None] * 8


def _nothing(x: Tensor, temperature: float) -> float:
    """The product of rows that do not count: exp gives 0. Differences of it, over the temperature, are finite."""
    return torch.finfo(x.dtype).min / 4 * min(1.0, temperature)


def _checked(u, v, u_class, v_class, temperature, same_rows, positive, weight, chunk) -> tuple[Tensor, Tensor, tuple]:
    """The classes as int64, and the factors as (A, K) and (M, K) or None."""
    if u.ndim != 2 or v.ndim != 2 or u.shape[1] != v.shape[1] or not (u.is_floating_point() and v.is_floating_point()):
        raise ValueError(
            f"pair_contrast got rows {tuple(u.shape)} {u.dtype} and candidates {tuple(v.shape)} {v.dtype}; it wants real "
            "numbers (A, D) and (M, D). Lay the cells of maps one below the other first."
        )
    if u_class.shape != u.shape[:1] or v_class.shape != v.shape[:1]:
        raise ValueError(
            f"pair_contrast got classes {tuple(u_class.shape)} of {len(u)} rows and {tuple(v_class.shape)} of {len(v)} "
            "candidates; it wants one train id for each."
        )
    if same_rows and len(u) != len(v):
        raise ValueError(f"same_rows=True wants as many candidates as rows; got {len(v)} and {len(u)}.")
    if positive is not None and (positive.shape != v.shape[:1] or positive.dtype != torch.bool):
        raise ValueError(
            f"positive is {tuple(positive.shape)} of {positive.dtype}; it wants one bool for each candidate, ({len(v)},)."
        )
    if isinstance(checked_temperature(temperature), Tensor):
        raise ValueError("temperature is a tensor, and pair_contrast has no gradient for it; it wants a number: 0.1.")
    if chunk is not None and chunk < 1:
        raise ValueError(f"chunk is {chunk}; it is the number of rows computed at a time: 1 or more, or None for all.")
    a, b = (None, None) if weight is None else (x[:, None] if x.ndim == 1 else x for x in weight)
    if a is not None and not (a.ndim == b.ndim == 2 and len(a) == len(u) and len(b) == len(v) and a.shape[1] == b.shape[1]):
        raise ValueError(
            f"weight is a pair of factors {tuple(weight[0].shape)} and {tuple(weight[1].shape)}; it wants ({len(u)},) and "
            f"({len(v)},), or ({len(u)}, K) and ({len(v)}, K)."
        )
    return train_ids(u_class, IGNORE), train_ids(v_class, IGNORE), (a, b)
