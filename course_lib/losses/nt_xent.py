"""NT-Xent, the loss of SimCLR: every view of a picture has to find the other view of it among all views of the batch.

Letters: N pictures, two views a and b of each, d numbers per embedding, tau the temperature.
Rows i = 0..2N-1: the views a, then the views b. j = (i + N) mod 2N is the other view of row i's picture, its positive;
all other rows k, neither i nor j, are its negatives.

    s_ik = z_i . z_k / (|z_i| |z_k| tau)                              cosine similarity over temperature
    L    = 1/2N sum_i - log [ exp(s_ij) / sum_{k != i} exp(s_ik) ]    one j, 2N - 2 negatives: 2N - 1 others

Computed in this form, which is the same number and keeps its digits when the loss is 1e-8 and when it is 200:

    g_i = log sum_{k != i, j} exp(s_ik) - s_ij                        the negatives' lead over the positive
    L   = 1/2N sum_i log(1 + exp(g_i))                                softplus

Source: SimCLR (Chen et al., ICML 2020), eq. 1 and algorithm 1. Other code differs by a factor: the released one sums the
two directions, so its value is twice this one.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from course_lib import ranks

SHORTEST = 1e-12  # an embedding shorter than this has no direction: similarity 0 to all, and no gradient


def nt_xent(z_a: Tensor, z_b: Tensor, temperature: float = 0.5, chunk: int | None = None, gather: bool = False) -> Tensor:
    """The mean over the 2N views of how badly each finds its partner; z_a, z_b (N, d) of any length -> a number.

    temperature: small ones look at the nearest negatives only. 0.5 for small pictures, 0.1 for ImageNet, as published.
    chunk: how many rows of the (2N, 2N) similarities exist at a time, in the backward pass too: memory grows with
        chunk x N, not N x N. Same value, same gradient, and faster on large batches; 256 is a good choice. It cannot be
        differentiated twice. None: the whole matrix.
    gather: with several processes, rows also look at the views of the others; N is what this one holds, the same on
        all. The mean of the processes' losses is the loss of the whole batch, and so are the gradients' means.

    Landmarks: ln(2N - 1) when all embeddings are alike; 0 for N = 1, which has no negatives. Half-precision input and
    autocast are computed in float32, float64 in float64. Raises ValueError for shapes, settings, and NaN or infinite
    input; the last on the CPU only, because a GPU would have to be waited for: there the loss is NaN.

    >>> z = torch.eye(2)
    >>> round(nt_xent(z, z).item(), 4), round(nt_xent(z, z.flip(0)).item(), 4)  # each its own partner; each the other's
    (0.2395, 2.2395)
    """
    check_temperature(temperature)
    if chunk is not None and chunk < 1:
        raise ValueError(f"chunk is {chunk}; it is the number of rows computed at a time: 1 or more, or None for all.")
    with torch.autocast(z_a.device.type, enabled=False):
        z = unit_rows(z_a, z_b)
        n, first = len(z_a), 2 * len(z_a) * ranks.rank() if gather else 0
        keys = ranks.gather(z) if gather else z                                     # what the rows look at
        itself = first + torch.arange(2 * n, device=z.device)                       # where k = i
        partner = itself.roll(n)                                                    # where k = j
        positive = (z * z.roll(n, 0)).sum(1) / temperature                          # s_ij
        if chunk is None:
            removed = z.new_zeros(2 * n, len(keys))
            removed[itself - first, itself] = removed[itself - first, partner] = _nothing(z)
            s = removed.addmm_(z / temperature, keys.T)                             # s_ik; nothing for k = i, j
            g = s.logsumexp(1) - positive
            return softplus(g).mean()
        gradient = torch.is_grad_enabled() and z.requires_grad
        return _Chunked.apply(z, keys, positive, itself, partner, temperature, chunk, gradient)


class _Chunked(torch.autograd.Function):
    """The same from `chunk` rows of s at a time. Their part of the gradient is taken on the spot: no row is made twice.

        dL/dg_i  = w_i = sigmoid(g_i) / 2N,    dL/ds_ij = -w_i
        dL/ds_ik = p_ik = w_i exp(s_ik) / sum_{k' != i, j} exp(s_ik')
        dL/dz_i  = sum_k p_ik z_k / tau  as the row that looks,    dL/dz_k = sum_i p_ik z_i / tau  as the row looked at
    """

    @staticmethod
    def forward(ctx, z, keys, positive, itself, partner, temperature, chunk, gradient):
        z, total = z / temperature, z.new_zeros(())
        d_z, d_keys, d_positive = (torch.zeros_like(x) if gradient else None for x in (z, keys, positive))
        block = z.new_empty(min(chunk, len(z)), len(keys))
        for start in range(0, len(z), chunk):
            part = slice(start, start + chunk)
            p = block[: len(z[part])]
            row = torch.arange(len(p), device=z.device)
            torch.mm(z[part], keys.T, out=p)                                        # s_ik
            p[row, itself[part]] = p[row, partner[part]] = _nothing(z)
            largest = p.amax(1)
            p.sub_(largest[:, None]).exp_()
            weight = p.sum(1)
            g = largest + weight.log() - positive[part]
            total += softplus(g).sum()
            if gradient:
                w = g.sigmoid() / len(z)
                d_positive[part] = -w
                p.mul_((w / weight)[:, None])
                torch.mm(p, keys, out=d_z[part])
                d_keys.addmm_(p.T, z[part])                                         # z is z / tau here
        if gradient:
            ctx.save_for_backward(d_z.div_(temperature), d_keys, d_positive)
        return total / len(z)

    @staticmethod
    @once_differentiable
    def backward(ctx, upstream):
        return *(upstream * saved for saved in ctx.saved_tensors), None, None, None, None, None


def unit_rows(z_a: Tensor, z_b: Tensor) -> Tensor:
    """Two views (N, d) one below the other, each row divided by its length: (2N, d), float32 or float64."""
    for name, z in (("z_a", z_a), ("z_b", z_b)):
        if z.ndim != 2 or 0 in z.shape or not z.is_floating_point():
            raise ValueError(
                f"{name} is {tuple(z.shape)} {z.dtype}; the loss wants one row of real numbers per picture, (N, d). Pool and "
                "flatten feature maps first."
            )
    if z_a.shape != z_b.shape:
        raise ValueError(
            f"z_a is {tuple(z_a.shape)} and z_b {tuple(z_b.shape)}; row i of both must be views of one picture, so they "
            "want one shape (N, d)."
        )
    z = torch.cat([z_a, z_b])
    z = z.to(torch.promote_types(z.dtype, torch.float32))
    length = z.norm(dim=1, keepdim=True)
    if z.device.type == "cpu" and not length.isfinite().all():
        row = int((~length.isfinite()).flatten().nonzero()[0])
        raise ValueError(
            f"Row {row % len(z_a)} of {'z_a' if row < len(z_a) else 'z_b'} has NaN, infinite or enormous numbers; the loss "
            "wants finite embeddings. Look at the pictures of this batch, or lower the learning rate."
        )
    return z.where(length > SHORTEST, 0.0) / length.clamp(min=SHORTEST)


def softplus(g: Tensor) -> Tensor:
    """log(1 + exp(g)), exact where torch's default takes g itself (from 20 on)."""
    return F.softplus(g, threshold=50)


def check_temperature(temperature: float) -> None:
    """The temperature is a positive number."""
    if not 0 < temperature < math.inf:
        raise ValueError(f"temperature is {temperature}; similarities are divided by it: give a number above 0, say 0.1.")


def _nothing(z: Tensor) -> float:
    """The similarity of rows that do not count: exp gives 0. Finite, so that a row without negatives gives 0, not NaN."""
    return torch.finfo(z.dtype).min
