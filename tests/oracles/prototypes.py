"""ProCA's loss and prototypes by loops over pixels, written from the slides' equations; features are lists of vectors."""

import math

IGNORE = 255


def dot(a, b) -> float:
    return sum(x * y for x, y in zip(a, b, strict=True))


def cosine(a, b) -> float:
    return dot(a, b) / math.sqrt(dot(a, a) * dot(b, b))


def contrast(features, labels, prototypes, temperature, similarity=dot) -> float:
    """-1/n sum over labelled pixels of log [exp(p_y . F / tau) / sum_c exp(p_c . F / tau)]; 0 when none is labelled."""
    total, count = 0.0, 0
    for feature, label in zip(features, labels, strict=True):
        if label != IGNORE:
            e = [math.exp(similarity(p, feature) / temperature) for p in prototypes]
            total -= math.log(e[label] / sum(e))
            count += 1
    return total / count if count else 0.0


def class_means(features, labels, num_classes) -> list:
    """Per class the mean of its vectors, None for a class without."""
    means = []
    for c in range(num_classes):
        mine = [feature for feature, label in zip(features, labels, strict=True) if label == c]
        means.append([sum(channel) / len(mine) for channel in zip(*mine)] if mine else None)
    return means
