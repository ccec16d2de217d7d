"""SePiCo's contrast: the feature of a cell is drawn to what is known of its class, away from what is known of all others.

Letters: P cells with a label, D channels, C classes; q_i the feature of cell i and y_i its class; mu_c and v_c the mean and the
variance (channel by channel) of class c, m_ck its K_c centroids; tau the temperature.

    ProtoCL   1/P sum_i - log [ exp(q_i.mu_y / tau) / sum_c exp(q_i.mu_c / tau) ]                      `prototype_contrast`
    DistCL    1/P sum_i ( - q_i.mu_y / tau + log sum_c exp(q_i.mu_c / tau + q_i^2.v_c / (2 tau^2)) )   `distribution_contrast`
    BankCL    1/P sum_i 1/K_y sum_k - log [ e^s_ik / (e^s_ik + sum_{c != y} e^b_ic) ]                  `bank_contrast`
              s_ik = q_i.m_yk / tau,   b_ic = 1/K_c sum_k q_i.m_ck / tau
    even      - 1/(C ln C) sum_c log softmax_c(Q.mu_c / tau),   Q = 1/P sum_i q_i                      `uniform_regulariser`

DistCL is the closed form of infinitely many pairs. If features of class c are drawn from N(mu_c, v_c), the exponential of
q.m / tau has the mean exp(q.mu_c / tau + q^2.v_c / (2 tau^2)), and Jensen's inequality takes the mean inside the logarithm: it
is an upper bound of the mean InfoNCE loss over such pairs, and ProtoCL where v = 0.

With R processes, each one's sum is scaled so that the mean of their losses is the loss of the whole batch.

Source: SePiCo (Xie et al., TPAMI 2023), eq. 13 for the last; its release has tau = 100 (`distribution_contrast`).
"""

import torch
from torch import Tensor
from torch.nn import functional

from course_lib import ranks
from course_lib.losses.inputs import IGNORE, checked_temperature, full_precision, refuse_gradient, train_ids, without_autocast
from course_lib.losses.nt_xent import softplus
from course_lib.losses.once import once_differentiable
from course_lib.losses.prototype import as_columns, weighted_prototypes
from course_lib.losses.segmentation import count_ids

BLOCK = 128  # cells of one class that are compared with its centroids at a time
_AT_A_TIME = 2**21  # numbers of such blocks, with their centroids, that exist at a time


def distribution_contrast(
    features: Tensor,
    labels: Tensor,
    means: Tensor,
    variances: Tensor,
    temperature: float | Tensor,
    seen: Tensor | None = None,
    cell_weight: Tensor | None = None,
    ignore_index: int = IGNORE,
) -> Tensor:
    """DistCL: the mean over labelled cells; 0 where none is.

    features (N, D, h, w) with labels (N, h, w), or (P, D) with (P,): train ids; `ignore_index` does not count; on the CPU
        another id is a ValueError. Half precision and autocast are computed in float32.
    means, variances (C, D): constants, `RunningStatistics.means` and `.variances`. With variances of 0 value and gradient are
        those of `prototype_contrast`, bit for bit.
    temperature: the release has 100. With features of unit length and without negative numbers, as SePiCo's are, the loss then
        stays within 0.0101 of ln C, whatever they are. Its gradient is about 1,000 times smaller than at 0.1.
    seen (C,) bool: classes never seen are left out of the sum over c, and their cells do not count. None: all are.
    cell_weight: in the labels' shape, constants of at least 0: sum_i w_i L_i / sum_i w_i. None: all 1.

    It cannot be differentiated twice.

    >>> q, y = torch.eye(3), torch.arange(3)
    >>> round(distribution_contrast(q, y, q, torch.zeros(3, 3), 1.0).item(), 4)  # ln(1 + 2/e), as `prototype_contrast`
    0.5514
    >>> round(distribution_contrast(q, y, q, torch.ones(3, 3), 1.0).item(), 4)  # the same plus 1/2: q^2.v / 2
    1.0514
    """
    temperature = checked_temperature(temperature)
    q, y = as_columns(features, labels)
    means = _constants("means", means, q, means.shape[:1])
    variances = _constants("variances", variances, q, means.shape[:1])
    y = train_ids(y, len(means), ignore_index)
    if seen is not None:
        y = torch.where(seen[y.clamp(0, len(means) - 1)], y, ignore_index)
    first, second = _Gaussian.apply(q, means, variances)                              # q.mu_c and q^2.v_c / 2, (N, C, P)
    spread = second / temperature**2
    s = first / temperature + spread
    if seen is not None:
        s = s.masked_fill(~seen[:, None], torch.finfo(s.dtype).min)                   # -inf would be NaN if none is seen
    known = y != ignore_index
    own = spread.gather(1, torch.where(known, y, 0)[:, None])[:, 0]                   # q^2.v_y / (2 tau^2): not in the positive
    losses = functional.cross_entropy(s, y, ignore_index=ignore_index, reduction="none") + torch.where(known, own, 0.0)
    w = _checked_cells(cell_weight, labels, known, s.dtype)
    return (losses if cell_weight is None else losses * w).sum() * ranks.count() / _one_if_none(w)


