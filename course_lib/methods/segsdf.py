"""SegSDF: three ways in which depth helps to segment with few labels (Hoyer et al., CVPR 2021), where depth is given.

Letters: as in `classmix`; D* (N, H, W) the true disparity of a picture (`data.disparity`), D, D_0 the network's final and
intermediate outputs for it, P, P_0 those for classes.

    transfer     the decoder of classes begins as one that has learnt depth       methods/depth.py, networks/multitask.py
    multi-task   both decoders read each other by attention                    networks/multitask.py
    DepthMix     M = 1[D*_{n+1} >= D*_n - tie], each from 0 to 1: what is nearer is in front      mixing.py
                 x_m, y_m = M x_{n+1} + (1 - M) x_n,  M y~_{n+1} + (1 - M) y~_n
                 q_m = the share of sure pixels of y_m in the mixed batch, for all of its pixels

    L = 1/2 (CE(P(x_S), y_S) + CE(P_0(x_S), y_S)) + lambda_mix 1/2 (L_mix(P) + L_mix(P_0)) + lambda_depth L_D
    L_D = the mean of BerHu(D, D*) and BerHu(D_0, D*), of x_S and of x_T

Mixing the teacher's probabilities and then taking the largest is the same as mixing its labels: M is 0 or 1. With
mix_from = "labelled" the ground truth is pasted, and counts as sure. Depth from video, the paper's first step, is left out: D*
is MiniStreet's, or a stereo camera's.
Differences from the release: the picture n + 1 is pasted on n, there n on n + 1, which in a batch of two makes the same pair of
pictures; unlabelled pictures are mixed with each other (there labelled ones, too, with their true labels); the teacher has no
dropout; BerHu of the given depth instead of the losses of video.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from course_lib.data import Batch
from course_lib.losses.inputs import IGNORE
from course_lib.methods.classmix import ClassMix, ClassMixSettings
from course_lib.methods.step import Losses, Passes, Stream
from course_lib.methods.supervision import depth_loss, require_disparity, weighted_loss
from course_lib.mixing import Mixed, depth_mask
from course_lib.networks import Prediction
from course_lib.pseudo_labels.weights import LabelWeightSettings, batch_weight, ramp
from course_lib.typed import COUNT, SHARE, WEIGHT, checked, in_range

DepthOf = Literal["all", "labelled"]
SURE = ("threshold", "class")  # weightings whose weights are 0 and 1


@dataclass(frozen=True)
class SegSDFSettings(ClassMixSettings):
    """Constants of the method; defaults: the authors' released ones."""

    labels: LabelWeightSettings = LabelWeightSettings("threshold")  # [code] sure from 0.968 on
    # [code] one weight for all pixels, the share of sure ones after mixing; False: each pixel's own weight, ours
    share_after: bool = True
    ramp_steps: int = 0  # ours: until this step q_m rises as exp(-5 (1 - t/T)^2); 0: it does not
    depth_mix: bool = True  # [code]; False: ClassMix's masks, for which the settings of `mixing` are; `unmixed` is for both
    depth_tie: float = 0.03  # [code]
    lambda_depth: float = 1.0  # [code] of L_D; 0: the network need not predict depth
    depth_of: DepthOf = "all"  # [paper] pictures with and without labels; "labelled": one pass less
    depth_bottom: float = 0.1  # [code] the share of rows at the bottom that do not count in L_D

    def __post_init__(self) -> None:
        super().__post_init__()
        checked(DepthOf, self.depth_of, "depth_of")
        in_range(self, ramp_steps=COUNT, depth_tie=SHARE, lambda_depth=WEIGHT, depth_bottom=SHARE)
        if self.share_after and self.labels.weighting not in SURE:
            raise ValueError(
                f"share_after counts the pixels whose weight is 1, and weighting={self.labels.weighting} gives others; choose "
                f"weighting={' or '.join(SURE)}, or share_after=no."
            )


