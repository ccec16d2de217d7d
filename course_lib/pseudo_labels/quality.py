"""How good pseudo-labels are, where the truth is known.

Letters: C classes; labels and truth are train ids of any shape, 255 = none.
"""

import torch
from torch import Tensor

from course_lib import ranks
from course_lib.pseudo_labels.thresholds import IGNORE, counted_ids


class LabelQuality:
    """How many pixels have a pseudo-label and how many of those are right, where the truth is known; over any number of images.

        density  = labelled pixels with known truth / all pixels          (pixels of unknown truth stay in the denominator)
        accuracy = right ones / labelled pixels with known truth          (nan when there are none)

    Per class: of the labels that say c. What fraction of the TRUE pixels of c was found is another question:
    `evaluation.Confusion` takes labels as predictions and answers it.
    """

    def __init__(self, num_classes: int, device: torch.device | str | None = None, ignore_index: int = IGNORE):
        self.ignore_index = ignore_index  # what has no label, or no known truth
        self.labelled = torch.zeros(num_classes, dtype=torch.int64, device=device)  # pixels labelled c, with known truth
        self.right = torch.zeros(num_classes, dtype=torch.int64, device=device)
        self.pixels = torch.zeros((), dtype=torch.int64, device=device)

    @torch.no_grad()
    def add(self, labels: Tensor, truth: Tensor) -> "LabelQuality":
        """Count labels and truth, train ids of one shape, of any integer type; returns itself."""
        if labels.shape != truth.shape:
            raise ValueError(f"Got labels {tuple(labels.shape)} and truth {tuple(truth.shape)}; they must have one shape.")
        device, C = self.labelled.device, len(self.labelled)
        y, t = labels.to(device).flatten().long(), truth.to(device).flatten().long()
        there = (y != self.ignore_index) & (t != self.ignore_index)
        y = torch.where(there, y, C)
        counts = counted_ids(2 * y + (y == t), 2 * C + 2)
        if counts is None:
            wrong = int(y.min() if y.min() < 0 else y.max())
            raise ValueError(f"LabelQuality got label {wrong}; it was built for 0 to {C - 1} and {self.ignore_index}.")
        counts = counts.view(-1, 2)[:C]
        self.labelled += counts.sum(dim=1)
        self.right += counts[:, 1]
        self.pixels += y.numel()
        return self

    def total(self) -> "LabelQuality":
        """Those of all processes together."""
        whole = LabelQuality(len(self.labelled), self.labelled.device, self.ignore_index)
        whole.labelled, whole.right, whole.pixels = map(ranks.total, (self.labelled, self.right, self.pixels))
        return whole

    @property
    def density(self) -> float:
        """The share of all pixels that has a label, 0 to 1."""
        return (self.labelled.sum() / self.pixels).item()

    @property
    def accuracy(self) -> float:
        """The share of labelled pixels whose label is right, 0 to 1; nan without labels."""
        return (self.right.sum() / self.labelled.sum()).item()

    @property
    def class_density(self) -> Tensor:
        """(C,) float64: they add up to `density`."""
        return self.labelled.cpu().double() / self.pixels.cpu()

    @property
    def class_accuracy(self) -> Tensor:
        """(C,) float64; nan for a class that no label says."""
        return self.right.cpu().double() / self.labelled.cpu()


def density_accuracy(labels: Tensor, truth: Tensor, ignore_index: int = IGNORE) -> tuple[float, float]:
    """`LabelQuality` of one set of labels: (density, accuracy), fractions. Any shape; train ids.

    >>> density_accuracy(torch.tensor([[1, 1], [255, 0]]), torch.tensor([[1, 0], [2, 255]]))
    (0.5, 0.5)
    """
    quality = LabelQuality(IGNORE, ignore_index=ignore_index).add(labels, truth)
    return quality.density, quality.accuracy


def accuracy_by_density(confidence: Tensor, labels: Tensor, truth: Tensor, points: int = 100) -> tuple[Tensor, Tensor]:
    """How many of the surest labels are right, for 1 / points, 2 / points, ... of all pixels: two ways of labelling compare at
    equal density, whatever their thresholds.

    confidence: of any scale, larger is surer; labels, truth: train ids; all of one shape. -> density and accuracy (points,)
    float64, as `LabelQuality` counts them: pixels of unknown truth (255) are ranked too, neither right nor wrong.

    >>> density, accuracy = accuracy_by_density(torch.tensor([0.9, 0.2, 0.8, 0.1]), torch.tensor([0, 1, 1, 0]),
    ...                                         torch.tensor([0, 1, 0, 1]), points=2)
    >>> density.tolist(), accuracy.tolist()
    ([0.5, 1.0], [0.5, 0.5])
    """
    if not confidence.shape == labels.shape == truth.shape:
        shapes = ", ".join(str(tuple(values.shape)) for values in (confidence, labels, truth))
        raise ValueError(f"Got confidence, labels and truth of shapes {shapes}; they must have one shape.")
    if not 1 <= points <= confidence.numel():
        raise ValueError(f"points is {points}; it must be from 1 to the {confidence.numel()} pixels.")
    order = confidence.flatten().argsort(descending=True, stable=True)
    y, t = labels.flatten()[order], truth.flatten()[order]
    last = torch.arange(1, points + 1, device=order.device) * len(order) // points - 1  # of the surest k / points
    counts = (there.cumsum(0)[last].cpu().double() for there in (t != IGNORE, (t != IGNORE) & (y == t)))
    known, right = counts
    return known / len(order), right / known
