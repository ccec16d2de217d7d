"""Slow losses, written from the equations in plain Python."""

import math

IGNORE = 255


def cross_entropy(logits, label) -> float:
    """-1/|P| sum over labelled pixels of log softmax(logits)[label]; logits (N, C, H, W) and label (N, H, W) nested lists."""
    total, count = 0.0, 0
    for image, truth in zip(logits, label, strict=True):
        for row in range(len(truth)):
            for column, wanted in enumerate(truth[row]):
                if wanted == IGNORE:
                    continue
                z = [plane[row][column] for plane in image]
                largest = max(z)
                total -= z[wanted] - largest - math.log(sum(math.exp(value - largest) for value in z))
                count += 1
    return total / count if count else 0.0


def vanilla(scores, domain) -> float:
    """-mean [z log s + (1 - z) log(1 - s)], s = 1 / (1 + exp(-score))."""
    total = 0.0
    for score in scores:
        s = 1 / (1 + math.exp(-score))
        total -= domain * math.log(s) + (1 - domain) * math.log(1 - s)
    return total / len(scores)


def least_squares(scores, domain) -> float:
    """mean (score - z)^2."""
    return sum((score - domain) ** 2 for score in scores) / len(scores)
