"""Value and gradient of the contrastive losses beside a plain transcription of their equations, on the same tensors.

    python -m benchmarks.contrast_speed [--rounds 5] [--parts NAME ...] [--threads 1] [--device cpu] [--out FILE]

    all pairs                   losses.pair_contrast     the N x N similarities, boolean masks and torch's own gradient
    all pairs, pair weights     the same with weights    likewise, with the N x N weights
    DistCL, BankCL              a class memory takes in the batch, then losses.distribution_contrast, losses.bank_contrast;
                                all features once for each class, then Python loops over pairs of classes
    patches                     losses.patch_contrast    the similarities with the whole queue, and torch's own gradient
    memory contrast             `memory_contrast_speed`

8,450 cells are 65 x 65 of two pictures (CLUDA), 4,096 are anchors, 8,100 places of two windows (PiPa, a queue of 9,600 rows),
20,480 cells 64 x 64 of five pictures (SemiSegContrast); rows of 256 numbers (of places 128), classes with the shares of
Cityscapes. Both ways in turn, in one process; a row gives medians. "products" are the matrix products alone that value and
gradient cannot do without, as large as they are in the plain way. Memory is the largest sum of tensors alive at a time beyond
the inputs, backward pass included.
"""

import copy
from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from benchmarks import memory_contrast_speed
from benchmarks.measuring import MIB, medians, peak_bytes, table_of_parts
from course_lib.class_memory import CentroidQueue, RunningStatistics
from course_lib.losses import bank_contrast, distribution_contrast, pair_contrast, patch_contrast

WIDTH, TAU = 256, 0.1
SHARES = (36.9, 6.1, 22.8, 0.7, 0.9, 1.2, 0.2, 0.6, 15.9, 1.2, 4.0, 1.2, 0.1, 7.0, 0.3, 0.2, 0.2, 0.1, 0.4)  # % of Cityscapes

Loss = Callable[..., Tensor]


class Part(NamedTuple):
    """One row of the table."""

    ours: Loss
    plain: Loss
    make: Callable[[int], tuple[Tensor, ...]]  # the inputs of n cells; those that are real numbers get a gradient
    products: Callable[..., object]  # the matrix products alone
    cells: int


def labelled_rows(n: int, width: int = WIDTH) -> tuple[Tensor, Tensor]:
    """Rows (n, width) of unit length, near to those of their class, and the classes (n,)."""
    generator = torch.Generator().manual_seed(n)
    y = torch.multinomial(torch.tensor(SHARES), n, replacement=True, generator=generator)
    y[: len(SHARES)] = torch.arange(len(SHARES))  # each class is there: a class never seen is in no sum of ours
    centres = torch.randn(len(SHARES), width, generator=generator)
    u = torch.nn.functional.normalize(centres[y] + 2 * torch.randn(n, width, generator=generator), dim=1)
    return u, y


def weighted_rows(n: int) -> tuple[Tensor, Tensor, Tensor]:
    """The same, and numbers (n,) in (0, 1)."""
    return *labelled_rows(n), torch.rand(n, generator=torch.Generator().manual_seed(2))


def our_pairs(u: Tensor, y: Tensor, omega: Tensor | None = None) -> Tensor:
    return pair_contrast(u, u, y, y, TAU, same_rows=True, weight=None if omega is None else (omega, omega))


def plain_pairs(u: Tensor, y: Tensor, omega: Tensor | None = None) -> Tensor:
    """The equation with matrices, one operation after the other."""
    s = u @ u.T / TAU
    s = s - s.max(dim=1, keepdim=True).values.detach()
    same = y[:, None] == y[None, :]
    positive = same & ~torch.eye(len(u), dtype=torch.bool, device=u.device)
    e = s.exp()
    negatives = (e * ~same).sum(dim=1, keepdim=True)
    C = (e + negatives).log() - s
    if omega is not None:
        C = omega[:, None] * omega[None, :] * C
    count = positive.sum(dim=1)
    rows = (C * positive).sum(dim=1) / count.clamp(min=1)
    return rows.sum() / (count > 0).sum()


