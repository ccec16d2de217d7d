"""Region contrast: a few unsure cells of each class are pulled to the mean of their class, away from cells of classes like it.

Letters: P cells with vectors z of D numbers and classes y, C classes; Q queries of a class, K negatives of a query; P_c the
cells of class c, H_c those of them that are hard; tau the temperature.

    mu_c = 1/|P_c| sum_{p in P_c} z_p
    q    Q cells of H_c, drawn with replacement
    k    K cells for each query: first a class c' != c of those that are there, then a cell of P_c', each alike,
         P(c') = exp(cos(mu_c, mu_c') / tau) / sum_{j != c} exp(cos(mu_c, mu_j) / tau)
    l_q  = log( exp(cos(q, mu_c) / tau) + sum_k exp(cos(q, k) / tau) ) - cos(q, mu_c) / tau
    L    = 1/n sum_{c in A} 1/Q sum_q l_q,     A: the classes that have a hard cell, where another class is there, too;
                                               n: |A|, or the number of all classes that are there

mu and k are constants: the gradient is that of the queries. A cell of a class is found without a loop: the cells sorted by
class are one table, in which P_c is the part that begins at the sum of the earlier classes' counts, and a uniform number is a
place in it; classes are drawn by Walker's table, in two steps for each of the C Q K negatives whatever C is.

Source: ReCo (Liu et al., ICLR 2022).
"""

from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor

from course_lib import ranks
from course_lib.losses.inputs import IGNORE, SHORTEST, checked_temperature, full_precision, train_ids, without_autocast
from course_lib.losses.nt_xent import softplus
from course_lib.losses.once import once_differentiable
from course_lib.losses.segmentation import count_ids

MeanOver = Literal["hard", "present"]
PARTS = 2**30  # of a probability
MOST_CELLS = 2**24  # of all processes; from there on a float32 number does not reach each of them


class RegionNumbers(NamedTuple):
    """Uniform in [0, 1): which cells are drawn. The same in all processes."""

    query: Tensor  # (C, Q)
    other: Tensor  # (C, Q, K), of the negatives' classes
    cell: Tensor  # (C, Q, K), of the cells of these classes


class Regions(NamedTuple):
    """What was drawn: indices into the cells of all processes, one process after the other."""

    query: Tensor  # (C, Q) int32, as the next two
    other: Tensor  # (C, Q, K), classes
    cell: Tensor  # (C, Q, K)
    there: Tensor  # (C,) bool, A; of other classes the indices mean nothing


def region_contrast(
    z: Tensor,
    y: Tensor,
    hard: Tensor,
    numbers: RegionNumbers,
    temperature: float = 0.5,
    gather: bool = True,
    chunk: int | None = None,
    mean_over: MeanOver = "hard",
) -> Tensor:
    """How badly hard cells find the mean of their class among cells of other classes, a number.

    z (P, D): of any length, cosines are taken. y (P,): train ids of any integer type; a cell of 255 takes no part, and its
        gradient is 0. On the CPU another id is a ValueError, on a GPU ids are not looked at.
    hard (P,) bool: the cells that may be queries.
    numbers: they say C, Q and K, too. The published Q and K are 256 and 512.
    gather: means, queries and negatives are of the cells of all processes, which hold equally many; each process computes its
        own queries. False: this process's own.
    chunk: queries computed at a time, whose negatives are laid side by side: chunk K D numbers. None: 8 on a CPU, where they
        stay in its cache, else 256. Value and gradient are taken from the same rows; it cannot be differentiated twice.

    mean_over: n; "hard": |A|; "present": the classes that have a cell, so that the loss falls as fewer classes are hard.

    With R processes the mean of their losses is the loss of all cells. Half precision and autocast are computed in float32,
    float64 in float64. A vector shorter than 1e-12 has no direction: all its cosines are 0, and so is its gradient. No class
    that counts: 0, with zero gradient.
    Landmarks: ln(1 + K) when all cells are alike; between ln(1 + K exp(-2/tau)) and ln(1 + K exp(2/tau)).

    Computed from the K cells of each query, not from its products with all P cells: at the published sizes (65,536 cells of 256
    numbers) that takes 1/5 of the time on a CPU, for 1/128 of the products; with 4,096 cells of 64 numbers half.

    >>> z, y = torch.eye(2)[[0, 0, 1, 1]], torch.tensor([0, 0, 1, 1])
    >>> numbers = RegionNumbers(torch.zeros(2, 1), torch.zeros(2, 1, 3), torch.zeros(2, 1, 3))
    >>> round(region_contrast(z, y, y < 2, numbers, temperature=1.0).item(), 4)  # ln(1 + 3/e)
    0.7437

    Raises ValueError for shapes, types and settings.
    """
    y = _checked(z, y, hard, numbers, temperature, chunk, mean_over)
    C, Q, K = numbers.other.shape
    with without_autocast(z):
        z = full_precision(z)
        if not len(z):
            return z.sum()
        with torch.no_grad():
            means, count = class_means(z, y, C, gather)
            mu, cells = directions(means), directions(z)
            first, processes = 0, 1
            if gather:
                first, processes = len(z) * ranks.rank(), ranks.count()
                cells, y, hard = (ranks.gather(x) for x in (cells, y, hard.byte()))
            drawn = draw_regions(y, hard > 0, mu @ mu.T, numbers, temperature)
            own = drawn.query - first
            here = (own >= 0) & (own < len(z)) & drawn.there[:, None]
            n = (drawn.there if mean_over == "hard" else count > 0).sum()
            share = here * (processes / (Q * n.clamp(min=1)).to(z.dtype))                    # of l_q in the loss
        q = directions(z[own.clamp(0, len(z) - 1).flatten()])
        chunk = chunk or (8 if z.device.type == "cpu" else 256)
        return _Against.apply(q, mu, cells, drawn.cell.flatten(0, 1), share.flatten(), temperature, chunk,
                              torch.is_grad_enabled())  # fmt: skip


