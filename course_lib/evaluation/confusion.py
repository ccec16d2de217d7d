"""Count which class was taken for which, and read the scores off the counts.

Letters: N images, C classes, H, W the label's size; M[t, p] the number of pixels of true class t predicted as p;
T[t] the number of pixels of true class t, whatever was predicted there.
"""

import math

import torch
from torch import Tensor

from course_lib.labels import IGNORE, SPACES, subset_ids


class Confusion:
    """Turn predictions and labels into IoU: one (C, C) table of counts on the device, however many images.

    IoU_c = M[c,c] / (T[c] + sum_t M[t,c] - M[c,c])        intersection over union of class c, all images pooled
    mIoU  = mean over the classes that occur in a label or a prediction

    Pixels labelled 255 do not count. A prediction of 255 (a class outside the space, read from a file: networks never
    say it) misses the true class and is no false alarm for another. A class that occurs nowhere has IoU nan and stays
    out of the mean; one that is only predicted has IoU 0. Fractions, 0 to 1. All of this is Cityscapes' own rule, and
    IoU and mIoU equal cityscapesScripts' to the last bit.

    >>> confusion = Confusion(3)
    >>> confusion.update(torch.tensor([[0, 0, 1]]), torch.tensor([[0, 1, 255]]))
    >>> confusion.iou()  # half of class 0 is right, class 1 was missed, class 2 is nowhere
    tensor([0.5000, 0.0000,    nan], dtype=torch.float64)
    >>> confusion.miou()
    0.25
    """

    def __init__(self, num_classes: int, device: torch.device | str | None = None):
        if not 1 <= num_classes <= IGNORE:
            raise ValueError(f"Confusion got num_classes={num_classes}; it wants 1 to {IGNORE}, {IGNORE} is 'ignore'.")
        self.num_classes = num_classes
        self.matrix = torch.zeros(num_classes, num_classes, dtype=torch.int64, device=device)  # rows: truth
        self.missed = torch.zeros(num_classes, dtype=torch.int64, device=device)  # of true class t, predicted as 255

    @torch.no_grad()
    def update(self, prediction: Tensor, label: Tensor) -> None:
        """Count a batch: `prediction` train ids (N,H,W) or logits (N,C,H,W), `label` train ids (N,H,W), 255 = ignore.

        Raises:
            ValueError: for sizes that do not match, or an id that is neither a class nor 255.
        """
        if prediction.ndim == label.ndim + 1:
            if prediction.shape[-3] != self.num_classes:
                raise ValueError(
                    f"Confusion of {self.num_classes} classes got logits of {prediction.shape[-3]}, shape "
                    f"{tuple(prediction.shape)}. Build it with Confusion(num_classes) of the network."
                )
            prediction = prediction.argmax(dim=-3)
        elif prediction.is_floating_point():
            raise ValueError(
                f"Confusion got floating point class ids, shape {tuple(prediction.shape)}. Give whole ids (N,H,W), or "
                "logits (N,C,H,W) with a label (N,H,W)."
            )
        if prediction.shape != label.shape:
            raise ValueError(
                f"Confusion got a prediction of {tuple(prediction.shape)} and a label of {tuple(label.shape)}. Bring "
                "the logits to the label's size first: course_lib.losses.upsample(logits, label.shape[-2:])."
            )
        device = self.matrix.device
        truth, said = label.to(device).flatten().long(), prediction.to(device).flatten().long()
        known = truth != IGNORE
        truth, said = truth[known], said[known]
        self._check(truth, "label", "Map raw ids to train ids first: course_lib.labels.lookup_table(layout, space).")
        C = self.num_classes
        if (lost := said == IGNORE).any():
            self.missed += torch.bincount(truth[lost], minlength=C)
            truth, said = truth[~lost], said[~lost]
        self._check(said, "prediction", "Is the label space that of the network?")
        self.matrix += torch.bincount(truth * C + said, minlength=C * C).view(C, C)

    def iou(self) -> Tensor:
        """IoU of each class, (C,) float64 on the CPU; nan for a class in no label and no prediction."""
        M = self.matrix.cpu().double()
        hit = M.diagonal()
        return hit / (self._truth() + M.sum(0) - hit)  # 0/0 is nan

    def miou(self, subset: str | tuple[int, ...] | None = None) -> float:
        """Mean IoU over all classes, a tuple of train ids, or the classes of a published table: "19" "16" "13" "11".

        The table of counts stays whole: what is mistaken for a class outside the subset is still a mistake.
        """
        there = [iou for iou in self.iou()[list(self._ids(subset))].tolist() if not math.isnan(iou)]
        total = 0.0
        for iou in there:  # one after the other, as the official score does: sum() and torch add in another order
            total += iou
        return total / len(there) if there else float("nan")

    def accuracy(self) -> float:
        """Fraction of the labelled pixels that are right; nan before any."""
        return (self.matrix.trace().item() / total) if (total := self._truth().sum().item()) else float("nan")

    def mean_accuracy(self) -> float:
        """Recall M[c,c] / T[c], averaged over the classes that occur in a label."""
        return (self.matrix.cpu().double().diagonal() / self._truth()).nanmean().item()

    def shares(self) -> Tensor:
        """Fraction of the labelled pixels that each class holds, (C,) float64 on the CPU; nan before any."""
        return self._truth() / self._truth().sum()

    def common(self, share: float = 0.005) -> tuple[int, ...]:
        """Train ids of the classes above `share` of the labelled pixels: a mean over them is steadier on few images."""
        return tuple((self.shares() > share).nonzero().flatten().tolist())

    def merge(self, other: "Confusion") -> "Confusion":
        """Add the counts of another table (another part of the images, another process) to this one; returns it."""
        if other.num_classes != self.num_classes:
            raise ValueError(
                f"A table of {other.num_classes} classes cannot be merged into one of {self.num_classes}. "
                "Score both parts in one label space."
            )
        self.matrix += other.matrix.to(self.matrix.device)
        self.missed += other.missed.to(self.missed.device)
        return self

    def subsets(self) -> tuple[str, ...]:
        """Names of the published means that this number of classes allows: 19 classes give "19", "16" and "13"."""
        return {19: ("19", "16", "13"), 16: ("16", "13")}.get(self.num_classes, (str(self.num_classes),))

    def _truth(self) -> Tensor:
        """T: pixels of each true class, (C,) float64 on the CPU."""
        return (self.matrix.sum(1) + self.missed).cpu().double()

    def _ids(self, subset: str | tuple[int, ...] | None) -> tuple[int, ...]:
        if subset is None or subset == str(self.num_classes):
            return tuple(range(self.num_classes))
        if isinstance(subset, str):
            space = {space.num_classes: space for space in SPACES.values()}.get(self.num_classes)
            if space is None:
                raise ValueError(
                    f"mIoU-{subset} is defined for {', '.join(SPACES)}; this table has {self.num_classes} classes. "
                    "Give the train ids as a tuple."
                )
            return subset_ids(subset, space)
        if wrong := [i for i in subset if not 0 <= i < self.num_classes]:
            raise ValueError(f"mIoU got class {wrong[0]}; this table has 0 to {self.num_classes - 1}.")
        return tuple(subset)

    def _check(self, ids: Tensor, what: str, advice: str) -> None:
        if ids.numel() == 0:
            return
        low, high = ids.aminmax()
        if low < 0 or high >= self.num_classes:
            wrong = int(high) if high >= self.num_classes else int(low)
            raise ValueError(
                f"Confusion got id {wrong} in the {what}; it wants 0 to {self.num_classes - 1}"
                f" or {IGNORE} ({'ignore' if what == 'label' else 'none of them'}). {advice}"
            )

    def __repr__(self) -> str:
        return f"Confusion({self.num_classes} classes, {self._truth().sum():.0f} pixels, mIoU {self.miou():.4f})"
