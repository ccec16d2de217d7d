"""Class-wise thresholds by sorting everything, and the quality of labels by counting pixels."""


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