def bank_contrast(
    features: Tensor,
    labels: Tensor,
    centroids: Tensor,
    there: Tensor,
    temperature: float,
    cell_weight: Tensor | None = None,
    ignore_index: int = IGNORE,
) -> Tensor:
    """BankCL: the mean over labelled cells; 0 where none is.

    features, labels, cell_weight, temperature: as for `distribution_contrast`; a number alone.
    centroids (C, K, D), there (C, K) bool: constants, those of `CentroidQueue`. A class without any is left out of the
        denominator, and its cells do not count.

    A cell is compared with the centroids of its own class, and with the mean centroid of each other one: b_ic is q_i . mean_k
    m_ck / tau. Cells are sorted by class and taken in blocks; value and gradient of a few blocks are computed at a time, so
    nothing of cells x centroids stays. It cannot be differentiated twice.

    >>> q, y = torch.eye(3), torch.arange(3)
    >>> there = torch.ones(3, 1, dtype=torch.bool)
    >>> round(bank_contrast(q, y, q[:, None], there, 1.0).item(), 4)  # one centroid each: `prototype_contrast`
    0.5514
    """
    if isinstance(temperature, Tensor):
        raise ValueError("bank_contrast got the temperature as a tensor; it has no gradient for it and wants a number.")
    temperature = checked_temperature(temperature)
    q, y = as_columns(features, labels)
    if centroids.ndim != 3 or there.shape != centroids.shape[:2]:
        raise ValueError(
            f"bank_contrast got centroids {tuple(centroids.shape)} and there {tuple(there.shape)}; it wants (C, K, D) and "
            "(C, K): CentroidQueue.centroids and .there."
        )
    m = _constants("centroids", centroids, q, there.shape)
    y = train_ids(y, len(m), ignore_index)
    if not y.numel():
        return full_precision(q).sum()
    known = (y != ignore_index) & there.any(dim=1)[y.clamp(0, len(m) - 1)]
    y = torch.where(known, y, len(m))                                                 # C: does not count
    w = _checked_cells(cell_weight, labels, known, m.dtype)
    w = w * ranks.count() / _one_if_none(w)
    gradient = torch.is_grad_enabled() and q.requires_grad
    return _Bank.apply(q, y, w, m, there, temperature, gradient)


