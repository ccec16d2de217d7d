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


def berhu(prediction, target, share=0.2, bottom=0.0) -> float:
    """The mean of |r| or (r^2 + c^2) / (2 c) over known pixels; prediction and target (N, H, W) nested lists of one size."""
    errors = []
    for found, truth in zip(prediction, target, strict=True):
        for row in range(len(truth) - round(bottom * len(truth))):
            errors += [abs(d - wanted) for d, wanted in zip(found[row], truth[row], strict=True) if wanted >= 0]
    c = share * max(errors, default=0.0)
    return sum(r if r <= c else (r * r + c * c) / (2 * c) for r in errors) / max(1, len(errors))
