"""NT-Xent and its memory variant by loops in plain Python, from the equation: rows are lists of floats."""

import math

import torch

from tests.bounds import Tolerance, bound


def cosine(u, v) -> float:
    return math.fsum(a * b for a, b in zip(u, v, strict=True)) / (math.hypot(*u) * math.hypot(*v))


def row_loss(positive: float, negatives: list[float]) -> float:
    """-log [ exp(positive) / (exp(positive) + sum exp(negatives)) ], with all digits of very small and very large values."""
    gaps = [negative - positive for negative in negatives]
    largest = max([0.0, *gaps])
    if largest == 0:
        return math.log1p(math.fsum(math.exp(gap) for gap in gaps))
    return largest + math.log(math.exp(-largest) + math.fsum(math.exp(gap - largest) for gap in gaps))


def nt_xent(views_a, views_b, tau: float) -> float:
    """The mean over all 2N views: the positive is the other view of the picture, the negatives are all but these two."""
    rows, n = [*views_a, *views_b], len(views_a)
    total = 0.0
    for i, row in enumerate(rows):
        j = (i + n) % (2 * n)
        negatives = [cosine(row, rows[k]) / tau for k in range(2 * n) if k not in (i, j)]
        total += row_loss(cosine(row, rows[j]) / tau, negatives)
    return total / (2 * n)


def against_bank(views_a, views_b, bank, tau: float) -> float:
    """The mean over the N views a: the positive is view b, the negatives are the rows of the bank."""
    pairs = list(zip(views_a, views_b, strict=True))
    return sum(row_loss(cosine(a, b) / tau, [cosine(a, m) / tau for m in bank]) for a, b in pairs) / len(pairs)


def rounding(n: int, d: int, tau: float, loss: float, dtype: torch.dtype) -> Tolerance:
    """What rounding to `dtype` may do to the loss of n pictures (or a bank of n rows) with d numbers per embedding.

    A cosine: the inputs 2, two lengths of d squares each and their roots d + 4, the division 2, the product d. Its error is
    divided by tau and stands in two places, cos_ik - cos_ij. It moves the loss of row i by at most 1 - exp(-l_i) <= min(1, l_i)
    times that. Then the sum over 2n rows, exp, log, softplus, and the mean over 2n, of what is as large as the loss; the
    relative error of the sum is an absolute one of its logarithm, again times min(1, l_i).
    """
    slope = min(1.0, loss)
    return bound(2 * d + 8, dtype, slope * 2 / tau) + bound(4 * n + 20, dtype, loss + slope)


def gradient_rounding(n: int, d: int, tau: float, gradient: torch.Tensor, dtype: torch.dtype) -> Tolerance:
    """The same of the gradient, whose weights p_ik have a relative error that is the absolute one of the exponents.

    size: the largest gradient, which embeddings of random directions reach without much cancellation.
    """
    largest = gradient.abs().max()
    return bound(2 * d + 8, dtype, largest * 2 / tau) + bound(4 * n + 2 * d + 30, dtype, 2 * largest)