def uniform_regulariser(
    features: Tensor,
    labels: Tensor,
    means: Tensor,
    temperature: float | Tensor,
    seen: Tensor | None = None,
    released: bool = False,
    ignore_index: int = IGNORE,
) -> Tensor:
    """How far the mean feature of the labelled cells (of all processes) is from being as near to every class:

        R = - 1/(C ln C) sum_c log softmax_c(Q.mu_c / tau),   Q = 1/P sum_i q_i

    Least, 1, where the softmax is uniform: to minimise R pulls Q there. released: with the other sign, as in the released code:
    at most -1, and to minimise it pushes Q away from uniform, without a lower end.

    features, labels, means, temperature, seen: as for `distribution_contrast`. C are the classes seen. 0 with zero gradient
    where no cell counts, or fewer than two classes are seen.

    >>> q, y = torch.eye(3), torch.arange(3)
    >>> round(uniform_regulariser(q, y, q, 0.1).item(), 4)
    1.0
    """
    temperature = checked_temperature(temperature)
    q, y = as_columns(features, labels)
    means = _constants("means", means, q, means.shape[:1])
    y = train_ids(y, len(means), ignore_index)
    if seen is None:
        seen = torch.ones(len(means), dtype=torch.bool, device=means.device)
    known = (y != ignore_index) & seen[y.clamp(0, len(means) - 1)]
    with without_autocast(q):
        own = torch.bmm(q.to(means.dtype), known.to(means.dtype)[:, :, None]).sum(dim=0)[:, 0]      # sum_i q_i, (D,)
        R, P = ranks.count(), ranks.total(known.sum())
        Q = (ranks.total(own) + R * (own - own.detach())) / P.clamp(min=1)  # its gradient is averaged over the processes
        s = (means @ Q / temperature).masked_fill(~seen, torch.finfo(means.dtype).min)
        C = seen.sum()
        total = torch.where(seen, s.log_softmax(dim=0), 0.0).sum() / (C * C.to(s.dtype).log()).clamp(min=1)  # 2 ln 2 > 1
    return torch.where((P > 0) & (C > 1), total if released else -total, 0.0)


