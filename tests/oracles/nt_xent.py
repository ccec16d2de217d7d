"""NT-Xent and its memory variant by loops in plain Python, from the equation: rows are lists of floats."""

import math


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
