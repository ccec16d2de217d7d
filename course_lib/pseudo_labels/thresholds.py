"""Static pseudo-labels: which predictions of a classifier are sure enough to be learnt from, class by class.

Letters: N images, C classes, (H, W) their size; n_c pixels predicted as class c, t_c the threshold of class c.
"""

from collections.abc import Callable, Iterable
from typing import Literal

import torch
from torch import Tensor

from course_lib import ranks
from course_lib.devices import widened
from course_lib.losses.inputs import full_precision
from course_lib.losses.segmentation import IGNORE, count_ids

LOW = 16  # a float32 between 0 and 1 in two halves: the upper 16 bits choose one of BINS bins, the lower LOW bits a place in it
BINS = (0x3F800000 >> LOW) + 1  # 0x3F800000: the bits of 1.0

Score = Literal["probability", "logit"]


def confidence(logits: Tensor, score: Score = "probability") -> tuple[Tensor, Tensor]:
    """How sure the network is and of which class: logits (N, C, H, W) -> (N, H, W) float32 and (N, H, W) train ids.

    score: "probability" is the largest softmax(logits); "logit" the largest logit itself, what ProCA's released loop
    compares with 0.9. A logit of 0.9 above eighteen zeros is a probability of 0.12: that test turns almost nothing away.
    """
    if score not in ("probability", "logit"):
        raise ValueError(f"score is {score!r}; choose 'probability' or 'logit' (the released test).")
    logits = full_precision(logits)
    sure, prediction = (logits if score == "logit" else torch.softmax(logits, dim=1)).max(dim=1)
    return sure.float(), prediction


def threshold_labels(
    sure: Tensor, prediction: Tensor, thresholds: Tensor | float, ignore_index: int = IGNORE
) -> Tensor:
    """The prediction where it is sure enough, `ignore_index` elsewhere:  y = c if sure >= t_c, c the predicted class; else 255.

    sure and prediction as from `confidence`; thresholds (C,), or one number for all classes.

    >>> threshold_labels(torch.tensor([0.6, 0.6]), torch.tensor([0, 1]), torch.tensor([0.9, 0.5]))
    tensor([255,   1])
    """
    prediction = prediction.long()
    if isinstance(thresholds, Tensor) and thresholds.ndim:
        thresholds = thresholds.to(sure.device).index_select(0, prediction.flatten()).view_as(prediction)
    return torch.where(sure >= thresholds, prediction, ignore_index)


def any_class_labels(probabilities: Tensor, thresholds: Tensor, ignore_index: int = IGNORE) -> Tensor:
    """The prediction where ANY class reaches its threshold, `ignore_index` elsewhere: BiDA's released test, inherited from CCM.

    probabilities (N, C, H, W), thresholds (C,) -> (N, H, W). A pixel whose own class is not sure enough passes when another
    class has a low threshold: 8.3 instead of 6.6 % of the pixels on a small example. Here so that the difference can be seen.

    >>> any_class_labels(torch.tensor([[[[0.7]], [[0.3]]]]), torch.tensor([0.9, 0.2])).tolist()
    [[[0]]]
    """
    thresholds = thresholds.to(probabilities.device)
    sure, prediction = probabilities.max(dim=1)
    reached = probabilities >= thresholds.where(thresholds > 0, torch.inf)[:, None, None]  # 0: of no pixel's class
    return torch.where(reached.any(dim=1), prediction, threshold_labels(sure, prediction, thresholds, ignore_index))


def picture_labels(sure: Tensor, prediction: Tensor, share: float, ignore_index: int = IGNORE) -> Tensor:
    """The surest `share` of every picture's pixels, whatever their class, `ignore_index` elsewhere: BiDA's local selection.

        y_n(p) = c   if sure_n(p) >= the k-th largest confidence of picture n,   k = int(share * H W)

    sure and prediction (N, H, W), as from `confidence`. Pixels as sure as the k-th are all kept: the released strict ">"
    keeps none of a picture whose surest pixels are saturated at 1. share 0, or one that comes to less than a pixel: nothing.

    >>> picture_labels(torch.tensor([[[0.9, 0.8, 0.7, 0.6]]]), torch.tensor([[[3, 1, 2, 0]]]), share=0.5)
    tensor([[[  3,   1, 255, 255]]])
    """
    if not 0 <= share <= 1:
        raise ValueError(f"share is {share}; it is a share of the pixels, 0 to 1.")
    k = int(share * sure[0].numel())
    if k == 0:
        return torch.full_like(prediction, ignore_index, dtype=torch.int64)
    least = sure.flatten(1).topk(k, dim=1, sorted=True).values[:, -1]
    return torch.where(sure >= least[:, None, None], prediction.long(), ignore_index)


