"""NT-Xent, the loss of SimCLR: every view of a picture has to find the other view of it among all views of the batch.

Letters: N pictures, two views a and b of each, d numbers per embedding, tau the temperature.
Rows i = 0..2N-1: the views a, then the views b. j = (i + N) mod 2N is the other view of row i's picture, its positive;
all other rows k, neither i nor j, are its negatives.

    s_ik = z_i . z_k / (|z_i| |z_k| tau)                              cosine similarity over temperature
    L    = 1/2N sum_i - log [ exp(s_ij) / sum_{k != i} exp(s_ik) ]    one j, 2N - 2 negatives: 2N - 1 others

Computed in this form, which is the same number and keeps its digits when the loss is 1e-8 and when it is 200:

    g_i = log sum_{k != i, j} exp(s_ik - s_ij)                        the negatives' lead over the positive
    L   = 1/2N sum_i log(1 + exp(g_i))                                softplus

The cosines are computed first and divided by tau last: s_ik - s_ij = (cos_ik - cos_ij) / tau, with both cosines from one
matrix product, so rows that are alike have the difference 0 exactly or nearly so. Rows divided by tau before the product
leave its rounding error, 1/tau times larger, in every difference.

Source: SimCLR (Chen et al., ICML 2020), eq. 1 and algorithm 1. Other code differs by a factor: the released one sums the
two directions, so its value is twice this one.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from course_lib import ranks
from course_lib.losses.inputs import SHORTEST, checked_temperature, full_precision, mean_or_map, without_autocast
from course_lib.losses.once import once_differentiable


def nt_xent(
    z_a: Tensor, z_b: Tensor, temperature: float | Tensor = 0.5, chunk: int | None = None, gather: bool = False
) -> Tensor:
    """The mean over the 2N views of how badly each finds its partner; z_a, z_b (N, d) of any length -> a number.

    temperature: small ones look at the nearest negatives only. 0.5 for small pictures, 0.1 for ImageNet, as published. A
        tensor of one number (no dimensions) gets its gradient, as CLIP trains it.
    chunk: how many rows of the (2N, 2N) similarities exist at a time, in the backward pass too: memory grows with
        chunk x N, not N x N. Same value, same gradient, and faster on large batches; 256 is a good choice. It cannot be
        differentiated twice. None: the whole matrix.
    gather: with several processes, rows also look at the views of the others; N is what this one holds, the same on
        all. The mean of the processes' losses is the loss of the whole batch, and so are the gradients' means.

    Landmarks: ln(2N - 1) when all embeddings are alike; 0 for N = 1, which has no negatives, and for N = 0. Half-precision
    input and autocast are computed in float32, float64 in float64. Raises ValueError for shapes, settings, and NaN or infinite
    input; the last, and a temperature that is a tensor, on the CPU only, because a GPU would have to be waited for: there
    the loss is NaN.

    >>> z = torch.eye(2)
    >>> round(nt_xent(z, z).item(), 4), round(nt_xent(z, z.flip(0)).item(), 4)  # each its own partner; each the other's
    (0.2395, 2.2395)
    """
    temperature = checked_temperature(temperature)
    if chunk is not None and chunk < 1:
        raise ValueError(f"chunk is {chunk}; it is the number of rows computed at a time: 1 or more, or None for all.")
    with without_autocast(z_a):
        z = unit_rows(z_a, z_b)
        n, first = len(z_a), 2 * len(z_a) * ranks.rank() if gather else 0
        keys = ranks.gather(z) if gather else z                                     # what the rows look at
        itself = first + torch.arange(2 * n, device=z.device)                       # where k = i
        partner = itself.roll(n)                                                    # where k = j
        if chunk is None:
            left_out = (itself - first).repeat(2), torch.cat([itself, partner])     # (i, i) and (i, j)
            g = lead(z @ keys.T, partner, left_out, (z * z.roll(n, 0)).sum(1), temperature)
            return mean_or_map(softplus(g), "mean")
        gradient = torch.is_grad_enabled() and (z.requires_grad or getattr(temperature, "requires_grad", False))
        return _Chunked.apply(z, keys, itself, partner, temperature, chunk, gradient)


def lead(cosines: Tensor, partner: Tensor, left_out: tuple, positive: Tensor, temperature: float | Tensor) -> Tensor:
    """g_i = log sum_k exp((cos_ik - cos_ij) / tau) over the negatives k, (N,). `cosines` (N, K) is overwritten.

    partner (N,): the column j of row i. left_out: the index of all entries of `cosines` that are no negatives.
    positive (N,): cos_ij again, by its own sum. The value is read from the matrix, and the gradient of cos_ij flows through
    this sum: through the matrix it would need a second one, nearly all zeros.
    """
    row = torch.arange(len(cosines), device=cosines.device)
    s = cosines.sub_(cosines.detach()[row, partner][:, None]).div_(temperature)     # s_ik - s_ij
    with torch.no_grad():  # no gradient is lost: exp of these is 0
        s[left_out] = _nothing(s)
    return s.logsumexp(1) - (positive - positive.detach()) / temperature


class _Chunked(torch.autograd.Function):
    """The same from `chunk` rows of s at a time. Their part of the gradient is taken on the spot: no row is made twice.

        dL/dg_i  = w_i = sigmoid(g_i) / 2N,    dL/ds_ij = p_ij = -w_i
        dL/ds_ik = p_ik = w_i e_ik / E_i,      e_ik = exp(s_ik - max_k s_ik),    E_i = sum_{k != i, j} e_ik
        dL/dz_i  = sum_k p_ik z_k / tau  as the row that looks,    dL/dz_k = sum_i p_ik z_i / tau  as the row looked at
        dL/dtau  = - sum_ik p_ik s_ik / tau = - sum_i z_i . dL/dz_i / tau,    dL/dz_i as the row that looks
    """

    @staticmethod
    def forward(ctx, z, keys, itself, partner, temperature, chunk, gradient):
        g = z.new_empty(len(z))
        d_z, d_keys = (torch.zeros_like(x) if gradient else None for x in (z, keys))
        block = z.new_empty(min(chunk, len(z)), len(keys))
        for start in range(0, len(z), chunk):
            part = slice(start, start + chunk)
            e = block[: len(z[part])]
            row = torch.arange(len(e), device=z.device)
            torch.mm(z[part], keys.T, out=e)                                        # cos_ik
            positive = e[row, partner[part]]                                        # cos_ij
            e[row, itself[part]] = e[row, partner[part]] = _nothing(z)
            largest = e.amax(1)
            e.sub_(largest[:, None]).div_(temperature).exp_()
            E = e.sum(1)
            g[part] = (largest - positive) / temperature + E.log()
            if gradient:
                w = g[part].sigmoid() / len(z)
                e[row, partner[part]] = -E                                          # now p_ik = e_ik w_i / E_i for k = j, too
                scale = (w / E)[:, None]
                torch.mm(e, keys, out=d_z[part]).mul_(scale)
                d_keys.addmm_(e.T, z[part] * scale)
        if gradient:
            d_z, d_keys = d_z.div_(temperature), d_keys.div_(temperature)
            d_temperature = -torch.linalg.vecdot(z, d_z).sum() / temperature
            ctx.save_for_backward(d_z, d_keys, d_temperature)
        return mean_or_map(softplus(g), "mean")

    @staticmethod
    @once_differentiable("the whole matrix can: chunk=None")
    def backward(ctx, upstream):
        d_z, d_keys, d_temperature = (upstream * saved for saved in ctx.saved_tensors)
        return d_z, d_keys, None, None, d_temperature if ctx.needs_input_grad[4] else None, None, None


def unit_rows(z_a: Tensor, z_b: Tensor) -> Tensor:
    """Two views (N, d) one below the other, each row divided by its length: (2N, d), float32 or float64."""
    for name, z in (("z_a", z_a), ("z_b", z_b)):
        if z.ndim != 2 or not z.shape[1] or not z.is_floating_point():
            raise ValueError(
                f"{name} is {tuple(z.shape)} {z.dtype}; the loss wants one row of real numbers per picture, (N, d). Pool and "
                "flatten feature maps first."
            )
    if z_a.shape != z_b.shape:
        raise ValueError(
            f"z_a is {tuple(z_a.shape)} and z_b {tuple(z_b.shape)}; row i of both must be views of one picture, so they "
            "want one shape (N, d)."
        )
    z = full_precision(torch.cat([z_a, z_b]))
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


def _nothing(z: Tensor) -> float:
    """The similarity of rows that do not count: exp gives 0. Finite, so that a row without negatives gives 0, not NaN."""
    return torch.finfo(z.dtype).min
