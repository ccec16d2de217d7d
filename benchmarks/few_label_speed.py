"""Parts of the methods for few labels beside plain transcriptions of their equations, on the same tensors.

    python -m benchmarks.few_label_speed [--rounds 3] [--parts NAME ...] [--threads 1] [--device cpu] [--out FILE]

    region draws       losses.region_contrast.draw_regions, random numbers included: a loop over class x query x class, in which
                       each draws as many cells as fall to it, into a list
    region contrast    losses.region_contrast, value and gradient: of each class the (Q, 1 + K, D) tensor of its candidates, and
                       torch's own cosine, cross-entropy and gradient; the same cells in both
    DepthMix           mixing.depth_mask and mixing.mix, of labels and of which of them are sure (N, H, W), because a mask of 0
                       and 1 lets the largest probability be taken before: pair by pair the disparities to 0..1, the mask,
                       pictures and probabilities of all classes times the mask, then the largest class and its probability

ReCo's published numbers: 19 classes, 256 queries, 512 negatives; 65,536 cells are 128 x 128 of four crops. The loss has a
quarter of the cells, of 64 numbers instead of 256, so that what the plain way holds fits into this machine. Classes have the
shares of Cityscapes. Both ways in turn, in one process; a row gives medians: on a CPU of the time that the process itself
computed, which other programs do not lengthen by their turns, on a GPU of the time that passed. Memory is the largest sum of
tensors alive at a time beyond the inputs.
"""

import math
import time
from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.contrast_speed import SHARES, labelled_rows, value_and_gradient
from benchmarks.measuring import MIB, medians, peak_bytes, table_of_parts
from course_lib.losses import region_contrast
from course_lib.losses.region_contrast import RegionNumbers, class_means, directions, draw_regions
from course_lib.methods.terms.region_contrast import region_numbers
from course_lib.mixing import depth_mask, following, mix
from course_lib.pseudo_labels.thresholds import confidence
from course_lib.pseudo_labels.weights import batch_weight

CLASSES, QUERIES, NEGATIVES, TAU = len(SHARES), 256, 512, 0.5
CELLS = 65_536  # whose Q and K are the published ones; fewer of fewer cells
TIE, SURE = 0.03, 0.968  # SegSDF's: of disparities that count as equal, of the confidence

Outputs = tuple[Tensor, ...]


class Part(NamedTuple):
    """One row of the table."""

    ours: Callable[..., Outputs]
    plain: Callable[..., Outputs]
    make: Callable[[int], Outputs]  # the inputs of n cells, or pixels
    cells: int
    off: Callable[[Outputs, Outputs, Outputs], float]  # ours, plain, inputs: the difference, as a share of what is allowed


def in_numbers(ours: Outputs, plain: Outputs, inputs: Outputs) -> float:
    """A thousandth of the largest number is allowed."""
    return max(((a - b).abs().max() / (1e-3 * b.abs().max())).item() for a, b in zip(ours, plain, strict=True))


# ---- region contrast ------------------------------------------------------------------------------------------------


def drawn_from(n: int) -> tuple[Tensor, Tensor, Tensor]:
    """Classes (n,), which cells are hard (n,), cosines of the class means (C, C)."""
    u, y = labelled_rows(n, 64)
    hard = torch.rand(n, generator=torch.Generator().manual_seed(1)) < 0.3
    hard[:CLASSES] = True  # a cell of each class
    mu = directions(class_means(u, y, CLASSES)[0])
    return y, hard, mu @ mu.T