class ClassThresholds:
    """Ada-ST's thresholds: in every class the same share of the pixels is kept, however sure or unsure the class is.

        x_c(0) <= x_c(1) <= ... <= x_c(n_c - 1)        the confidences of all pixels predicted as c, in all images
        t_c = min( x_c(round(proportion * n_c)), cap )

    Exact, in two passes over the data, without keeping or sorting any confidence: positive floats are ordered as their bits
    are. The first pass counts per class how many have which upper 16 bits and so learns the bin that t_c is in; the second
    counts the lower 16 bits of the pixels in that bin. Memory: two tables, about 12 MB for 19 classes, however many images.

    proportion 0.6 and cap 0.9 as published: of each class the top 40 %; an easy class keeps everything from 0.9 on.
    A class never predicted has t_c = 0; the place past the end (one pixel: round(0.6) = 1) is the last. With several
    processes, each adds its own images; both ends of a pass are called by all. Confidences are float32 from 0 to 1.

    Source: ProCA (ECCV 2022), seminar slide "Class-wise adaptive Pseudo-Label Thresholds"; numbers of the released code.

    >>> sure, prediction = torch.tensor([0.9, 0.5, 0.8, 0.7, 0.6, 0.3]), torch.tensor([0, 0, 0, 0, 0, 1])
    >>> class_thresholds(lambda: [(sure, prediction)], num_classes=3)
    tensor([0.8000, 0.3000, 0.0000])
    """

    def __init__(
        self, num_classes: int, proportion: float = 0.6, cap: float = 0.9, device: torch.device | str | None = None
    ):
        if not (0 <= proportion <= 1 and 0 <= cap <= 1):
            raise ValueError(f"proportion is {proportion} and cap is {cap}; both are shares, 0 to 1.")
        self.num_classes, self.proportion, self.cap = num_classes, proportion, cap
        self.upper = torch.zeros(num_classes, BINS, dtype=torch.int64, device=device)
        self.lower: Tensor | None = None  # (C, 2^LOW), in the second pass
        self.pixels = torch.zeros((), dtype=torch.int64, device=device)  # of the pass

    @torch.no_grad()
    def add(self, sure: Tensor, prediction: Tensor) -> None:
        """Count a picture or a batch: confidences and predicted train ids, of one shape. In both passes the same ones."""
        bits, c = self._checked(sure, prediction)
        upper = bits >> LOW
        self.pixels += len(bits)
        if self.lower is None:
            counts = counted_ids(c * BINS + upper, self.upper.numel())
            if counts is None:
                wrong = int(c.min() if c.min() < 0 else c.max())
                raise ValueError(f"ClassThresholds got class {wrong}; it was built for 0 to {self.num_classes - 1}.")
            self.upper += counts.view_as(self.upper)
        else:
            wanted = torch.where(self.open, self.bin, -1).index_select(0, c)  # on the CPU 14 times faster than [c]
            inside = (upper == wanted).nonzero()[:, 0]
            place = (c[inside] << LOW) + (bits[inside] & (1 << LOW) - 1)
            self.lower.view(-1).scatter_add_(0, place, torch.ones_like(place))

    def narrow(self) -> None:
        """End the first pass: find the bin that each class's threshold is in, and its place in that bin."""
        self.upper = ranks.total(self.upper)
        self.pixels.zero_()
        n = self.upper.sum(dim=1)
        wanted = [min(round(self.proportion * n_c), max(n_c - 1, 0)) for n_c in n.tolist()]
        k = torch.tensor(wanted, device=n.device)[:, None]
        below = self.upper.cumsum(dim=1)
        self.bin = torch.searchsorted(below, k, right=True).clamp(max=BINS - 1)[:, 0].int()  # the first with more than k below
        self.place = k - (below - self.upper).gather(1, self.bin[:, None].long())
        self.there = n > 0
        self.open = self.there & ((self.bin << LOW).view(torch.float32) < self.cap)  # the others: the cap, or no pixel
        self.lower = torch.zeros(self.num_classes, 1 << LOW, dtype=torch.int64, device=self.upper.device)

    def thresholds(self) -> Tensor:
        """End the second pass: t_c, (C,) float32 on the CPU."""
        if self.lower is None:
            raise ValueError("ClassThresholds has seen one pass. Call narrow(), add the same images again, then thresholds().")
        self.lower = ranks.total(self.lower)
        found, wanted = self.lower.sum(dim=1), self.upper.gather(1, self.bin[:, None].long())[:, 0] * self.open
        noisy = (found - wanted).abs() > wanted // 100  # less is the noise of a GPU's sums: right to 1 % all the same
        if ranks.total(self.pixels) != self.upper.sum() or noisy.any():
            raise ValueError(
                "The second pass saw other confidences than the first. Give both the same images, in evaluation mode, with "
                "torch.backends.cudnn.benchmark off."
            )
        within = torch.searchsorted(self.lower.cumsum(dim=1), self.place, right=True)[:, 0].clamp(max=(1 << LOW) - 1)
        x = ((self.bin << LOW) + within.int()).view(torch.float32)
        x = torch.where(self.open, x, 1.0).clamp(max=self.cap)
        return torch.where(self.there, x, 0.0).cpu()

    def _checked(self, sure: Tensor, prediction: Tensor) -> tuple[Tensor, Tensor]:
        """The confidences' bits, int32, and the classes, int64: flat, on the device of the tables."""
        if sure.shape != prediction.shape:
            raise ValueError(
                f"ClassThresholds got confidences {tuple(sure.shape)} and predictions {tuple(prediction.shape)}; it wants one "
                "shape. course_lib.pseudo_labels.confidence(logits) gives both."
            )
        device = self.upper.device
        sure, c = sure.detach().to(device).flatten().float(), prediction.to(device).flatten().long()
        low, high = sure.aminmax() if sure.numel() else (0, 1)
        if not (low >= 0 and high <= 1):
            raise ValueError(f"ClassThresholds got confidences from {low} to {high}; it wants probabilities, 0 to 1.")
        return sure.view(torch.int32), c


