"""SemiSegContrast (Alonso et al., ICCV 2021): ClassMix with two views of each unlabelled picture, class weights, and a memory.

Letters: as in `classmix`; k = 1, 2 the views of a step; t the step; w_c the weight of class c; C the number of classes.

    each step   theta' <- a_t theta' + (1 - a_t) theta,   a_t on a cosine up to 1                            teacher.py
                x_S, y_S: classes of the next labelled picture are pasted with the probability .2            mixing.py
                y~ from the teacher;   q = r_t p^6,   r_t = exp(-5 (1 - t/T)^2), 1 from T on   pseudo_labels/weights.py
                w_c = sqrt(median frequency / frequency) in y_S and y~ of the last steps       pseudo_labels/balance.py
                x_k, y_k, q_k: ClassMix with the probability .75, flipped with .5, other colours
                L = CE_w(P(x_S), y_S) + 1/(2 N H W) sum_kp q_k w_y CE(P(x_k)_p, y_k(p))
                    + lambda_entropy 1/(2 N h w) sum_kp H(P(x_k)_p) / ln C
                    + attraction to the memory                                         methods/terms/memory_contrast.py

w is 1 before step `balance_from`; views are not mixed before step `mix_after`. Both views are one batch. CE_w is a weighted
mean, the second loss a mean over all pixels. The network that learns is scored, not the teacher.

Other than released: both views share crop and scale of the loader's picture, which the teacher reads, too (there it reads the
picture as it is, and each view has a scale of its own); pictures are mixed and flipped one by one (there all of a batch or
none); of an even number of classes half are pasted (there one more); H is taken on the network's own grid; there are as many
unlabelled pictures as labelled ones in a step (there 5 and 2); weights of classes as `ClassBalance` says; the teacher has no
dropout (there DeepLabV3+ has) and is a copy at step 0, so that a_t is that of one step later there.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from course_lib import ranks
from course_lib.data import Batch
from course_lib.losses import entropy
from course_lib.losses.inputs import IGNORE
from course_lib.methods.classmix import ClassMix, ClassMixSettings
from course_lib.methods.dacs import plain
from course_lib.methods.step import Losses, Passes, Taught
from course_lib.mixing import Mixed, MixingSettings, class_mask, following, mix, uniform
from course_lib.networks import Prediction
from course_lib.pseudo_labels import ClassBalance, LabelWeightSettings, ramp
from course_lib.pseudo_labels.weights import valid_confidence
from course_lib.teacher import CosineTeacherSettings
from course_lib.typed import AT_LEAST_1, COUNT, SHARE, WEIGHT, in_range


@dataclass(frozen=True)
class SemiSegSettings(ClassMixSettings):
    """ClassMix's, and its own; defaults: the authors' released ones for few labels of Cityscapes."""

    mixed_blur: float = 0.2  # [code]
    teacher: CosineTeacherSettings = CosineTeacherSettings()
    labels: LabelWeightSettings = LabelWeightSettings("power")  # [code] p^6
    mixing: MixingSettings = MixingSettings(unmixed=0.25)  # [code] ClassMix with .75
    mix_after: int = 2_001  # [code] the first step whose views are mixed
    mix_labelled: float = 0.2  # [code] the probability of ClassMix among labelled pictures; between domains 0.25
    view_flip: float = 0.5  # [code] of a view
    ramp_steps: int = 2_000  # [code] T of r_t
    lambda_entropy: float = 0.01  # [code]
    balance_from: int = 2_001  # [code] between domains, elsewhere once the window is full
    balance_window: int = 575  # [code] an epoch of unlabelled pictures: of 2,875, here five in a step

    def __post_init__(self) -> None:
        super().__post_init__()
        in_range(self, mix_after=COUNT, mix_labelled=SHARE, view_flip=SHARE, ramp_steps=COUNT, lambda_entropy=WEIGHT,
                 balance_from=COUNT, balance_window=AT_LEAST_1)  # fmt: skip


class SemiSeg(ClassMix):
    """ClassMix with two strong views, class weights, entropy and a memory of good features.

    Teacher, counts of classes and the term's memory are in the state.
    """

    name = "semiseg"
    Settings = SemiSegSettings
    own_terms = ("memory_contrast",)

    @classmethod
    def check_batch(cls, settings: SemiSegSettings, pictures: int) -> None:
        super().check_batch(settings, pictures)
        if settings.mix_labelled and pictures < 2:
            raise ValueError(
                f"semiseg mixes two labelled pictures, and a step has {pictures}. Set batch_size to 2 or more, or "
                "mix_labelled=0."
            )

    def __init__(self, *rest: Any, **others: Any) -> None:
        super().__init__(*rest, **others)
        s = self.settings
        self.balance = ClassBalance(self.segmenter.num_classes, s.balance_window)
        self.weights["entropy"] = s.lambda_entropy
        self.landmarks["entropy"] = (1.0, "1: knows nothing")

    def losses(self, source: Batch, target: Batch) -> Iterator[Losses]:
        numbers, (t, _) = self.numbers(), self.place
        source = self.mixed_labelled(source, numbers)                                            # x_S, y_S
        x_S, x_T = plain(source), plain(target)
        P_T = self.teacher(x_T.image)
        scores = P_T.resized(x_T.image.shape[-2:])
        y, q = self.labeller(scores, valid=target.valid)                                         # y~, p^6
        p = valid_confidence(scores, target.valid)
        if self.training:
            self.balance.update(source.label, torch.where(q > 0, y, IGNORE))                     # w_c
        q = ramp(t, self.settings.ramp_steps) * q                                                # r_t p^6
        views = [self.view(self.mix(x_S, x_T, y, q, numbers), p, numbers) for _ in range(2)]     # x_k, y_k, q_k
        image, label, weight, sure = (torch.cat(parts) for parts in zip(*views))
        batches = {"source": source, "target": target, "mixed": Batch(image, label, 2 * target.name)}
        taught = Taught(x_T.image, y, q, numbers, P_T, x_S.image, self.teacher, weight, sure)
        yield from self.student(batches, taught)
        if losses := self.terms(batches, taught, teacher=P_T):
            yield losses

    def supervised(self, prediction: Prediction, label: Tensor, classes: Tensor | None = None) -> Losses:
        return super().supervised(prediction, label, self.class_weights() if classes is None else classes)

    def unsupervised(self, P: Prediction, label: Tensor, weight: Tensor) -> Losses:
        classes = self.class_weights()
        if classes is not None:
            weight = weight * classes[label.clamp(max=len(classes) - 1)]                         # q_k w_y
        uncertainty = entropy(P.logits) / math.log(self.segmenter.num_classes)                  # H / ln C
        return super().unsupervised(P, label, weight) | {"entropy": uncertainty}

    def class_weights(self) -> Tensor | None:
        """w (C,); None: 1."""
        return self.balance.weights if self.place[0] >= self.settings.balance_from else None

    def mask(self, pasted: Batch, under: Batch, numbers: torch.Generator) -> Tensor:
        M = super().mask(pasted, under, numbers)
        return M if self.place[0] >= self.settings.mix_after else torch.zeros_like(M)

    def mixed_labelled(self, batch: Batch, numbers: torch.Generator) -> Batch:
        """Labelled pictures, some of which have half of the classes of the next one pasted."""
        share, y = self.settings.mix_labelled, batch.label
        if share == 0:
            return batch
        self.check_batch(self.settings, ranks.count() * len(y))
        M = class_mask(following(y), self.segmenter.num_classes, generator=numbers)
        M = M & (uniform((len(y), 1, 1), y.device, numbers) < share)
        maps = {"image": batch.image, "label": y, "plain": batch.plain, "valid": batch.valid}
        return batch._replace(**{name: mix(M, following(x), x) for name, x in maps.items() if x is not None})

    def view(self, m: Mixed, p: Tensor, numbers: torch.Generator) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Mixed pictures with labels, weights and confidence, flipped or not, with other colours; p (N, H, W) of x_T."""
        flip = uniform((len(m.label), 1, 1), m.label.device, numbers) < self.settings.view_flip
        maps = (m.image, m.label, m.weight, mix(m.mask, self.pasted(p), p))
        image, label, weight, sure = (mix(flip.expand_as(m.label), x.flip(-1), x) for x in maps)
        return self.recoloured(image, numbers), label, weight, sure

    def passes(self) -> Passes:
        return Passes(trained=3, frozen=1)
