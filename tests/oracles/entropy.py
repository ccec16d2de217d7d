"""The mean entropy of predictions and its gradient by loops; logits (N, C, h, w) as nested lists."""

import math


def softmax(z) -> list[float]:
    e = [math.exp(value - max(z)) for value in z]
    return [value / sum(e) for value in e]


def columns(logits):
    """The class scores of every place, one list each."""
    return [
        [plane[i][j] for plane in picture]
        for picture in logits
        for i in range(len(picture[0]))
        for j in range(len(picture[0][0]))
    ]


def entropy(logits, double_softmax=False) -> float:
    """-1/places sum over places of sum_c p_c log p_c; double_softmax: of sum_c p_c log softmax(p)_c."""
    places = columns(logits)
    total = 0.0
    for z in places:
        p = softmax(z)
        q = softmax(p) if double_softmax else p
        total -= sum(a * math.log(b) for a, b in zip(p, q, strict=True))
    return total / len(places)


def gradient(z) -> list[float]:
    """dE/dz_k = -p_k (log p_k + E) of one place."""
    p = softmax(z)
    E = -sum(a * math.log(a) for a in p)
    return [-a * (math.log(a) + E) for a in p]