def counted_ids(ids: Tensor, size: int) -> Tensor | None:
    """How often each of 0..size-1 occurs in `ids` (flat), or None where another id does. The host waits for a GPU."""
    if ids.device.type == "cpu" and (ids < 0).any():  # on a GPU torch has its own error
        return None
    counts = torch.bincount(ids, minlength=size)
    return counts if len(counts) == size else None


def class_thresholds(
    read: Callable[[], Iterable[tuple[Tensor, Tensor]]],
    num_classes: int,
    proportion: float = 0.6,
    cap: float = 0.9,
    device: torch.device | str | None = None,
) -> Tensor:
    """`ClassThresholds` of what `read()` yields, (confidences, predictions) picture by picture; it is called twice."""
    search = ClassThresholds(num_classes, proportion, cap, device)
    for sure, prediction in read():
        search.add(sure, prediction)
    search.narrow()
    for sure, prediction in read():
        search.add(sure, prediction)
    return search.thresholds()


@torch.no_grad()
def batch_thresholds(sure: Tensor, prediction: Tensor, num_classes: int, proportion: float = 0.6, cap: float = 0.9) -> Tensor:
    """`class_thresholds` of one batch (of all processes together), found on its device without the host waiting: (C,) float32.

    The same numbers by the same two passes. Nothing is checked: `sure` are probabilities, 0 to 1.

    >>> sure, prediction = torch.tensor([0.9, 0.5, 0.8, 0.7, 0.6, 0.3]), torch.tensor([0, 0, 0, 0, 0, 1])
    >>> batch_thresholds(sure, prediction, num_classes=3)
    tensor([0.8000, 0.3000, 0.0000])
    """
    bits, c = sure.detach().flatten().float().clamp(0, 1).view(torch.int32).long(), prediction.flatten().long()
    table = ranks.total(count_ids(c * BINS + (bits >> LOW), num_classes * BINS)).view(num_classes, BINS)
    n, below = table.sum(dim=1), table.cumsum(dim=1)
    k = (proportion * widened(n)).round().long().to(n.device)
    k = torch.minimum(k, n - 1).clamp(min=0)[:, None]
    bin = torch.searchsorted(below, k, right=True).clamp(max=BINS - 1)                # (C, 1)
    place = k - (below - table).gather(1, bin)
    inside = bits >> LOW == bin[:, 0].index_select(0, c)
    places = torch.where(inside, (c << LOW) + (bits & (1 << LOW) - 1), num_classes << LOW)  # the last: of no interest
    table = ranks.total(count_ids(places, (num_classes << LOW) + 1)[:-1]).view(num_classes, 1 << LOW)
    within = torch.searchsorted(table.cumsum(dim=1), place, right=True).clamp(max=(1 << LOW) - 1)
    x = ((bin << LOW) + within)[:, 0].int().view(torch.float32).clamp(max=cap)
    return torch.where(n > 0, x, 0.0)
