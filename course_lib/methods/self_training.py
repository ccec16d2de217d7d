"""Self-training: learn from one's own sure predictions on the target (the last stage of ProCA; part of BiDA's base).

    L = L_seg(P_t, y~) + lambda_source L_seg(P_s, Y)

y~ are train-id PNGs that an earlier network wrote (`evaluation.write_pseudo_labels`); they arrive as the target's labels. Which
pixels have one decides all: see the thresholds per class in `course_lib.pseudo_labels`.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from torch import nn

from course_lib.data import Batch
from course_lib.losses import cross_entropy
from course_lib.methods.base import Losses, Method, OptimiserSettings
from course_lib.typed import WEIGHT, in_range


@dataclass(frozen=True)
class SelfTrainingSettings:
    """Constants of the method; defaults: ProCA's release."""

    lambda_source: float = 0.0  # [code] 0: no source picture is looked at any more
    # whose network it begins with, in a plan: "own" is the recipe's start, ImageNet once more [code]
    self_training_from: Literal["own", "source", "contrast"] = "own"

    def __post_init__(self) -> None:
        in_range(self, lambda_source=WEIGHT)


class SelfTraining(Method):
    """Train a segmenter on the target's pseudo-labels, and on the source too if `lambda_source` is above 0."""

    uses_target = True

    def __init__(
        self,
        segmenter: nn.Module,
        settings: SelfTrainingSettings = SelfTrainingSettings(),
        optimiser: OptimiserSettings | None = None,
        lambda_seg_aux: float = 0.1,
    ) -> None:
        super().__init__(segmenter, optimiser, lambda_seg_aux)
        self.settings, self.uses_source = settings, settings.lambda_source > 0
        for name, weight in list(self.weights.items()):
            self.weights[name] = settings.lambda_source * weight
        self.weights["segmentation"] = settings.lambda_source
        self.landmarks["pseudo"] = self.landmarks["segmentation"]

    def losses(self, source: Batch | None, target: Batch) -> Iterator[Losses]:
        losses = self.supervised(self.segmenter(source.image), source.label) if self.uses_source else {}
        losses["pseudo"] = cross_entropy(self.segmenter(target.image).logits, target.label)   # L_seg(P_t, y~)
        yield losses
