"""Self-training: learn from one's own sure predictions on the target (the last stage of ProCA; part of BiDA's base).

    L = L_seg(P_t, y~) + lambda_source L_seg(P_s, Y)

y~ are train-id PNGs that an earlier network wrote (`evaluation.write_pseudo_labels`); they arrive as the target's labels. Which
pixels have one decides all: see the thresholds per class in `course_lib.pseudo_labels`.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from torch import nn

from course_lib.data import Batch
from course_lib.methods.base import Method
from course_lib.methods.step import Losses, Stream
from course_lib.methods.supervision import supervised_loss
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

    name = "self-training"
    Settings = SelfTrainingSettings
    offers = (("target",),)

    @classmethod
    def streams(cls, settings: SelfTrainingSettings) -> dict[str, Stream]:
        source = {"source": Stream(labels="true")} if settings.lambda_source > 0 else {}
        return source | {"target": Stream(labels="files")}

    def __init__(self, segmenter: nn.Module, *rest: Any, **others: Any) -> None:
        super().__init__(segmenter, *rest, **others)
        lambda_source = self.settings.lambda_source
        for name, weight in list(self.weights.items()):
            self.weights[name] = lambda_source * weight
        self.weights["segmentation"] = lambda_source
        self.landmarks["pseudo"] = self.landmarks["segmentation"]

    def losses(self, target: Batch, source: Batch | None = None) -> Iterator[Losses]:
        losses = {} if source is None else self.supervised(self.segmenter(source.image), source.label)
        P_t = self.segmenter(target.image)
        losses["pseudo"] = supervised_loss(P_t, target.label)                                 # L_seg(P_t, y~)
        yield losses | self.terms({"source": source, "target": target}, target=P_t)
