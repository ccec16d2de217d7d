"""DACS: domain adaptation by class mixing with a mean teacher (Tranheden et al., WACV 2021).

Letters: theta the segmenter's weights, theta' the teacher's; x_S, y_S a source picture and its labels, x_T a target picture;
y~ the teacher's label of a pixel and q its weight; M the pixels that are pasted from the source.

    each step   theta' <- a theta' + (1 - a) theta                                        course_lib/teacher.py
                y~, q from the teacher's prediction of x_T                                course_lib/pseudo_labels/weights.py
                M: the pixels of half of the classes of x_S                               course_lib/mixing.py
                x_m = M x_S + (1 - M) x_T, y_m = M y_S + (1 - M) y~, q_m = M + (1 - M) q;  colours of x_m
                L = CE(P(x_S), y_S) + lambda_mix 1/(N H W) sum_p q_m(p) CE(P(x_m)_p, y_m(p)) + the terms

No label files: the labels of a step come from the mean of the networks before it. The mean of L_mix is over all pixels, those
without a label among them, as released. Where the recipe changes the colours of source or target, L_S has these and the mixed
picture is made of the plain ones: one change of colour for all of it.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from course_lib.data import NORMALISATIONS, Batch
from course_lib.data.colours import Photometric
from course_lib.data.sampling import mixed_seed
from course_lib.methods.base import Method
from course_lib.methods.step import Losses, Passes, Stream, Taught
from course_lib.methods.supervision import recoloured, weighted_loss
from course_lib.mixing import Mixer, MixingSettings
from course_lib.networks import Prediction
from course_lib.pseudo_labels.weights import Labeller, LabelWeightSettings
from course_lib.teacher import EMA, TeacherSettings
from course_lib.typed import SHARE, WEIGHT, checked, in_range


@dataclass(frozen=True)
class DACSSettings:
    """Constants of the method; defaults: the authors' released ones."""

    lambda_mix: float = 1.0  # [code] of L_mix
    mixed_photometric: Photometric = "jitter"  # [code] of the mixed pictures
    mixed_blur: float = 0.5  # [code] the probability of a blur, likewise
    teacher: TeacherSettings = TeacherSettings()
    labels: LabelWeightSettings = LabelWeightSettings()
    mixing: MixingSettings = MixingSettings()

    def __post_init__(self) -> None:
        in_range(self, lambda_mix=WEIGHT, mixed_blur=SHARE)
        checked(Photometric, self.mixed_photometric, "mixed_photometric")


class DACS(Method):
    """Train a segmenter on source pictures, and on target pictures with pasted source pixels and a teacher's labels.

    Teacher, thresholds per class and class counts are in the state. Masks and colours of a picture depend on (seed, step, batch
    of the step, place in the whole batch) alone.
    """

    name = "dacs"
    Settings = DACSSettings
    offers = (("source",), ("mixed",), ("teacher",))

    @classmethod
    def streams(cls, settings: DACSSettings) -> dict[str, Stream]:
        return {"source": Stream(labels="true", plain=True), "target": Stream(plain=True)}

    def __init__(self, segmenter: nn.Module, *rest: Any, **others: Any) -> None:
        super().__init__(segmenter, *rest, **others)
        s, C = self.settings, segmenter.num_classes
        self.teacher = EMA(segmenter, s.teacher)
        self.labeller = Labeller(C, s.labels)
        self.mixer = Mixer(C, s.mixing)
        self.normalisation = NORMALISATIONS[segmenter.normalisation]
        self.weights["mixed"] = s.lambda_mix
        self.landmarks["mixed"] = self.landmarks["segmentation"]
        self.place = (0, 0)  # the step, and the batch in it

    def begin_step(self, step: int, steps: int) -> None:
        self.teacher.follow(self.segmenter, step)                             # theta' <- a theta' + (1 - a) theta
        self.place = (step, 0)

    def losses(self, source: Batch, target: Batch) -> Iterator[Losses]:
        numbers = self.numbers()
        x_S, x_T = (batch._replace(image=batch.image if batch.plain is None else batch.plain) for batch in (source, target))
        P_T = self.teacher(x_T.image)
        y, q = self.labeller(P_T.resized(x_T.image.shape[-2:]), valid=target.valid)             # y~, q
        m = self.mixer(x_S, x_T, y, q, numbers)                                                  # x_m, y_m, q_m
        mixed = Batch(self.recoloured(m.image, numbers), m.label, target.name)
        batches = {"source": source, "target": target, "mixed": mixed}
        taught = Taught(x_T.image, y, q, numbers, P_T, x_S.image, self.teacher, m.weight)

        P_s = self.segmenter(source.image)
        yield self.supervised(P_s, source.label) | self.terms(batches, taught, source=P_s)       # L_S
        P_m = self.see_mixed(mixed.image)
        L_mix = weighted_loss(P_m, mixed.label, m.weight)                                        # L_mix
        yield {"mixed": L_mix} | self.terms(batches, taught, mixed=P_m)
        if losses := self.terms(batches, taught, teacher=P_T):
            yield losses

    def passes(self) -> Passes:
        return Passes(trained=2, frozen=1)

    def networks(self) -> list[nn.Module]:
        return [self.segmenter, self.teacher.module]

    def see_mixed(self, image: Tensor) -> Prediction:
        """The segmenter's prediction of mixed pictures."""
        return self.segmenter(image)

    def numbers(self) -> torch.Generator:
        """The random numbers of this batch, the same in all processes."""
        step, batch = self.place
        self.place = (step, batch + 1)
        return torch.Generator().manual_seed(mixed_seed(self.seed, _MIXING, step, batch))

    def recoloured(self, image: Tensor, numbers: torch.Generator) -> Tensor:
        """Mixed pictures with the colours and the blur of the settings (`supervision.recoloured`)."""
        return recoloured(image, self.normalisation, self.settings.mixed_photometric, self.settings.mixed_blur, numbers)


_MIXING = 6  # stream of the seed; data.sampling has 1 to 3 and 5, simclr 4