@torch.no_grad()
def class_means(z: Tensor, y: Tensor, num_classes: int, gather: bool = True) -> tuple[Tensor, Tensor]:
    """mu (C, D), 0 for a class that is not there, and |P_c| (C,); of z (P, D) and y (P,), of all processes with `gather`.

    >>> class_means(torch.tensor([[1.0], [3.0], [9.0]]), torch.tensor([0, 0, 255]), 2)[0].tolist()
    [[2.0], [0.0]]
    """
    of = y == torch.arange(num_classes, device=y.device)[:, None]                            # (C, P)
    total, count = of.to(z.dtype) @ z, of.sum(1)
    if gather:
        total, count = ranks.total(total), ranks.total(count)
    return total / count.clamp(min=1)[:, None], count


@torch.no_grad()
def draw_regions(y: Tensor, hard: Tensor, cosines: Tensor, numbers: RegionNumbers, temperature: float = 0.5) -> Regions:
    """Queries and negatives of each class: y (P,) train ids, hard (P,) bool; cosines (C, C) of the class means.

    >>> y, cosines = torch.tensor([0, 1, 1, 2]), torch.tensor([[1.0, 0.9, -0.9], [0.9, 1.0, 0.0], [-0.9, 0.0, 1.0]])
    >>> numbers = RegionNumbers(torch.zeros(3, 1), torch.rand(3, 1, 500), torch.rand(3, 1, 500))
    >>> drawn = draw_regions(y, y < 2, cosines, numbers, temperature=0.1)
    >>> drawn.other[0].unique().tolist(), drawn.cell[0].unique().tolist(), drawn.there.tolist()
    ([1], [1, 2], [True, True, False])
    """
    C, Q, K = numbers.other.shape
    table, count = _table(y, C)
    hard_table, hard_count = _table(torch.where(hard, y, IGNORE), C)
    c = torch.arange(C, device=y.device, dtype=torch.int32)
    possible = (count > 0) & (c != c[:, None])                                               # (C, C): c' for c
    scores = (cosines / temperature).masked_fill(~possible, torch.finfo(cosines.dtype).min)
    share, instead = alias_table((scores.softmax(1) * possible * PARTS).long())
    x = numbers.other.flatten(1) * C
    drawn = x.int()                                                                          # each class alike, and where
    at = drawn + C * c[:, None]                                                              # its share ends another one
    other = torch.where(x - drawn < _taken(share.flatten(), at), drawn, _taken(instead.flatten(), at)).view(C, Q, K)
    return Regions(
        _cells(hard_table, hard_count, c[:, None].expand(C, Q), numbers.query),
        other,
        _cells(table, count, other, numbers.cell),
        (hard_count > 0) & possible.any(1),
    )


def alias_table(parts: Tensor) -> tuple[Tensor, Tensor]:
    """Walker's table: rows of C whole numbers P_j that sum up to S -> share (N, C) float32 and instead (N, C) int32.

    j is drawn with the probability P_j / S by a number x in [0, C): j = floor(x) where x - j is below share_j, else instead_j.
    Column j has room for S / C: it takes all of P_j where that is less, and the rest of the room is given to the class of which
    most is left. In whole numbers: a class of 0 is never drawn. A row of zeros gives any class.

    Source: Walker (1977).

    >>> share, instead = alias_table(torch.tensor([[1, 3, 0]]))  # room for 4/3 in each column
    >>> share.tolist(), instead.tolist()
    ([[0.75, 1.0, 0.0]], [[1, 1, 1]])
    """
    C = parts.shape[1]
    c = torch.arange(C, device=parts.device)
    room, left = parts.sum(1, keepdim=True), parts * C                                       # times C: whole numbers
    share, instead, done = torch.zeros_like(left), torch.zeros_like(left), torch.zeros_like(left, dtype=torch.bool)
    for _ in range(C):
        poorest = left.masked_fill(done, torch.iinfo(left.dtype).max).argmin(1, keepdim=True)
        richest = left.masked_fill(done, -1).argmax(1, keepdim=True)
        taken = left.gather(1, poorest)
        share, instead = torch.where(c == poorest, taken, share), torch.where(c == poorest, richest, instead)
        left = left - (c == richest) * (room - taken)
        done = done | (c == poorest)
    return share.float() / room.clamp(min=1).float(), instead.int()


