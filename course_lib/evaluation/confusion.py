"""Count which class was taken for which, and read the scores off the counts.

Letters: N images, C classes, H, W the label's size; M[t, p] the number of pixels of true class t predicted as p;
T[t] the number of pixels of true class t, whatever was predicted there.
"""

import math
from typing import Literal

import torch
from torch import Tensor

from course_lib.labels import IGNORE, SPACES, subset_ids


class Confusion:
    """Turn predictions and labels into IoU: one (C, C) table of counts on the device, however many images.

    IoU_c = M[c,c] / (T[c] + sum_t M[t,c] - M[c,c])        intersection over union of class c, all images pooled
    mIoU  = mean over the classes that occur in a label or a prediction

    Pixels labelled `ignore_index` do not count. A prediction of that id (a class outside the space, read from a file:
    networks never say it) misses the true class and is no false alarm for another. A class that occurs nowhere has IoU
    nan and stays out of the mean; one that is only predicted has IoU 0. Fractions, 0 to 1. All of this is Cityscapes' own rule,
    and IoU and mIoU equal cityscapesScripts' to the last bit.

    >>> confusion = Confusion(3)
    >>> confusion.update(torch.tensor([[0, 0, 1]]), torch.tensor([[0, 1, 255]]))
    >>> confusion.iou()  # half of class 0 is right, class 1 was missed, class 2 is nowhere
    tensor([0.5000, 0.0000,    nan], dtype=torch.float64)
    >>> confusion.miou()
    0.25
    """

    def __init__(self, num_classes: int, device: torch.device | str | None = None, ignore_index: int = IGNORE):
        if num_classes < 1 or num_classes > IGNORE == ignore_index:
            raise ValueError(f"Confusion got num_classes={num_classes}; it wants 1 to {IGNORE}, {IGNORE} is 'ignore'.")
        self.num_classes, self.ignore_index = num_classes, ignore_index
        self.matrix = torch.zeros(num_classes, num_classes, dtype=torch.int64, device=device)  # rows: truth
        self.missed = torch.zeros(num_classes, dtype=torch.int64, device=device)  # of true class t, predicted as 255

    @torch.no_grad()
    def update(self, prediction: Tensor, label: Tensor) -> None:
        """Count a batch: `prediction` train ids (N,H,W) or logits (N,C,H,W), `label` train ids (N,H,W).

        H, W may be other axes, as (N,C,L) with (N,L); without N, logits are (C,H,W). Ids are of any integer type.

        Raises:
            ValueError: for sizes that do not match, an id that is neither a class nor `ignore_index`, or NaN among the logits
                of a pixel that counts. TypeError: for what is no tensor.
        """
        for what, given in (("prediction", prediction), ("label", label)):
            if not isinstance(given, Tensor):
                raise TypeError(
                    f"Confusion got a {what} of type {type(given).__name__}; it wants a tensor: torch.as_tensor({what})."
                )
        if prediction.ndim == label.ndim + 1:
            prediction = self._best(prediction, label)
        if prediction.shape != label.shape:
            raise ValueError(
                f"Confusion got a prediction of {tuple(prediction.shape)} and a label of {tuple(label.shape)}. Bring "
                "the logits to the label's size first: course_lib.losses.upsample(logits, label.shape[-2:])."
            )
        if prediction.is_floating_point() or label.is_floating_point():
            raise ValueError(
                f"Confusion got floating point class ids, a prediction of {prediction.dtype} and a label of {label.dtype}, "
                f"shape {tuple(label.shape)}. Give whole ids (N,H,W), or logits (N,C,H,W) with a label (N,H,W)."
            )
        device = self.matrix.device
        truth, said = label.to(device).flatten().long(), prediction.to(device).flatten().long()
        known = truth != self.ignore_index
        truth, said = truth[known], said[known]
        self._check(truth, "label", "Map raw ids to train ids first: course_lib.labels.lookup_table(layout, space).")
        C = self.num_classes
        if not 0 <= self.ignore_index < C and (lost := said == self.ignore_index).any():
            self.missed += torch.bincount(truth[lost], minlength=C)
            truth, said = truth[~lost], said[~lost]
        self._check(said, "prediction", "Is the label space that of the network?")
        self.matrix += torch.bincount(truth * C + said, minlength=C * C).view(C, C)

    def reset(self) -> None:
        """Forget what was counted."""
        self.matrix.zero_()
        self.missed.zero_()

    def normalised(self, over: Literal["truth", "prediction", "all"] = "truth") -> Tensor:
        """The table as fractions, (C, C) float64 on the CPU: rows are true classes, columns predicted ones.

        over: "truth" divides each row by the pixels of its true class: the diagonal is the recall. "prediction" divides each
            column by the pixels predicted as its class: the diagonal is the precision. "all" divides by all labelled pixels.
        nan where there is nothing to divide by. Predictions of no class are missing from their row, which then adds up to less.
        """
        M = self.matrix.cpu().double()
        if over == "truth":
            return M / self._truth()[:, None]
        if over == "prediction":
            return M / M.sum(0)
        if over == "all":
            return M / self._truth().sum()
        raise ValueError(f"over is {over!r}; choose 'truth' (rows), 'prediction' (columns) or 'all'.")

    def iou(self) -> Tensor:
        """IoU of each class, (C,) float64 on the CPU; nan for a class in no label and no prediction."""
        M = self.matrix.cpu().double()
        hit = M.diagonal()
        return hit / (self._truth() + M.sum(0) - hit)  # 0/0 is nan

    def area_ratios(self) -> Tensor:
        """Predicted over true pixels of each class, (C,) float64 on the CPU: inf for a class in no label, nan nowhere.

        >>> confusion = Confusion(3)
        >>> confusion.update(torch.tensor([[0, 0, 1]]), torch.tensor([[0, 1, 1]]))
        >>> confusion.area_ratios()
        tensor([2.0000, 0.5000,    nan], dtype=torch.float64)
        """
        return self.matrix.cpu().double().sum(0) / self._truth()

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

    def _best(self, logits: Tensor, label: Tensor) -> Tensor:
        """The class of the largest logit (N, C, ...) or (C, ...) for labels (N, ...) or (...); -1 where one is NaN."""
        shape = logits.shape
        axes = [axis for axis in (1, 0) if axis < logits.ndim and shape[:axis] + shape[axis + 1 :] == label.shape]
        if not axes:
            return logits  # the sizes do not match, whatever the classes are
        if not (fit := [axis for axis in axes if shape[axis] == self.num_classes]):
            raise ValueError(
                f"Confusion of {self.num_classes} classes got logits of {shape[axes[0]]}, shape {tuple(shape)}. Build it with "
                "Confusion(num_classes) of the network."
            )
        return best_class(logits, fit[0])

    def _check(self, ids: Tensor, what: str, advice: str) -> None:
        if ids.numel() == 0:
            return
        low, high = ids.aminmax()
        if low < 0 or high >= self.num_classes:
            wrong = int(high) if high >= self.num_classes else int(low)
            if what == "prediction" and wrong == -1:  # as `best_class` marks it
                advice = "Its logits are NaN there: the network is broken, or its training diverged."
            raise ValueError(
                f"Confusion got id {wrong} in the {what}; it wants 0 to {self.num_classes - 1}"
                f" or {self.ignore_index} ({'ignore' if what == 'label' else 'none of them'}). {advice}"
            )

    def __repr__(self) -> str:
        return f"Confusion({self.num_classes} classes, {self._truth().sum():.0f} pixels, mIoU {self.miou():.4f})"


def best_class(scores: Tensor, dim: int = 1) -> Tensor:
    """argmax over the classes, and -1 where a score is NaN: torch takes NaN for the largest, whose class it then is."""
    best, ids = scores.max(dim)
    return torch.where(best.isnan(), -1, ids)
