"""What all methods share: the segmenter, its optimiser, and the supervised loss on labelled pictures."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from course_lib.data import Batch
from course_lib.losses import cross_entropy
from course_lib.methods.lars import LARS
from course_lib.networks import Prediction, parameter_groups
from course_lib.typed import MOMENTUM, RATE, WEIGHT, in_range

Losses = dict[str, Tensor]


class Passes(NamedTuple):
    """How often a step sends a training batch through the network: with a backward pass, and without."""

    trained: int
    frozen: int

    @property
    def cost(self) -> int:
        """In forward passes: a backward pass costs two."""
        return 3 * self.trained + self.frozen


@dataclass(frozen=True)
class OptimiserSettings:
    """How the segmenter learns. Defaults: AdaptSegNet's published ones."""

    optimiser: Literal["sgd", "adamw", "lars"] = "sgd"
    lr: float = 2.5e-4  # [code] of the backbone
    head_factor: float = 10.0  # [code] heads learn ten times faster
    backbone_factor: float = 1.0  # [code]
    published_duplicates: bool = False  # the released optimiser lists backbone weights three times: rate x3
    momentum: float = 0.9  # [code]
    weight_decay: float = 5e-4  # [code]

    def __post_init__(self) -> None:
        in_range(self, lr=RATE, head_factor=WEIGHT, backbone_factor=WEIGHT, momentum=MOMENTUM, weight_decay=(0.0, 1e3))


def segmenter_optimiser(segmenter: nn.Module, settings: OptimiserSettings) -> torch.optim.Optimizer:
    """The optimiser of the segmenter: backbone and heads in groups of their own."""
    groups = parameter_groups(
        segmenter,
        lr=settings.lr,
        head_factor=settings.head_factor,
        backbone_factor=settings.backbone_factor,
        weight_decay=settings.weight_decay,
        published_duplicates=settings.published_duplicates,
    )
    return make_optimiser(groups, settings)


def make_optimiser(groups: list[dict], settings: OptimiserSettings) -> torch.optim.Optimizer:
    """The settings' optimiser over parameter groups that have their own rates and decays."""
    if settings.optimiser == "sgd":
        return torch.optim.SGD(groups, momentum=settings.momentum)
    if settings.optimiser == "adamw":
        return torch.optim.AdamW(groups, betas=(settings.momentum, 0.999))
    if settings.optimiser == "lars":
        return LARS(groups, lr=settings.lr, momentum=settings.momentum)
    raise ValueError(f"optimiser is {settings.optimiser!r}; choose 'sgd', 'adamw' or 'lars'.")


class Method(nn.Module):
    """Base of the methods: owns the segmenter and its optimiser. Subclasses write `losses`."""

    uses_source = True  # whether `losses` wants a source batch
    uses_target = False  # and a target batch

    def __init__(
        self, segmenter: nn.Module, optimiser: OptimiserSettings | None = None, lambda_seg_aux: float = 0.1
    ) -> None:
        super().__init__()
        self.segmenter = segmenter
        self.optimisers = {"segmenter": segmenter_optimiser(segmenter, optimiser or OptimiserSettings())}
        self.weights: dict[str, float] = {"segmentation_aux": lambda_seg_aux}  # AdaptSegNet multi-level: 0.1
        self.landmarks = {"segmentation": (math.log(segmenter.num_classes), f"ln {segmenter.num_classes}: knows nothing")}

    def losses(self, source: Batch, target: Batch | None) -> Iterator[Losses]:
        """Yield one dictionary of losses per backward pass of a step."""
        raise NotImplementedError

    def passes(self) -> Passes:
        """Of one step, from one batch of each domain that the method sees."""
        return Passes(trained=self.uses_source + self.uses_target, frozen=0)

    def supervised(self, prediction: Prediction, label: Tensor) -> Losses:
        """Cross-entropy of the main output and, when the network has one, of the auxiliary output."""
        losses = {"segmentation": cross_entropy(prediction.logits, label)}
        if prediction.aux_logits is not None:
            losses["segmentation_aux"] = cross_entropy(prediction.aux_logits, label)
        return losses
