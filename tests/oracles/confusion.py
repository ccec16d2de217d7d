"""IoU by loops over pixels, written from the definition: intersection over union of two sets of pixels."""

import math

import numpy as np


def counts(prediction: np.ndarray, label: np.ndarray, num_classes: int, ignore: int = 255) -> np.ndarray:
    """M[t, p]: how many pixels of true class t were called p."""
    table = np.zeros((num_classes, num_classes), dtype=np.int64)
    for said, truth in zip(prediction.reshape(-1), label.reshape(-1)):
        if truth != ignore:
            table[truth, said] += 1
    return table


def iou(prediction: np.ndarray, label: np.ndarray, num_classes: int, ignore: int = 255) -> list[float]:
    """|P_c and T_c| / |P_c or T_c| for each class c, over the pixels that count; nan for an empty union."""
    result = []
    places = [place for place in np.ndindex(label.shape) if label[place] != ignore]
    for c in range(num_classes):
        said = {place for place in places if prediction[place] == c}
        true = {place for place in places if label[place] == c}
        result.append(len(said & true) / len(said | true) if said | true else math.nan)
    return result


def mean(values: list[float]) -> float:
    """The mean of those that are numbers."""
    numbers = [value for value in values if not math.isnan(value)]
    return sum(numbers) / len(numbers)