def sizes(n: int, published: int) -> tuple[int, int]:
    """Q and K for n cells: the published ones for the published number of cells."""
    Q = max(4, min(QUERIES, QUERIES * n // published))
    return Q, Q * NEGATIVES // QUERIES


def our_draws(y: Tensor, hard: Tensor, cosines: Tensor) -> Outputs:
    """The cells of the negatives (C, Q, K)."""
    numbers = region_numbers((CLASSES, *sizes(len(y), CELLS)), y.device, torch.Generator().manual_seed(2))
    return (draw_regions(y, hard, cosines, numbers, TAU).cell,)


def plain_draws(y: Tensor, hard: Tensor, cosines: Tensor) -> Outputs:
    """Class by class, query by query, class by class, with NumPy's randint."""
    torch.manual_seed(2), np.random.seed(2)
    Q, K = sizes(len(y), CELLS)
    members = [(y == c).nonzero().flatten() for c in range(CLASSES)]
    counts = [len(member) for member in members]
    in_a_row, found = torch.cat(members), []
    for c in range(CLASSES):
        unsure = members[c][hard[members[c]]]
        unsure[torch.randint(len(unsure), (Q,))]  # the queries
        others = [k for k in range(CLASSES) if k != c]
        P = (cosines[c, others] / TAU).softmax(dim=0)
        classes = torch.multinomial(P, Q * K, replacement=True).view(Q, K)
        numbers = torch.stack([(classes == j).sum(dim=1) for j in range(len(others))], dim=1)  # of each query and class
        indices = []
        for i in range(Q):
            for j, k in enumerate(others):
                low = sum(counts[:k])
                indices += np.random.randint(low, low + counts[k], size=int(numbers[i, j])).tolist()
        found.append(in_a_row[torch.tensor(indices, device=y.device)].view(Q, K))
    return (torch.stack(found),)


def in_counts(ours: Outputs, plain: Outputs, inputs: Outputs) -> float:
    """Of the n negatives of each class, the share p of each other class: five standard deviations sqrt(p (1 - p) / n) from the
    softmax of the cosines are allowed."""
    y, _, cosines = inputs
    itself = torch.eye(CLASSES, dtype=torch.bool, device=y.device)
    p = (cosines.double() / TAU).masked_fill(itself, -torch.inf).softmax(dim=1)
    worst = 0.0
    for cells in (*ours, *plain):
        classes = y[cells.long()].flatten(1)
        found = torch.stack([(classes == c).double().mean(dim=1) for c in range(CLASSES)], dim=1)
        allowed = 5 * (p * (1 - p) / classes.shape[1]).sqrt() + 1e-9
        worst = max(worst, ((found - p).abs() / allowed).max().item())
    return worst


@lru_cache
def numbers_for(n: int, device: torch.device) -> RegionNumbers:
    return region_numbers((CLASSES, *sizes(n, CELLS // 4)), device, torch.Generator().manual_seed(3))


def contrasted(n: int) -> tuple[Tensor, Tensor, Tensor]:
    """Vectors (n, 64), classes (n,), which cells are hard (n,)."""
    u, y = labelled_rows(n, 64)
    return 2 * u, *drawn_from(n)[:2]


def our_contrast(*inputs: Tensor) -> Outputs:
    def loss(z: Tensor, y: Tensor, hard: Tensor) -> Tensor:
        return region_contrast(z, y, hard, numbers_for(len(z), z.device), TAU)

    return value_and_gradient(loss, inputs)


def plain_contrast(*inputs: Tensor) -> Outputs:
    def loss(z: Tensor, y: Tensor, hard: Tensor) -> Tensor:
        means = class_means(z.detach(), y, CLASSES)[0]
        mu = directions(means)
        drawn = draw_regions(y, hard, mu @ mu.T, numbers_for(len(z), z.device), TAU)
        losses = []
        for c in range(CLASSES):
            q = z[drawn.query[c].long()]
            keys = torch.cat([means[c].expand(len(q), 1, -1), z.detach()[drawn.cell[c].long()]], dim=1)  # (Q, 1 + K, D)
            scores = F.cosine_similarity(q[:, None], keys, dim=2) / TAU
            losses.append(F.cross_entropy(scores, torch.zeros(len(q), dtype=torch.int64, device=z.device)))
        return torch.stack(losses).mean()

    return value_and_gradient(loss, inputs)


# ---- DepthMix -------------------------------------------------------------------------------------------------------


def depth_inputs(n: int, pictures: int = 2) -> tuple[Tensor, Tensor, Tensor]:
    """Square pictures (N, 3, H, W) of n pixels in all, logits (N, C, H, W) of which about half are sure, disparities (N, H, W)
    with unknown pixels."""
    generator, size = torch.Generator().manual_seed(0), 2 * (math.isqrt(n // pictures),)
    x = torch.randn(pictures, 3, *size, generator=generator)
    logits = 4 * torch.randn(pictures, CLASSES, *size, generator=generator)
    D, unknown = torch.rand(2, pictures, *size, generator=generator)
    return x, logits, torch.where(unknown < 0.05, -1.0, D)


def our_mixing(x: Tensor, logits: Tensor, D: Tensor) -> Outputs:
    """As in `methods.segsdf`: x_m, y_m, q_m."""
    p, y = confidence(logits)
    M = depth_mask(following(D), D, TIE)
    sure = mix(M, following((p >= SURE).float()), (p >= SURE).float())
    return mix(M, following(x), x), mix(M, following(y), y), batch_weight(sure, 1.0)


def plain_mixing(x: Tensor, logits: Tensor, D: Tensor) -> Outputs:
    """Picture by picture, with probabilities."""
    N, p = len(x), logits.softmax(dim=1)
    shares = []
    for d in D:
        known = d[d >= 0]
        shares.append(torch.where(d >= 0, (d - known.min()) / (known.max() - known.min()), 0))
    images, labels, sure = [], [], []
    for n in range(N):
        other = (n + 1) % N
        M = (shares[other] >= shares[n] - TIE).float()
        images.append(M * x[other] + (1 - M) * x[n])
        soft = M * p[other] + (1 - M) * p[n]
        largest, label = soft.max(dim=0)
        labels.append(label)
        sure.append(largest >= SURE)
    sure = torch.stack(sure)
    return torch.stack(images), torch.stack(labels), sure.float().mean() * torch.ones_like(D)


def in_pixels(ours: Outputs, plain: Outputs, inputs: Outputs) -> float:
    """Pictures and labels are equal bit for bit; the weight, a share of the same count, may differ by 1e-6."""
    equal = all(torch.equal(a, b) for a, b in zip(ours[:2], plain[:2], strict=True))
    return ((ours[2] - plain[2]).abs().max() / 1e-6).item() if equal else math.inf


PARTS: dict[str, Part] = {
    "region draws, 65,536 cells": Part(our_draws, plain_draws, drawn_from, CELLS, in_counts),
    "region contrast, 16,384 cells": Part(our_contrast, plain_contrast, contrasted, CELLS // 4, in_numbers),
    "DepthMix, two pictures of 512x512": Part(our_mixing, plain_mixing, depth_inputs, 2 * 512**2, in_pixels),
}


# ---- the table ------------------------------------------------------------------------------------------------------


def row(name: str, rounds: int, device: torch.device) -> str:
    """One line of the table; SystemExit where the two ways differ."""
    part = PARTS[name]
    inputs = tuple(x.to(device) for x in part.make(part.cells))
    if not (found := part.off(part.ours(*inputs), part.plain(*inputs), inputs)) <= 1:  # warms up, too
        raise SystemExit(f"{name} differs by {found:.1f} of what is allowed: times cannot be compared.")
    ways = [lambda: part.ours(*inputs), lambda: part.plain(*inputs)]
    memory = [peak_bytes(way, device) / MIB for way in ways]
    clock = time.process_time if device.type == "cpu" else time.perf_counter
    a, b = (1e3 * t for t in medians(ways, rounds, device, clock))
    return f"| {name} | {a:,.0f} | {b:,.0f} | {b / a:.1f} x | {memory[0]:,.0f} | {memory[1]:,.0f} |"


def main() -> None:
    head = "| part | course_lib, ms | plain, ms | faster | course_lib, MiB | plain, MiB |"
    table_of_parts(__doc__, PARTS, row, "Few labels: time and memory of parts of a step", head, rounds=3)


if __name__ == "__main__":
    main()
