"""How the networks of a method learn: the optimiser of a segmenter, its backbone and heads in groups of their own."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

from course_lib.methods.lars import LARS
from course_lib.networks import parameter_groups
from course_lib.typed import MOMENTUM, RATE, WEIGHT, in_range


@dataclass(frozen=True)
class OptimiserSettings:
    """How the segmenter learns. Defaults: AdaptSegNet's published ones."""

    optimiser: Literal["sgd", "adamw", "lars"] = "sgd"
    lr: float = 2.5e-4  # [code] of the backbone
    head_factor: float = 10.0  # [code] heads learn ten times faster
    backbone_factor: float = 1.0  # [code]
    published_duplicates: bool = False  # the released optimiser lists backbone weights three times: rate x3
    momentum: float = 0.9  # [code]
    nesterov: bool = False  # [code] of "sgd"; ReCo: True
    weight_decay: float = 5e-4  # [code]
    norm_decay: bool = True  # [code]; the DAFormer line: no decay of the network's normalisation layers (terms' decay)

    def __post_init__(self) -> None:
        in_range(self, lr=RATE, head_factor=WEIGHT, backbone_factor=WEIGHT, momentum=MOMENTUM, weight_decay=(0.0, 1e3))
        if self.nesterov and (self.optimiser != "sgd" or not self.momentum):
            given = f"{self.optimiser} and momentum {self.momentum}"
            raise ValueError(f"nesterov goes with optimiser=sgd and a momentum; got {given}. Leave nesterov out.")


def segmenter_optimiser(segmenter: nn.Module, settings: OptimiserSettings) -> torch.optim.Optimizer:
    """The optimiser of the segmenter: backbone and heads in groups of their own."""
    groups = parameter_groups(
        segmenter,
        lr=settings.lr,
        head_factor=settings.head_factor,
        backbone_factor=settings.backbone_factor,
        weight_decay=settings.weight_decay,
        published_duplicates=settings.published_duplicates,
        norm_decay=settings.norm_decay,
    )
    return make_optimiser(groups, settings)


def make_optimiser(groups: list[dict], settings: OptimiserSettings) -> torch.optim.Optimizer:
    """The settings' optimiser over parameter groups that have their own rates and decays."""
    if settings.optimiser == "sgd":
        return torch.optim.SGD(groups, momentum=settings.momentum, nesterov=settings.nesterov)
    if settings.optimiser == "adamw":
        return torch.optim.AdamW(groups, betas=(settings.momentum, 0.999))
    if settings.optimiser == "lars":
        return LARS(adapted(groups), lr=settings.lr, momentum=settings.momentum)
    raise ValueError(f"optimiser is {settings.optimiser!r}; choose 'sgd', 'adamw' or 'lars'.")


def adapted(groups: list[dict]) -> list[dict]:
    """Groups for LARS: biases and normalisation layers (one axis) in groups whose rates it does not adapt.

    >>> weight, bias = nn.Linear(2, 3).parameters()
    >>> [(len(group["params"]), group["adapt"]) for group in adapted([{"params": [weight, bias]}])]
    [(1, True), (1, False)]
    """
    found = []
    for group in groups:
        for adapt in (True, False):
            if chosen := [p for p in group["params"] if (p.ndim > 1) == adapt]:
                found.append(group | {"params": chosen, "adapt": adapt})
    return found
