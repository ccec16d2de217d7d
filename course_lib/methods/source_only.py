"""The methods that do not adapt: what every adaptation method is compared with."""

from collections.abc import Iterator

import torch
from torch import nn

from course_lib.data import Batch
from course_lib.losses import lovasz_softmax
from course_lib.methods.base import Losses, Method, OptimiserSettings, Passes


class SourceOnly(Method):
    """Supervised training on the labelled source: L = L_seg(source). The floor of every table.

    lambda_lovasz: ProCA's release adds Lovász-softmax to L_seg, here too (0.75).
    """

    def __init__(
        self, segmenter: nn.Module, optimiser: OptimiserSettings | None = None, lambda_seg_aux: float = 0.1,
        lambda_lovasz: float = 0.0,
    ) -> None:  # fmt: skip
        super().__init__(segmenter, optimiser, lambda_seg_aux)
        self.weights["lovasz"] = lambda_lovasz

    def losses(self, source: Batch, target: Batch | None = None) -> Iterator[Losses]:
        P_s = self.segmenter(source.image)
        losses = self.supervised(P_s, source.label)                                # L_seg
        if self.weights["lovasz"]:
            losses["lovasz"] = lovasz_softmax(P_s.logits, source.label)
        yield losses


class TargetOnly(Method):
    """Supervised training on the target's own labels, which adaptation never sees: the oracle, the table's ceiling."""

    uses_source = False
    uses_target = True

    def losses(self, source: Batch | None, target: Batch) -> Iterator[Losses]:
        P_t = self.segmenter(target.image)
        yield self.supervised(P_t, target.label)                                   # L_seg, on the target


class NormalisationControl(Method):
    """Source-only, while target pictures pass through the normalisation layers without any loss ("bn-control").

    Every method that forwards target pictures in training mode also feeds them to the running statistics of batch
    normalisation. This control does that and nothing else: what it gains is not the method's merit.
    """

    uses_target = True

    def passes(self) -> Passes:
        return Passes(trained=1, frozen=1)

    def losses(self, source: Batch, target: Batch) -> Iterator[Losses]:
        P_s = self.segmenter(source.image)
        yield self.supervised(P_s, source.label)                                   # L_seg
        with torch.no_grad():
            self.segmenter(target.image)                                           # running statistics only
