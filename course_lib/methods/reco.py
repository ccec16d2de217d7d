"""ReCo (Liu et al., ICLR 2022): ClassMix, and a contrast of unsure cells with the mean of their class.

Letters: as in `classmix`; p'_m the confidence of the teacher's label of a mixed pixel, theta_s a threshold, B the mixed pixels
that have a label.

    the step           that of ClassMix:  L_S + L_mix                                              methods/classmix.py
    a mixed picture    eta_n = |{p'_m >= theta_s}| / |B_n|,   L_mix = 1/|B| sum_{p in B} eta_n CE(P(x_m)_p, y_m(p))
    region contrast    hard cells, class means, negatives of classes like theirs           methods/terms/region_contrast.py
    the result         the teacher's network, not the student's (`scored`)

Labelled and mixed pictures are one backward pass: the means and the negatives are of both. Other than released: picture
n + 1 is pasted on picture n (there n on n + 1), and the teacher is a copy at step 0, so that its rate is that of one step
later there.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from course_lib.data import Batch
from course_lib.losses.inputs import IGNORE
from course_lib.methods.classmix import ClassMix, ClassMixSettings
from course_lib.methods.step import Losses, Taught
from course_lib.methods.supervision import Over, weighted_loss
from course_lib.networks import Prediction
from course_lib.pseudo_labels.weights import LabelWeightSettings, picture_weight
from course_lib.typed import checked

Scored = Literal["teacher", "segmenter"]


@dataclass(frozen=True)
class ReCoSettings(ClassMixSettings):
    """ClassMix's, with ReCo's weight of a picture. Other ways of weighting are as in ClassMix, before pictures are mixed."""

    labels: LabelWeightSettings = LabelWeightSettings("picture", threshold=0.97)  # [code] theta_s
    mixed_over: Over = "labelled"  # ours: B; "positive", [code]: of these the pixels whose loss is not exactly 0
    scored: Scored = "teacher"  # [code]; "segmenter": the network that learns

    def __post_init__(self) -> None:
        super().__post_init__()
        checked(Over, self.mixed_over, "mixed_over")
        checked(Scored, self.scored, "scored")


class ReCo(ClassMix):
    """ClassMix with one weight for each mixed picture, and a contrast of cells; `scored`: the teacher."""

    name = "reco"
    Settings = ReCoSettings
    own_terms = ("region_contrast",)

    def __init__(self, *rest: Any, **others: Any) -> None:
        super().__init__(*rest, **others)
        self.scored = self.settings.scored

    def student(self, batches: dict[str, Batch], taught: Taught) -> Iterator[Losses]:
        mixed, sure = batches["mixed"], taught.mixed_sure
        y = torch.where(sure > 0, mixed.label, IGNORE)
        if self.settings.labels.weighting == "picture":
            eta = picture_weight(sure, self.settings.labels.threshold, valid=y != IGNORE)       # eta_n
            taught = taught._replace(mixed_weight=eta)
        yield from super().student(batches | {"mixed": mixed._replace(label=y)}, taught)

    def unsupervised(self, P: Prediction, label: Tensor, weight: Tensor) -> Losses:
        return {"mixed": weighted_loss(P, label, weight, self.settings.mixed_over)}              # L_mix
