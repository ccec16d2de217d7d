"""ProCA's arithmetic as its released code computes it, for `proca_speed.py` to compare with.

Written from a description of that way, with none of its code: boolean gathers, a pixels x classes x channels product,
arrays that grow by being copied, full sorts.
"""

import numpy as np
import torch.nn.functional as F
from torch import Tensor


def as_rows(features: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """(N, D, H, W) and (N, H, W) as the vectors of labelled pixels, gathered by a mask: copies."""
    rows, labels = features.permute(0, 2, 3, 1).reshape(-1, features.shape[1]), labels.flatten()
    known = labels != 255
    return rows[known], labels[known]


def update(prototypes: Tensor, amount: Tensor, features: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """The running mean, from every vector times every class's indicator: n x C x D numbers, of which one in C is not 0."""
    rows, labels = as_rows(features.detach(), labels)
    indicator = F.one_hot(labels, len(prototypes)).to(rows)
    product = rows[:, None, :] * indicator[:, :, None]
    count = indicator.sum(0)
    mean = product.sum(0) / count.clamp(min=1)[:, None]
    share = (count / (count + amount).clamp(min=1))[:, None]
    return (1 - share) * prototypes + share * mean, amount + count


def contrast(features: Tensor, labels: Tensor, prototypes: Tensor, temperature: float) -> Tensor:
    """Cross-entropy of cosine / temperature over gathered, normalised rows."""
    rows, labels = as_rows(features, labels)
    return F.cross_entropy(F.normalize(rows) @ F.normalize(prototypes).T / temperature, labels)


class Thresholds:
    """Every confidence of every image in one array, sorted class by class at the end."""

    def __init__(self, num_classes: int, proportion: float, cap: float):
        self.num_classes, self.proportion, self.cap = num_classes, proportion, cap
        self.sure, self.prediction = np.zeros(0, np.float32), np.zeros(0, np.int64)

    def add(self, sure: np.ndarray, prediction: np.ndarray) -> None:
        self.sure = np.append(self.sure, sure)
        self.prediction = np.append(self.prediction, prediction)

    def thresholds(self) -> list[float]:
        result = []
        for c in range(self.num_classes):
            x = np.sort(self.sure[self.prediction == c])
            result.append(min(float(x[round(self.proportion * len(x))]), self.cap) if len(x) else 0.0)
        return result
