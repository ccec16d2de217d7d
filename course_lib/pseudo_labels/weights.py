"""How much a teacher's label counts: one number for the batch or the picture, the confidence, or a threshold for each class.

Letters: N pictures, C classes, (H, W) their size; p the largest softmax of a pixel ("confidence"), y its class, q (N, H, W) the
weight of the label, t_c the threshold of class c, V the valid pixels.
"""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from course_lib import ranks
from course_lib.losses.inputs import full_precision
from course_lib.losses.segmentation import upsample
from course_lib.pseudo_labels.thresholds import batch_thresholds, confidence
from course_lib.typed import MOMENTUM, SHARE, checked, in_range

Weighting = Literal["batch", "picture", "power", "threshold", "class"]


@dataclass(frozen=True)
class LabelWeightSettings:
    """Of a `Labeller`. A pixel is confident from the threshold on."""

    weighting: Weighting = "batch"  # [code] DACS
    threshold: float = 0.968  # [code] DACS, SegSDF, the DAFormer line; ReCo 0.97. For "batch", "picture", "threshold"
    confidence_power: float = 6.0  # [code] SemiSegContrast. For "power"
    class_quantile: float = 0.5  # ours: the surest half of each class. For "class", like the next two
    class_momentum: float = 0.9  # ours: the weight of the old quantile
    class_cap: float = 0.95  # ours; Ada-ST's is 0.9

    def __post_init__(self) -> None:
        checked(Weighting, self.weighting, "weighting")
        in_range(self, threshold=SHARE, confidence_power=(0.0, 100.0), class_quantile=SHARE, class_momentum=MOMENTUM,
                 class_cap=SHARE)  # fmt: skip


def ramp(step: int, steps: int) -> float:
    """The weight of pseudo-labels at a step (from 0), small in the first ones:  exp(-5 (1 - t/T)^2), 1 from T on.

    Source: Laine and Aila (ICLR 2017); SemiSegContrast (ICCV 2021), released code.

    >>> [round(ramp(t, 2_000), 3) for t in (0, 1_000, 2_000, 9_999)]
    [0.007, 0.287, 1.0, 1.0]
    """
    return 1.0 if step >= steps else math.exp(-5 * (1 - step / steps) ** 2)


def batch_weight(sure: Tensor, threshold: float = 0.968) -> Tensor:
    """The share of confident pixels of the whole batch (of all processes), for each pixel:  q = |{p >= threshold}| / (N H W).

    Source: DACS (WACV 2021), released code.

    >>> batch_weight(torch.tensor([[[0.99, 0.5]], [[0.5, 0.5]]])).tolist()
    [[[0.25, 0.25]], [[0.25, 0.25]]]
    """
    confident = ranks.total((sure >= threshold).sum())
    return (confident.float() / max(1, ranks.count() * sure.numel())).expand_as(sure)  # batches are of one size


def picture_weight(sure: Tensor, threshold: float = 0.97, valid: Tensor | None = None) -> Tensor:
    """The share of confident pixels among each picture's valid ones:  q_n = |{p >= threshold} and V_n| / |V_n|, 0 without any.

    valid (N, H, W) bool; None: all.

    Source: ReCo (ICLR 2022), released code.

    >>> picture_weight(torch.tensor([[[0.99, 0.5]], [[0.5, 0.5]]])).tolist()
    [[[0.5, 0.5]], [[0.0, 0.0]]]
    """
    valid = torch.ones_like(sure, dtype=torch.bool) if valid is None else valid
    confident = ((sure >= threshold) & valid).sum(dim=(1, 2), keepdim=True)
    return (confident.float() / valid.sum(dim=(1, 2), keepdim=True).clamp(min=1)).expand_as(sure)


@torch.no_grad()
def valid_confidence(logits: Tensor, valid: Tensor | None = None) -> Tensor:
    """p (N, H, W) of logits (N, C, H, W); 0 where a pixel is not valid, or its logits are not finite.

    >>> round(valid_confidence(torch.tensor([[[[0.0]], [[1.0]]]])).item(), 4)  # e / (1 + e)
    0.7311
    """
    p = confidence(logits)[0].nan_to_num(0.0)
    return p if valid is None else p * valid