class SegSDF(ClassMix):
    """ClassMix with masks and a second task from depth. With lambda_mix = 0 no picture is mixed, and there is no teacher.

    A network with two outputs for classes has both in one loss, half of each (`HeadSettings.lambda_seg_aux` has no effect).
    """

    name = "segsdf"
    Settings = SegSDFSettings

    @classmethod
    def streams(cls, settings: SegSDFSettings) -> dict[str, Stream]:
        s, mixes, learnt = settings, settings.lambda_mix > 0, settings.lambda_depth > 0
        mask, of_all = s.depth_mix and mixes, learnt and s.depth_of == "all"
        depth = {"source": learnt or (mask and s.mix_from == "labelled"), "target": mask or of_all}
        found = {name: stream._replace(depth=depth[name], plain=mixes) for name, stream in super().streams(settings).items()}
        return found if mixes or of_all else {"source": found["source"]}

    @classmethod
    def check_batch(cls, settings: SegSDFSettings, pictures: int) -> None:
        if settings.lambda_mix:
            super().check_batch(settings, pictures)

    def __init__(self, segmenter: nn.Module, *rest: Any, **others: Any) -> None:
        super().__init__(segmenter, *rest, **others)
        s = self.settings
        if s.lambda_depth:
            require_disparity(segmenter, self.name)
        self.mixes = s.lambda_mix > 0
        for name, term in self.terms.items():
            if not self.mixes and (term.taught or set(term.reads) & {"mixed", "teacher"}):
                raise ValueError(
                    f"The term {name} reads a teacher's labels, and with lambda_mix=0 there is no teacher. Leave it out."
                )
        if not self.mixes:
            del self.teacher, self.labeller, self.mixer
        self.learns_both = s.lambda_depth > 0 and s.depth_of == "all"
        self.weights |= {"depth": s.lambda_depth / (1 + self.learns_both), "depth_unlabelled": s.lambda_depth / 2}

    def begin_step(self, step: int, steps: int) -> None:
        if self.mixes:
            super().begin_step(step, steps)

    def networks(self) -> list[nn.Module]:
        return super().networks() if self.mixes else [self.segmenter]

    def losses(self, source: Batch, target: Batch | None = None) -> Iterator[Losses]:
        """target: the unlabelled pictures; None where no loss reads them (`streams`)."""
        if self.mixes:
            yield from super().losses(source, target)
        else:
            P_s = self.segmenter(source.image)
            batches = {"source": source} | ({} if target is None else {"target": target})
            yield self.labelled(P_s, source) | self.terms(batches, source=P_s)
        if self.learns_both:
            yield {"depth_unlabelled": depth_loss(self.segmenter(target.image), target, self.settings.depth_bottom)}

    def labelled(self, P: Prediction, source: Batch) -> Losses:
        losses = super().labelled(P, source)
        if P.aux_logits is not None:                                            # 1/2 (CE(P, y) + CE(P_0, y))
            losses["segmentation"] = (losses["segmentation"] + losses.pop("segmentation_aux")) / 2
        if self.settings.lambda_depth:
            losses["depth"] = depth_loss(P, source, self.settings.depth_bottom)
        return losses

    def unsupervised(self, P: Prediction, label: Tensor, weight: Tensor) -> Losses:
        of_both = [P] if P.aux_logits is None else [P, P._replace(logits=P.aux_logits)]
        return {"mixed": sum(weighted_loss(each, label, weight) for each in of_both) / len(of_both)}

    def mask(self, pasted: Batch, under: Batch, numbers: torch.Generator) -> Tensor:
        if not self.settings.depth_mix:
            return super().mask(pasted, under, numbers)
        if pasted.disparity is None or under.disparity is None:
            raise ValueError(
                "DepthMix reads Batch.disparity, and a batch has none: open the pictures with depth=True, or choose "
                "depth_mix=no."
            )
        M = depth_mask(pasted.disparity, under.disparity, self.settings.depth_tie)
        return self.mixer.some(M, numbers)

    def mix(self, x_S: Batch, x_T: Batch, y: Tensor, q: Tensor, numbers: torch.Generator) -> Mixed:
        m = super().mix(x_S, x_T, y, q, numbers)
        sure = m.weight * (m.label != IGNORE)
        q_m = batch_weight(sure, 1.0) if self.settings.share_after else sure
        return m._replace(weight=ramp(self.place[0], self.settings.ramp_steps) * q_m)

    def passes(self) -> Passes:
        return Passes(trained=1 + self.mixes + self.learns_both, frozen=int(self.mixes))


