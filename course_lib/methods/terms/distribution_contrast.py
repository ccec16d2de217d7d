"""SePiCo: cells of both domains are drawn to the distribution of their class, as the teacher knows it from the source.

Letters: x_S, y_S source pictures and their labels, x_T target pictures, y~ the teacher's labels for them and q their weights;
F encoder maps of the student, F' those of the teacher; g the student's projector, g' the teacher's; phi, phi' weights of g, g';
n_c, mu_c, v_c count, mean and variance of class c, m_ck centroids of the last K batches; tau the temperature.

    each step   phi' <- a phi' + (1 - a) phi                                     with the rate a of the method's own teacher
                z' = g'(F'(x_S)) of the plain source pictures
                n_c, mu_c, v_c, m_ck take in (z', y_S)                                             course_lib/class_memory.py
    from `loss_from` on
                z_S = g(F(x_S)),   z_T = g(F(colours(x_T))),   y~ <- ignored where q = 0
                L = L_k(z_S, y_S) + L_k(z_T, y~) + lambda_R (R(z_S) + R(z_T))          losses/distribution_contrast.py

    L_k   "distribution"   DistCL: all features that N(mu_c, v_c) could give
          "prototype"      ProtoCL: mu_c alone
          "bank"           BankCL: the centroids m_ck
    R     how far the mean feature is from being as near to every class

A cell has a class where that covers 3/4 of it. The memory is fed from step 0 on, so the term takes part from there: `loss_from`
says when its losses begin, not `first_step`. Target pictures have a forward pass of the encoder of their own, in the backward
pass of the source; of the teacher, source pictures pass its encoder alone.

Source: SePiCo (Xie et al., TPAMI 2023).
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from course_lib.class_memory import CentroidQueue, RunningStatistics
from course_lib.data import NORMALISATIONS
from course_lib.data.colours import Photometric
from course_lib.losses import bank_contrast, distribution_contrast, label_down, prototype_contrast, uniform_regulariser
from course_lib.losses.inputs import IGNORE
from course_lib.methods.step import Losses, Passes, Step
from course_lib.methods.supervision import recoloured
from course_lib.methods.terms.base import ProjectingTerm, TermSettings
from course_lib.networks import Prediction
from course_lib.networks.prediction import needs_pyramid
from course_lib.networks.projector import GridProjector
from course_lib.teacher import EMA
from course_lib.typed import AT_LEAST_1, COUNT, SHARE, TEMPERATURE, WEIGHT, checked, in_range

Kind = Literal["distribution", "prototype", "bank"]
Maps = Literal["all", "last"]
Sign = Literal["uniform", "released"]


@dataclass(frozen=True)
class DistributionContrastSettings(TermSettings):
    """Source: SePiCo (TPAMI 2023), released code; for DAFormer's network, where DeepLabV2's has others."""

    weight: float = 1.0  # [code] with the temperature 100
    loss_from: int = 3000  # [code] the step; the memory is fed from step 0
    kind: Kind = "distribution"  # [code] the best of three on GTA5 and SYNTHIA
    # ours, as in most contrasts; [code] 100, at which the losses stay within 0.0101 of ln C whatever the features are, and the
    # gradient is about 1,000 times smaller
    contrast_temperature: float = 0.1
    regulariser: float = 1.0  # [code] lambda_R; 0: none
    regulariser_sign: Sign = "uniform"  # [idea] pulls the mean feature towards uniform; [code] "released" pushes it away
    projector_hidden: int = 256  # [code] DeepLabV2: 2048
    projector_out: int = 512  # [code] numbers of an embedding
    projector_maps: Maps = "all"  # [code] the encoder's maps at the grid of the finest; DeepLabV2: "last"
    cell_share: float = 0.75  # [code] of a cell's pixels, which have to be of one class
    horizon: int | None = None  # [code] none: the statistics never forget
    bank_length: int = 200  # [code] of "bank", K
    zero_start: bool = False  # ours; [code] of "bank": each class begins with the zero vector
    target_photometric: Photometric = "jitter"  # [code] of the target pictures that the student sees
    target_blur: float = 0.5  # [code] the probability of a blur, likewise

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, hint in (("kind", Kind), ("regulariser_sign", Sign), ("projector_maps", Maps),
                           ("target_photometric", Photometric)):  # fmt: skip
            checked(hint, getattr(self, name), f"terms.distribution_contrast.{name}")
        in_range(self, loss_from=COUNT, contrast_temperature=TEMPERATURE, regulariser=WEIGHT, projector_hidden=AT_LEAST_1,
                 projector_out=AT_LEAST_1, cell_share=(0.01, 1.0), horizon=AT_LEAST_1, bank_length=AT_LEAST_1,
                 target_blur=SHARE)  # fmt: skip


class DistributionContrast(ProjectingTerm):
    """Cells of both domains near to their class's distribution in the source, for methods with a teacher.

    Projectors and memory are in the state; all processes share one memory.

    Losses: "source", "target" and "regulariser", the last times its lambda; 0 where no cell counts.
    """

    name = "distribution_contrast"
    Settings = DistributionContrastSettings
    reads, taught = ("source",), True

    def __init__(self, segmenter: nn.Module, settings: DistributionContrastSettings | None = None) -> None:
        super().__init__(segmenter, settings)
        needs_pyramid(segmenter, self.name)
        s, C = self.settings, segmenter.num_classes
        self.normalisation = NORMALISATIONS[segmenter.normalisation]
        self.projector = GridProjector(
            tuple(segmenter.pyramid_channels), s.projector_hidden, s.projector_out, out_norm=True, maps=s.projector_maps
        )
        self.teacher = EMA(self.projector)
        self.statistics = RunningStatistics(C, s.projector_out, s.horizon)
        self.queue = CentroidQueue(C, s.projector_out, s.bank_length, s.zero_start) if s.kind == "bank" else None

    def forward(self, P: dict[str, Prediction], step: Step) -> Losses:
        s, taught = self.settings, step.taught
        y_S = step.batches["source"].label
        self.follow(taught.teacher)                                                          # phi' <- a phi' + (1 - a) phi
        with torch.no_grad():
            z = self.teacher(taught.teacher.module.pyramid(taught.source))                   # z'
        self._remember(z, self._cells(y_S, z))                                               # n_c, mu_c, v_c, m_ck
        if step.number < s.loss_from:
            return {}
        x_T = recoloured(taught.image, self.normalisation, s.target_photometric, s.target_blur, step.numbers)
        y_T = torch.where(taught.weight > 0, taught.label, IGNORE)
        z_S, z_T = self.embedding(P["source"]), self.projector(self.segmenter.pyramid(x_T))
        cells = {"source": (z_S, self._cells(y_S, z_S)), "target": (z_T, self._cells(y_T, z_T))}
        losses = {domain: self._contrast(*both) for domain, both in cells.items()}           # L_k
        if s.regulariser:
            losses["regulariser"] = s.regulariser * sum(self._regulariser(*both) for both in cells.values())  # R
        return losses

    def embedding(self, P: Prediction) -> Tensor:
        """z of all cells."""
        return self.projector(P.pyramid)

    def _remember(self, z: Tensor, y: Tensor) -> None:
        self.statistics.update(z, y)
        if self.queue is not None:
            self.queue.update(z, y)

    def _cells(self, label: Tensor, z: Tensor) -> Tensor:
        return label_down(label, tuple(z.shape[2:]), self.segmenter.num_classes, self.settings.cell_share)

    def _contrast(self, z: Tensor, y: Tensor) -> Tensor:
        tau, memory = self.settings.contrast_temperature, self.statistics
        if self.queue is not None:
            return bank_contrast(z, y, self.queue.centroids, self.queue.there, tau)
        if self.settings.kind == "prototype":
            return prototype_contrast(z, y, memory.means, tau, seen=memory.seen)
        return distribution_contrast(z, y, memory.means, memory.variances, tau, memory.seen)

    def _regulariser(self, z: Tensor, y: Tensor) -> Tensor:
        s, memory = self.settings, self.statistics
        released = s.regulariser_sign == "released"
        return uniform_regulariser(z, y, memory.means, s.contrast_temperature, memory.seen, released)

    def passes(self) -> Passes:
        """Of a step from `loss_from` on: the student's pass of the encoder, with a backward pass, counts three."""
        return Passes(trained=0, frozen=0, encoded=1 + 3)