class ClassQuantiles(nn.Module):
    """Thresholds class by class, online: a moving quantile of the confidence of the pixels predicted as each class.

        m_c <- momentum m_c + (1 - momentum) x_c,    x_c: place round(quantile n_c) of the batch's n_c confidences, ascending
        t_c  = min(m_c, cap)

    The first batch that has class c sets m_c = x_c; a batch without it changes nothing. The batch is that of all processes.
    State in buffers; `thresholds` of a class never predicted is 0.

    Source: Ada-ST's thresholds (ProCA, ECCV 2022; `ClassThresholds`), here from batch to batch; the moving average is ours.

    >>> moving = ClassQuantiles(2)
    >>> moving.update(torch.tensor([0.9, 0.3, 0.5, 0.7]), torch.tensor([0, 0, 0, 0]))
    >>> moving.thresholds
    tensor([0.7000, 0.0000])
    """

    def __init__(self, num_classes: int, quantile: float = 0.5, momentum: float = 0.9, cap: float = 0.95) -> None:
        super().__init__()
        self.quantile, self.momentum, self.cap = quantile, momentum, cap
        in_range(self, quantile=SHARE, momentum=MOMENTUM, cap=SHARE)
        self.register_buffer("moving", torch.zeros(num_classes))
        self.register_buffer("seen", torch.zeros(num_classes, dtype=torch.bool))

    @torch.no_grad()
    def update(self, sure: Tensor, prediction: Tensor, valid: Tensor | None = None) -> None:
        """Take in a batch: confidences and predicted train ids, of one shape; a confidence that is NaN counts as 0.

        valid: which pixels count; None: all.
        """
        sure, C = sure.float().nan_to_num(0.0), len(self.moving)
        if valid is not None:
            prediction = torch.where(valid, prediction, C)  # a class more, which takes those that do not count
        x = batch_thresholds(sure, prediction, C + (valid is not None), self.quantile, cap=1.0)[:C]
        there = x > 0                                                                       # a batch without c gives 0
        moved = torch.where(self.seen, self.momentum * self.moving + (1 - self.momentum) * x, x)
        self.moving.copy_(torch.where(there, moved, self.moving))
        self.seen |= there

    @property
    def thresholds(self) -> Tensor:
        """t_c, (C,) float32."""
        return self.moving.clamp(max=self.cap)


class Labeller(nn.Module):
    """The labels of a teacher and their weights: logits -> y (N, H, W) train ids and q (N, H, W) float32, without gradient.

        y = argmax_c softmax(logits)_c,   p = max_c softmax(logits)_c

        "batch"      q = the share of the batch's pixels with p >= threshold      (`batch_weight`, published)
        "picture"    q = that of the picture                                      (`picture_weight`)
        "power"      q = p^confidence_power
        "threshold"  q = 1[p >= threshold]
        "class"      q = 1[p >= t_y], t of `ClassQuantiles`, which the batch is taken into first, in training mode

    A pixel that is not `valid` and one whose logits are not finite has q = 0. Its label stays, since q says that it does not
    count.

    >>> y, q = Labeller(2, LabelWeightSettings("threshold"))(torch.tensor([[[[9.0, 0.0]], [[0.0, 1.0]]]]))
    >>> y.tolist(), q.tolist()
    ([[[0, 1]]], [[[1.0, 0.0]]])
    """

    def __init__(self, num_classes: int, settings: LabelWeightSettings | None = None) -> None:
        super().__init__()
        self.settings = s = settings or LabelWeightSettings()
        self.quantiles = None
        if s.weighting == "class":
            self.quantiles = ClassQuantiles(num_classes, s.class_quantile, s.class_momentum, s.class_cap)

    @torch.no_grad()
    def forward(
        self, logits: Tensor, size: tuple[int, int] | None = None, valid: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Labels of logits (N, C, h, w), brought to `size` first (None: as they are); valid (N, H, W) bool: what counts."""
        if logits.ndim != 4:
            raise ValueError(f"Labeller got logits {tuple(logits.shape)}; it wants (N, C, h, w): the teacher's .logits.")
        logits = full_precision(logits)
        if size is not None and size != tuple(logits.shape[-2:]):
            logits = upsample(logits, size)
        sure, y = confidence(logits)
        if valid is not None and valid.shape != y.shape:
            raise ValueError(f"valid is {tuple(valid.shape)} and the labels are {tuple(y.shape)}; it wants one shape.")
        finite = sure.isfinite()
        q = self._weight(sure.nan_to_num(0.0), y, valid) * finite
        return y, q if valid is None else q * valid

    def _weight(self, sure: Tensor, y: Tensor, valid: Tensor | None) -> Tensor:
        s = self.settings
        if s.weighting == "batch":
            return batch_weight(sure, s.threshold)
        if s.weighting == "picture":
            return picture_weight(sure, s.threshold, valid)
        if s.weighting == "power":
            return sure**s.confidence_power
        if s.weighting == "threshold":
            return (sure >= s.threshold).float()
        if self.training:
            self.quantiles.update(sure, y, valid)
        return (sure >= self.quantiles.thresholds.index_select(0, y.flatten()).view_as(y)).float()