def pair_products(u: Tensor, *rest: Tensor) -> None:
    """s = u u^T, and both gradients of it."""
    s = u.detach() @ u.detach().T
    s @ u.detach()
    s.T @ u.detach()


def our_distribution(u: Tensor, y: Tensor) -> Tensor:
    memory = RunningStatistics(len(SHARES), WIDTH).to(u.device)
    memory.update(u, y)
    return distribution_contrast(u, y, memory.means, memory.variances, TAU, memory.seen)


def plain_distribution(u: Tensor, y: Tensor) -> Tensor:
    """Each cell against the Gaussian of each class, class by class."""
    _, mean, variance = plain_statistics(u, y)
    losses = []
    for c in range(len(SHARES)):
        q, scores = u[y == c], []
        for k in range(len(SHARES)):
            scores.append((q * mean[k]).sum(dim=1) / TAU + (q**2 * variance[k]).sum(dim=1) / (2 * TAU**2))
        losses.append(torch.stack(scores, dim=1).logsumexp(dim=1) - (q * mean[c]).sum(dim=1) / TAU)
    return torch.cat(losses).mean()


@torch.no_grad()
def plain_statistics(u: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Count, mean and variance of each class from all features once for each class, with zeros where they are of another."""
    one = torch.nn.functional.one_hot(y, len(SHARES)).to(u.dtype)[:, :, None]
    x = u[:, None] * one
    n = one.sum(dim=0).clamp(min=1)
    mean = x.sum(dim=0) / n
    return n[:, 0], mean, ((x - mean * one) ** 2).sum(dim=0) / n


def distribution_products(u: Tensor, y: Tensor) -> None:
    """q mu^T, q^2 v^T and both gradients."""
    mean = u.detach()[: len(SHARES)]
    for q in (u.detach(), u.detach() ** 2):
        (q @ mean.T) @ mean


@lru_cache
def full_queue(device: torch.device) -> CentroidQueue:
    """200 centroids of each class."""
    queue = CentroidQueue(len(SHARES), WIDTH)
    queue.centroids.normal_(generator=torch.Generator().manual_seed(0))
    queue.centroids /= queue.centroids.norm(dim=2, keepdim=True)
    queue.entered += queue.length
    return queue.to(device)


def our_bank(u: Tensor, y: Tensor) -> Tensor:
    queue = copy.deepcopy(full_queue(u.device))
    queue.update(u, y)
    return bank_contrast(u, y, queue.centroids, queue.there, TAU)


def plain_bank(u: Tensor, y: Tensor) -> Tensor:
    """Each cell against every centroid of every class, class by class."""
    count, mean, _ = plain_statistics(u, y)
    queues = []
    for c, old in enumerate(full_queue(u.device).centroids):
        queues.append(torch.cat([old[1:], mean[c][None]]) if count[c] > 0 else old)
    losses = []
    for c in range(len(SHARES)):
        q, own, others = u[y == c], None, 0.0
        for k in range(len(SHARES)):
            s = q @ queues[k].T / TAU
            if k == c:
                own = s.exp()
            else:
                others = others + s.mean(dim=1, keepdim=True).exp()
        losses.append(-(own / (own + others)).log().mean(dim=1))
    return torch.cat(losses).mean()


def bank_products(u: Tensor, y: Tensor) -> None:
    """q m^T with all centroids, and the gradient of q."""
    m = full_queue(u.device).centroids.flatten(0, 1)
    (u.detach() @ m.T) @ m


class Other(NamedTuple):
    """What the places of one window are compared with; constants."""

    v: Tensor  # the same places in the other window
    rows: Tensor  # of the queue
    classes: Tensor
    sure: tuple[Tensor, Tensor]  # of both windows


def patch_rows(n: int) -> tuple[Tensor, Tensor]:
    """`labelled_rows` of 128 numbers, as PiPa's."""
    return labelled_rows(n, WIDTH // 2)


@lru_cache
def other_window(n: int, device: torch.device) -> Other:
    """Places near to those of `patch_rows(n)`, and a queue of n 9,600 / 8,100 rows."""
    generator = torch.Generator().manual_seed(1)
    v = torch.nn.functional.normalize(patch_rows(n)[0] + 0.05 * torch.randn(n, WIDTH // 2, generator=generator), dim=1)
    rows, classes = patch_rows(n * 9600 // 8100)
    sure = torch.rand(n, generator=generator), 0.85 + 0.15 * torch.rand(n, generator=generator)
    return Other(v.to(device), rows.to(device), classes.to(device), (sure[0].to(device), sure[1].to(device)))


def our_patches(u: Tensor, y: Tensor) -> Tensor:
    o = other_window(len(u), u.device)
    return patch_contrast(u, o.v, o.rows, y, o.classes, *o.sure, TAU)


def plain_patches(u: Tensor, y: Tensor) -> Tensor:
    """The equation with matrices, one operation after the other."""
    o = other_window(len(u), u.device)
    s, positive = u @ o.rows.T / TAU, (u * o.v).sum(dim=1) / TAU
    below = positive.exp() + (s.exp() * (y[:, None] != o.classes)).sum(dim=1)
    counted = ((o.sure[1] > 0.9) & (o.sure[0] < o.sure[1])).to(u.dtype)
    return (-(positive.exp() / below).log() * counted).sum() / counted.sum()


def patch_products(u: Tensor, y: Tensor) -> None:
    """s = u n^T, and the gradient of u."""
    rows = other_window(len(u), u.device).rows
    (u.detach() @ rows.T) @ rows


PARTS: dict[str, Part] = {
    "all pairs, 8,450 cells": Part(our_pairs, plain_pairs, labelled_rows, pair_products, 8450),
    "all pairs, pair weights, 8,450 cells": Part(our_pairs, plain_pairs, weighted_rows, pair_products, 8450),
    "all pairs, 4,096 anchors": Part(our_pairs, plain_pairs, labelled_rows, pair_products, 4096),
    "patches, 8,100 places": Part(our_patches, plain_patches, patch_rows, patch_products, 8100),
    "DistCL, 8,450 cells": Part(our_distribution, plain_distribution, labelled_rows, distribution_products, 8450),
    "BankCL, 8,450 cells, 200 centroids": Part(our_bank, plain_bank, labelled_rows, bank_products, 8450),
    "memory contrast, 20,480 cells": Part(
        memory_contrast_speed.ours, memory_contrast_speed.plain, labelled_rows, memory_contrast_speed.products, 20_480
    ),
}


def value_and_gradient(loss: Loss, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    given = [x.detach().clone().requires_grad_() if x.is_floating_point() else x for x in inputs]
    value = loss(*given)
    return value.detach(), *torch.autograd.grad(value, [x for x in given if x.requires_grad])


def row(name: str, rounds: int, device: torch.device) -> str:
    """One line of the table; SystemExit where the two ways differ."""
    ours, plain, make, products, cells = PARTS[name]
    inputs = tuple(x.to(device) for x in make(cells))
    ways = [lambda: value_and_gradient(ours, inputs), lambda: value_and_gradient(plain, inputs), lambda: products(*inputs)]
    for a, b in zip(ways[0](), ways[1](), strict=True):  # warms up, too
        if not (a - b).abs().max() <= 1e-3 * b.abs().max():
            raise SystemExit(f"{name} differs by {(a - b).abs().max():.1e} of {b.abs().max():.1e}: times cannot be compared.")
    memory = [peak_bytes(way, device) / MIB for way in ways[:2]]
    a, b, c = (1e3 * t for t in medians(ways, rounds, device))
    return (
        f"| {name} | {a:,.0f} | {b:,.0f} | {b / a:.1f} x | {c:,.0f} | {memory[0]:,.0f} | {memory[1]:,.0f} "
        f"| 1/{memory[1] / memory[0]:.0f} |"
    )


def main() -> None:
    head = "| loss | course_lib, ms | plain, ms | faster | products, ms | course_lib, MiB | plain, MiB | memory |"
    table_of_parts(__doc__, PARTS, row, "Contrastive losses: time and memory of value and gradient", head, rounds=5)


if __name__ == "__main__":
    main()