def _table(y: Tensor, C: int) -> tuple[Tensor, Tensor]:
    """The cells sorted by class, and how many each class has."""
    y = torch.where(y < C, y, C)
    return y.argsort(stable=True).int(), count_ids(y, C + 1)[:C]


def _cells(table: Tensor, count: Tensor, c: Tensor, u: Tensor) -> Tensor:
    """For each class in c a cell of it, by a uniform number in u; any cell where the class has none.

    u n is below n: torch's numbers are at most 1 - 2^-24, and n has fewer than 24 binary digits (`_checked`)."""
    first = (count.cumsum(0) - count).clamp(max=len(table) - 1).int()
    return _taken(table, (u * _taken(count.float(), c)).int() + _taken(first, c))


def _taken(x: Tensor, index: Tensor) -> Tensor:
    """x[index] of a row x; in a quarter of the time."""
    return x.index_select(0, index.flatten()).view(index.shape)


def directions(x: Tensor) -> Tensor:
    """Rows (N, D) of unit length; a row shorter than 1e-12 becomes 0, and has no gradient."""
    length = torch.linalg.vector_norm(x, dim=1, keepdim=True)
    long = length > SHORTEST
    return torch.where(long, x / torch.where(long, length, 1), 0)


class _Against(torch.autograd.Function):
    """sum_q w_q l_q and its gradient, from `chunk` queries at a time.

        g = log sum_k exp(q.k / tau) - q.mu / tau,   l = log(1 + exp(g)),   e_k = exp(q.k / tau) / sum_k exp(q.k / tau)
        dl/dq = sigmoid(g) / tau (sum_k e_k k - mu)

    q (C Q, D), class by class, mu (C, D) and cells (M, D) of unit length; index (C Q, K) of cells; w (C Q,).
    """

    @staticmethod
    def forward(ctx, q, mu, cells, index, w, temperature, chunk, gradient):
        mu = mu[:, None].expand(-1, len(q) // len(mu), -1).flatten(0, 1)
        own = (q * mu).sum(1) / temperature
        d_q = torch.empty_like(q) if gradient and ctx.needs_input_grad[0] else None
        L = q.new_zeros(())
        for start in range(0, len(q), chunk):
            part = slice(start, start + chunk)
            i = index[part]
            k = cells.index_select(0, i.flatten()).view(*i.shape, -1)                        # (chunk, K, D)
            s = torch.bmm(k, q[part, :, None])[..., 0] / temperature
            g = s.logsumexp(1) - own[part]
            L += w[part] @ softplus(g)
            if d_q is not None:
                pull = torch.bmm(s.softmax(1)[:, None], k)[:, 0] - mu[part]                  # sum_k e_k k - mu
                torch.mul(pull, (w[part] * g.sigmoid() / temperature)[:, None], out=d_q[part])
        ctx.save_for_backward(d_q)
        return L

    @staticmethod
    @once_differentiable("write region_contrast's formula with torch's own operations")
    def backward(ctx, upstream):
        (d_q,) = ctx.saved_tensors
        return None if d_q is None else upstream * d_q, *[None] * 7


def _checked(
    z: Tensor, y: Tensor, hard: Tensor, numbers: RegionNumbers, temperature: float, chunk: int | None, mean_over: str
) -> Tensor:
    """The classes as int64."""
    if z.ndim != 2 or not z.is_floating_point() or y.shape != z.shape[:1] or hard.shape != y.shape or hard.dtype != torch.bool:
        raise ValueError(
            f"region_contrast got vectors {tuple(z.shape)} {z.dtype}, classes {tuple(y.shape)} and hard {tuple(hard.shape)} "
            f"{hard.dtype}; it wants real numbers (P, D), train ids (P,) and bool (P,). Lay the cells of maps one below the "
            "other first."
        )
    u, other, cell = numbers
    if other.ndim != 3 or min(other.shape) < 1 or u.shape != other.shape[:2] or cell.shape != other.shape:
        raise ValueError(
            f"numbers are {tuple(u.shape)}, {tuple(other.shape)} and {tuple(cell.shape)}; region_contrast wants (C, Q), "
            "(C, Q, K) and (C, Q, K), none of them 0."
        )
    if chunk is not None and chunk < 1:
        raise ValueError(f"chunk is {chunk}; it is how many queries are computed at a time: at least 1.")
    if len(z) * ranks.count() >= MOST_CELLS:
        raise ValueError(f"region_contrast got {len(z)} cells; it wants fewer than 2^24 of all processes. Take a smaller grid.")
    checked_temperature(temperature)
    if mean_over not in get_args(MeanOver):
        raise ValueError(f"mean_over is {mean_over!r}; region_contrast wants 'hard' or 'present'.")
    return train_ids(y, len(u))
