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
from course_lib.data.sampling import SeedStream, mixed_seed
from course_lib.methods.base import Method
from course_lib.methods.step import Losses, Passes, Stream, Taught
from course_lib.methods.supervision import recoloured, weighted_loss
from course_lib.mixing import Mixed, Mixer, MixingSettings, mix
from course_lib.networks import Prediction
from course_lib.pseudo_labels.weights import Labeller, LabelWeightSettings, valid_confidence
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
    offers = (("source", "mixed"), ("teacher",))

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
        self.joint = any({"source", "mixed"} <= set(term.reads) for term in self.terms.values())  # one backward pass for both
        self.place = (0, 0)  # the step, and the batch in it

    def begin_step(self, step: int, steps: int) -> None:
        self.teacher.follow(self.segmenter, step, steps)                      # theta' <- a theta' + (1 - a) theta
        self.place = (step, 0)

    def losses(self, source: Batch, target: Batch) -> Iterator[Losses]:
        numbers = self.numbers()
        x_S, x_T = plain(source), plain(target)
        P_T = self.teacher(x_T.image)
        scores = P_T.resized(x_T.image.shape[-2:])
        y, q = self.labeller(scores, valid=target.valid)                                         # y~, q
        m = self.mix(x_S, x_T, y, q, numbers)                                                    # x_m, y_m, q_m
        p = valid_confidence(scores, target.valid)
        mixed = Batch(self.recoloured(m.image, numbers), m.label, target.name)
        batches = {"source": source, "target": target, "mixed": mixed}
        taught = Taught(x_T.image, y, q, numbers, P_T, x_S.image, self.teacher, m.weight, mix(m.mask, self.pasted(p), p))
        yield from self.student(batches, taught)
        if losses := self.terms(batches, taught, teacher=P_T):
            yield losses

    def mix(self, x_S: Batch, x_T: Batch, y: Tensor, q: Tensor, numbers: torch.Generator) -> Mixed:
        """The mixed pictures, without changes of colour; y, q (N, H, W) the target's labels and their weights."""
        return self.mixer(x_S, x_T, y, q, numbers)

    def pasted(self, q: Tensor) -> Tensor:
        """The weights of the labels that are pasted on target pictures whose own are q (N, H, W): the source's are true."""
        return torch.ones_like(q)

    def student(self, batches: dict[str, Batch], taught: Taught) -> Iterator[Losses]:
        """The backward passes of source and mixed pictures: two, or one where a term reads both predictions."""
        source, mixed = batches["source"], batches["mixed"]
        P = {"source": self.segmenter(source.image)}
        losses = self.labelled(P["source"], source)                                              # L_S
        if not self.joint:
            yield losses | self.terms(batches, taught, **P)
            P, losses = {}, {}
        P["mixed"] = self.see_mixed(mixed.image)
        yield losses | self.unsupervised(P["mixed"], mixed.label, taught.mixed_weight) | self.terms(batches, taught, **P)

    def unsupervised(self, P: Prediction, label: Tensor, weight: Tensor) -> Losses:
        """The losses of the mixed pictures' prediction; label, weight (N, H, W)."""
        return {"mixed": weighted_loss(P, label, weight)}                                        # L_mix

    def labelled(self, P: Prediction, source: Batch) -> Losses:
        """The losses of source pictures."""
        return self.supervised(P, source.label)

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
        return torch.Generator().manual_seed(mixed_seed(self.seed, SeedStream.MIXING, step, batch))

    def recoloured(self, image: Tensor, numbers: torch.Generator) -> Tensor:
        """Mixed pictures with the colours and the blur of the settings (`supervision.recoloured`)."""
        return recoloured(image, self.normalisation, self.settings.mixed_photometric, self.settings.mixed_blur, numbers)


def plain(batch: Batch) -> Batch:
    """The batch with the pictures before their colours were changed, where it has them (`Batch.plain`)."""
    return batch if batch.plain is None else batch._replace(image=batch.plain)
