"""DAFormer's feature distance: on cells of things the encoder stays near its values before the training.

Letters: F the coarsest map of the encoder, F' that of the network as the run began; A the cells of the source whose label is a
thing.

    L_FD = 1/|A| sum_{p in A} ||F_p - F'_p||_2,   A: at least 3/4 of the cell's pixels are of one class, which is a thing

ImageNet's weights were trained on photographs of cars and persons; training on rendered ones may overwrite that. Where the run
begins with another start, F' is that start's. F' is computed in eval mode, F in training mode: with dropout or batch statistics
they differ from the first step on.
"""

import copy
from dataclasses import dataclass

import torch
from torch import nn

from course_lib.losses import feature_distance, label_down
from course_lib.methods.step import Losses, Passes, Step
from course_lib.methods.terms.base import Term, TermSettings
from course_lib.networks import Prediction
from course_lib.networks.prediction import needs_pyramid
from course_lib.typed import in_range


@dataclass(frozen=True)
class FeatureDistanceSettings(TermSettings):
    """Source: DAFormer (CVPR 2022), released code."""

    weight: float = 0.005  # [code] lambda_FD
    classes: tuple[int, ...] = (6, 7, 11, 12, 13, 14, 15, 16, 17, 18)  # [code] Cityscapes' things, train ids
    cell_share: float = 0.75  # [code] of a cell's pixels, which have to be of one class

    def __post_init__(self) -> None:
        super().__post_init__()
        in_range(self, cell_share=(0.01, 1.0))
        if not self.classes or min(self.classes) < 0:
            raise ValueError(f"terms.feature_distance.classes is {self.classes}; it wants train ids, at least one.")


class FeatureDistance(Term):
    """The encoder near its start on things of the source. A copy of the network that the run begins with is in the state: a
    resumed run has the same."""

    name = "feature_distance"
    Settings = FeatureDistanceSettings
    reads = ("source",)

    def __init__(self, segmenter: nn.Module, settings: FeatureDistanceSettings | None = None) -> None:
        super().__init__(segmenter, settings)
        needs_pyramid(segmenter, self.name)
        if max(self.settings.classes) >= segmenter.num_classes:
            raise ValueError(
                f"terms.feature_distance.classes is {self.settings.classes}, and the network has {segmenter.num_classes} "
                "classes. Give the train ids of its things."
            )
        self.frozen = copy.deepcopy(segmenter).requires_grad_(False).eval()
        counted = torch.zeros(256, dtype=torch.bool)
        counted[list(self.settings.classes)] = True
        self.register_buffer("counted", counted, persistent=False)  # by train id

    def train(self, mode: bool = True) -> "FeatureDistance":
        super().train(mode)
        self.frozen.eval()
        return self

    def forward(self, P: dict[str, Prediction], step: Step) -> Losses:
        x, y, features = step.batches["source"].image, step.batches["source"].label, P["source"].pyramid[-1]
        with torch.no_grad():
            before = self.frozen.pyramid(x)[-1]                                              # F'
        cells = label_down(y, tuple(features.shape[2:]), self.segmenter.num_classes, self.settings.cell_share)
        A = self.counted[cells]
        return {"distance": feature_distance(features, before, A)}                           # L_FD

    def passes(self) -> Passes:
        return Passes(trained=0, frozen=0, encoded=1)