class _Gaussian(torch.autograd.Function):
    """q (N, D, P), mu and v (C, D) -> q.mu_c and q^2.v_c / 2, (N, C, P) both.

        d(q.mu_c) / dq = mu_c,    d(q^2.v_c / 2) / dq = v_c q

    Forward keeps q itself and no copy.
    """

    @staticmethod
    def forward(ctx, q: Tensor, mu: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(q, mu, v)
        with without_autocast(q):
            wide = q.to(mu.dtype)
            first = torch.bmm(mu.expand(len(q), -1, -1), wide)
            return first, torch.bmm(v.expand(len(q), -1, -1), wide.square()).div_(2)

    @staticmethod
    @once_differentiable("write the formula of distribution_contrast with torch's own operations")
    def backward(ctx, g: Tensor, h: Tensor) -> tuple[Tensor, None, None]:
        q, mu, v = ctx.saved_tensors
        with without_autocast(q):
            dq = weighted_prototypes(g, mu, q)                                        # sum_c g_c mu_c + q sum_c h_c v_c
            dq.addcmul_(q.to(mu.dtype), weighted_prototypes(h, v, q))
        return dq.to(q.dtype), None, None


class _Bank(torch.autograd.Function):
    """sum_i w_i L_i of BankCL from blocks of cells of one class; their part of the gradient is taken on the spot.

        g_i = log sum_{c != y} exp(b_ic),   t_ik = g_i - s_ik,   L_i = 1/K_y sum_k log(1 + exp(t_ik))
        dL_i/ds_ik = - sigmoid(t_ik) / K_y,   dL_i/db_ic = softmax_c(b_i) sum_k sigmoid(t_ik) / K_y
        dL_i/dq_i  = ( sum_k dL_i/ds_ik m_yk + sum_c dL_i/db_ic mean_k m_ck ) / tau

    q (N, D, P), y (N, P) with C for cells that do not count, w (N, P), m (C, K, D), there (C, K).
    """

    @staticmethod
    def forward(ctx, q, y, w, m, there, temperature, gradient):
        (N, D, P), (C, K, _) = q.shape, m.shape
        with without_autocast(q):
            cells, block_class = _blocks(y.flatten(), C)                              # (blocks, BLOCK), (blocks,)
            m = torch.where(there[:, :, None], m, 0.0)
            K_c = there.sum(dim=1).clamp(min=1)
            mean = m.sum(dim=1) / K_c[:, None]                                        # mean_k m_ck
            share = there.to(m.dtype) / K_c[:, None]                                  # 1 / K_c
            empty, low = ~there.any(dim=1), torch.finfo(m.dtype).min
            w = torch.cat([w.flatten(), w.new_zeros(1)])  # of the cell N P, which fills up blocks
            dq = m.new_zeros(N * P + 1, D) if gradient else None
            total, rows = m.new_zeros(()), q.mT                                       # (N, P, D), a view
            step = max(1, _AT_A_TIME // (K * D + BLOCK * (D + 3 * K)))
            for index, c in zip(cells.split(step), block_class.split(step)):
                inside = index.clamp(max=N * P - 1)
                x = rows[inside // P, inside % P].to(m.dtype)                         # (b, BLOCK, D)
                own = m[c]                                                            # m_yk, (b, K, D)
                b = x @ mean.T / temperature                                          # b_ic, (b, BLOCK, C)
                out = empty | (torch.arange(C, device=c.device) == c[:, None])
                b = b.masked_fill(out[:, None], low)
                g = b.logsumexp(dim=2)
                t = g[:, :, None] - torch.bmm(x, own.mT) / temperature                # t_ik, (b, BLOCK, K)
                a = share[c][:, None] * w[index][:, :, None]                          # w_i / K_y
                total += (softplus(t) * a).sum()
                if gradient:
                    a = t.sigmoid_().mul_(a)                                          # - dL/ds_ik
                    d_b = (b - g[:, :, None]).exp_().mul_(a.sum(dim=2, keepdim=True))
                    dx = (d_b @ mean).baddbmm_(a, own, alpha=-1)
                    dq[index] = dx.div_(temperature)
        if gradient:
            ctx.save_for_backward(dq[:-1].view(N, P, D).mT)
        ctx.dtype = q.dtype
        return total

    @staticmethod
    @once_differentiable("write the formula of bank_contrast with torch's own operations")
    def backward(ctx, upstream):
        (dq,) = ctx.saved_tensors
        return (upstream * dq).to(ctx.dtype), *[None] * 6


def _blocks(y: Tensor, num_classes: int) -> tuple[Tensor, Tensor]:
    """Cells sorted by class and cut into blocks of one class each: the cells (blocks, BLOCK), len(y) where a block has no
    more, and the class of each block. y (n,) with `num_classes` for cells that are in none. The host does not wait for a GPU.
    """
    n, C = len(y), num_classes
    count = count_ids(y, C + 1)
    blocks = (count[:C] + BLOCK - 1) // BLOCK                                         # of each class
    ends = blocks.cumsum(0)
    most = n // BLOCK + C  # at least as many: at most one of a class is not full
    start = torch.cat([(ends - blocks) * BLOCK, ends.new_full((1,), most * BLOCK)])  # those in none behind all others
    order = y.argsort(stable=True)
    of = y[order]
    place = start[of] + torch.arange(n, device=y.device) - (count.cumsum(0) - count)[of]
    cells = torch.full((most * BLOCK + n,), n, device=y.device).scatter_(0, place, order)[: most * BLOCK]
    block_class = torch.searchsorted(ends, torch.arange(most, device=y.device), right=True).clamp(max=C - 1)
    return cells.view(most, BLOCK), block_class


def _constants(name: str, x: Tensor, q: Tensor, first: tuple[int, ...]) -> Tensor:
    """Statistics in the format of the loss; ValueError where they do not fit the features q (N, D, P)."""
    if x.shape != (*first, q.shape[1]):
        raise ValueError(
            f"{name} is {tuple(x.shape)}, and the features have {q.shape[1]} channels; it wants {(*first, q.shape[1])}."
        )
    refuse_gradient(name, x)
    return x.to(torch.promote_types(q.dtype, torch.float32))


def _checked_cells(weight: Tensor | None, labels: Tensor, known: Tensor, dtype: torch.dtype) -> Tensor:
    """The weight of each cell, 0 where it does not count, in the shape of `known`."""
    if weight is None:
        return known.to(dtype)
    if weight.shape != labels.shape:
        raise ValueError(f"cell_weight is {tuple(weight.shape)} and the labels are {tuple(labels.shape)}; it wants one shape.")
    refuse_gradient("cell_weight", weight)
    return torch.where(known, weight.view(known.shape).to(dtype), 0.0)


def _one_if_none(w: Tensor) -> Tensor:
    """The sum of the weights of all processes, or 1 where that is 0."""
    total = ranks.total(w.sum())
    return torch.where(total > 0, total, 1.0)
