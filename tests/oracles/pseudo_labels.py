"""Class-wise thresholds by sorting everything, labels of the nearest prototype pixel by pixel, quality by counting pixels."""

import math


def thresholds(confidences, predictions, num_classes, proportion=0.6, cap=0.9) -> list[float]:
    """Per class: sort ascending, take the entry round(proportion n), at most the cap; 0 for a class without pixels."""
    result = []
    for c in range(num_classes):
        x = sorted(value for value, predicted in zip(confidences, predictions, strict=True) if predicted == c)
        result.append(min(x[min(round(proportion * len(x)), len(x) - 1)], cap) if x else 0.0)
    return result


def density_accuracy(labels, truth) -> tuple[float, float]:
    """labelled with known truth / all,  right / labelled with known truth."""
    pairs = list(zip(labels, truth, strict=True))
    known = [(y, t) for y, t in pairs if y != 255 and t != 255]
    return len(known) / len(pairs), sum(y == t for y, t in known) / len(known)


def nearest(feature, prototypes, threshold) -> int:
    """argmax_c s(f, rho(c)) where that cosine is above the threshold, else 255; None is the prototype of a class without."""
    best, found = -math.inf, 255
    for c, rho in enumerate(prototypes):
        lengths = 0.0 if rho is None else math.sqrt(sum(x * x for x in feature) * sum(x * x for x in rho))
        if lengths > 0 and (s := sum(x * y for x, y in zip(feature, rho, strict=True)) / lengths) > best:
            best, found = s, c
    return found if best > threshold else 255


def dynamic_labels(features, prototypes, threshold):
    """y_D of maps: (N, D, h, w) -> nested lists (N, h, w)."""
    return [
        [[nearest([plane[i][j] for plane in picture], prototypes, threshold) for j in range(len(picture[0][0]))]
         for i in range(len(picture[0]))]
        for picture in features
    ]  # fmt: skip


def surest(confidences, predictions, share) -> list[int]:
    """The labels of one picture's pixels: sorted, those as sure as the last of the first int(share n) keep theirs."""
    k = int(share * len(confidences))
    least = sorted(confidences, reverse=True)[k - 1] if k else math.inf
    return [c if x >= least else 255 for x, c in zip(confidences, predictions, strict=True)]


def any_class(probabilities, thresholds) -> int:
    """A pixel's label: its likeliest class if any class reaches its threshold; 0, of one never predicted, is none."""
    likeliest = max(range(len(probabilities)), key=lambda c: probabilities[c])
    reached = [c for c, p in enumerate(probabilities) if p >= thresholds[c] and (thresholds[c] > 0 or c == likeliest)]
    return likeliest if reached else 255
