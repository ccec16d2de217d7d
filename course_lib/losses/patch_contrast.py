"""PiPa's patch contrast: a place of a picture has one embedding in two windows of it, far from those of other classes.

Letters: P places that both windows show, M negatives, D numbers of an embedding; u_i, v_i the embeddings of place i in the
first and in the second window, n_m a negative, all of length 1; y_i and y_m their pseudo-classes; c(u_i), c(v_i) how sure the
network is of the place in each window; tau the temperature.

    A_i = {m : y_m != y_i},   K = {i : c(v_i) > least and c(u_i) < c(v_i)}
    l_i = - log [ exp(u_i . v_i / tau) / (exp(u_i . v_i / tau) + sum_{m in A_i} exp(u_i . n_m / tau)) ]
    L   = 1/|K| sum_{i in K} l_i

Only u learns: the surer view is its target. Computed in this form, which keeps its digits for small and large losses:

    g_i = log sum_{m in A_i} exp((u_i . n_m - u_i . v_i) / tau),   l_i = log(1 + exp(g_i))

Source: PiPa (Chen et al., ACM MM 2023), from Context-Aware Consistency (Lai et al., CVPR 2021), released code.
"""

import torch
from torch import Tensor

from course_lib import ranks
from course_lib.losses.inputs import IGNORE, checked_temperature, full_precision, without_autocast
from course_lib.losses.nt_xent import softplus
from course_lib.losses.once import once_differentiable


def patch_contrast(
    u: Tensor,
    v: Tensor,
    negatives: Tensor,
    y: Tensor,
    negative_classes: Tensor,
    conf_u: Tensor,
    conf_v: Tensor,
    temperature: float = 0.1,
    least: float = 0.9,
    chunk: int = 512,
    ignore_index: int = IGNORE,
) -> Tensor:
    """The mean of l_i over the counted places of all processes, a number; 0 with zero gradient where none counts.

    u, v (P, D) of length 1, row i of both the same place; negatives (M, D) of length 1: v and negatives are constants.
    y (P,), negative_classes (M,): whole numbers; a place of `ignore_index` is not counted, a negative of it is in no A_i.
    conf_u, conf_v (P,): confidences, 0 to 1; where they are equal the place is not counted. A place without negatives costs 0.
    temperature: a constant.
    chunk: rows of the (P, M) similarities that exist at a time, in the backward pass too. Same value, same gradient.

    With u and v, and the confidences, exchanged it is the loss of the second view. With R processes each sums over its own
    places, times R (`cross_entropy`). Half precision and autocast are computed in float32, float64 in float64. It cannot be
    differentiated twice. Landmark: ln(1 + |A_i|) where all embeddings are alike.

    Raises ValueError for shapes, kinds of numbers and settings.

    >>> u = torch.eye(2)
    >>> sure, unsure = torch.full((2,), 0.95), torch.full((2,), 0.5)
    >>> y = torch.tensor([0, 1])
    >>> round(patch_contrast(u, u, u, y, y, unsure, sure, temperature=1.0).item(), 4)  # ln(1 + exp(-1))
    0.3133
    >>> patch_contrast(u, u, u, y, y, sure, unsure).item()  # the second view is not sure
    0.0
    """
    _check(u, v, negatives, y, negative_classes, conf_u, conf_v)
    temperature = checked_temperature(temperature)
    if not 0 <= least <= 1 or chunk < 1:
        raise ValueError(
            f"patch_contrast got least={least} and chunk={chunk}; it wants a confidence from 0 to 1 and a number of rows, 1 or "
            "more."
        )
    with without_autocast(u):
        gradient = u.requires_grad and torch.is_grad_enabled()
        u = full_precision(u)
        v, negatives = v.detach().to(u.dtype), negatives.detach().to(u.dtype)
        counted = (conf_v > least) & (conf_u < conf_v) & (y != ignore_index)                 # K
        w = counted * (ranks.count() / ranks.total(counted.sum()).clamp(min=1).to(u.dtype))
        if not len(u) or not len(negatives):
            return (w[:, None] * u).sum() * 0
        return _Chunked.apply(u, v, negatives, y, negative_classes, w, temperature, chunk, ignore_index, gradient)


class _Chunked(torch.autograd.Function):
    """sum_i w_i l_i from `chunk` rows of similarities at a time. Their gradient is taken on the spot: no row is made twice.

        dL/du_i = w_i sigmoid(g_i) ( sum_m e_im n_m / E_i - v_i ) / tau
            e_im = exp((u_i . n_m - max_m u_i . n_m) / tau), 0 where m is not in A_i;    E_i = sum_m e_im
    """

    @staticmethod
    def forward(ctx, u, v, negatives, y, classes, w, temperature, chunk, ignore_index, gradient):
        nothing = torch.finfo(u.dtype).min  # finite, so that a row without negatives gives 0, not NaN
        losses, unused = u.new_empty(len(u)), classes == ignore_index
        d_u = torch.empty_like(u) if gradient else None
        block = u.new_empty(min(chunk, len(u)), len(negatives))
        for start in range(0, len(u), chunk):
            part = slice(start, start + chunk)
            e = block[: len(u[part])]
            torch.mm(u[part], negatives.T, out=e)                                            # u_i . n_m
            e.masked_fill_((classes == y[part, None]) | unused, nothing)                     # m not in A_i
            largest = e.amax(1)
            e.sub_(largest[:, None]).div_(temperature).exp_()
            E = e.sum(1)
            g = (largest - torch.linalg.vecdot(u[part], v[part])) / temperature + E.log()
            losses[part] = softplus(g)                                                       # l_i
            if gradient:
                p = w[part] * g.sigmoid() / temperature
                torch.mm(e, negatives, out=d_u[part]).mul_((p / E)[:, None]).sub_(p[:, None] * v[part])
        if gradient:
            ctx.save_for_backward(d_u)
        return (w * losses).sum()

    @staticmethod
    @once_differentiable("write patch_contrast's formula with torch's own operations")
    def backward(ctx, upstream):
        (d_u,) = ctx.saved_tensors
        return upstream * d_u, *[None] * 9


def _check(u: Tensor, v: Tensor, negatives: Tensor, y: Tensor, classes: Tensor, conf_u: Tensor, conf_v: Tensor) -> None:
    rows = all(x.ndim == 2 and x.is_floating_point() for x in (u, v, negatives))
    if not rows or u.shape != v.shape or negatives.shape[1] != u.shape[1]:
        raise ValueError(
            f"patch_contrast got u {tuple(u.shape)}, v {tuple(v.shape)} and negatives {tuple(negatives.shape)}; it wants rows "
            "of real numbers, (P, D) twice and (M, D). Cut both views to the places that they share first."
        )
    whole = not any(x.is_floating_point() or x.is_complex() for x in (y, classes))
    if not whole or y.shape != u.shape[:1] or classes.shape != negatives.shape[:1]:
        raise ValueError(
            f"patch_contrast got y {tuple(y.shape)} of {y.dtype} and negative_classes {tuple(classes.shape)} of "
            f"{classes.dtype}; it wants whole train ids, ({len(u)},) and ({len(negatives)},)."
        )
    if conf_u.shape != y.shape or conf_v.shape != y.shape:
        raise ValueError(
            f"patch_contrast got confidences {tuple(conf_u.shape)} and {tuple(conf_v.shape)}; it wants one for each place, "
            f"({len(u)},) twice."
        )
