"""ClassMix and CutMix by loops over pictures and pixels, from the equations; random numbers are given."""

import math

import numpy as np


def half(there, u, rarity=None) -> list[int]:
    """Draw ceil(n/2) of the classes in `there`, the largest rarity + Gumbel number first."""
    score = {c: (0.0 if rarity is None else rarity[c]) - math.log(-math.log(u[c])) for c in there}
    return sorted(score, key=score.get, reverse=True)[: math.ceil(len(there) / 2)]


def class_mask(labels, u, num_classes, scope="picture", shares=None, temperature=1.0):
    """labels (N, H, W), u (N, C + 1): M, nested as the labels."""
    rarity = None if shares is None else [(1 - f) / temperature for f in (*shares, 0.0)]
    result = np.zeros(labels.shape, dtype=bool)
    ids = np.where(labels == 255, num_classes, labels)
    for n, picture in enumerate(ids):
        there = np.unique(picture if scope == "picture" else ids).tolist()
        if scope == "picture":
            there = [c for c in there if c != num_classes]
        for c in half(there, u[n], rarity):
            result[n] |= picture == c
    return result


def box_mask(u, size, share):
    """u (N, 3): one box per picture."""
    H, W = size
    result = np.zeros((len(u), H, W), dtype=bool)
    for n, (a, v, z) in enumerate(u):
        h, w = round(H * share**a), round(W * share ** (1 - a))
        top, left = math.floor(v * (H - h + 1)), math.floor(z * (W - w + 1))
        for i in range(H):
            for j in range(W):
                result[n, i, j] = top <= i < top + h and left <= j < left + w
    return result


def depth_mask(pasted, under, tie):
    """Disparities (N, H, W): M by loops over pictures and pixels; below 0 is unknown, and as far as the farthest."""

    def share(D, i, j):
        known = [d for row in D.tolist() for d in row if d >= 0]
        least, most = min(known, default=0.0), max(known, default=0.0)
        return (D[i, j] - least) / (most - least) if D[i, j] >= 0 and most > least else 0.0

    result = np.zeros(pasted.shape, dtype=bool)
    for n, i, j in np.ndindex(*pasted.shape):
        result[n, i, j] = share(pasted[n], i, j) >= share(under[n], i, j) - tie
    return result
