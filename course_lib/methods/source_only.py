"""The methods that do not adapt: what every adaptation method is compared with."""

from collections.abc import Iterator
from typing import Any

import torch

from course_lib.data import Batch
from course_lib.methods.base import Method
from course_lib.methods.step import Losses, Passes, Stream


class SourceOnly(Method):
    """Supervised training on the labelled source: L = L_seg(source). The floor of every table."""

    name = "source-only"
    offers = (("source",),)

    @classmethod
    def streams(cls, settings: Any) -> dict[str, Stream]:
        return {"source": Stream(labels="true")}

    def losses(self, source: Batch) -> Iterator[Losses]:
        P_s = self.segmenter(source.image)
        yield self.supervised(P_s, source.label) | self.terms({"source": source}, source=P_s)    # L_seg


class Supervised(SourceOnly):
    """Source-only by the name that it has where labelled and unlabelled pictures are of one domain (few labels)."""

    name = "supervised"


class TargetOnly(Method):
    """Supervised training on the target's own labels, which adaptation never sees: the oracle, the table's ceiling."""

    name = "target-only"
    offers = (("target",),)

    @classmethod
    def streams(cls, settings: Any) -> dict[str, Stream]:
        return {"target": Stream(labels="true")}

    def losses(self, target: Batch) -> Iterator[Losses]:
        P_t = self.segmenter(target.image)
        yield self.supervised(P_t, target.label) | self.terms({"target": target}, target=P_t)    # L_seg, on the target


class NormalisationControl(Method):
    """Source-only, while target pictures pass through the normalisation layers without any loss ("bn-control").

    Every method that forwards target pictures in training mode also feeds them to the running statistics of batch
    normalisation. This control does that and nothing else: what it gains is no gain of the method.
    """

    name = "bn-control"

    def passes(self) -> Passes:
        return Passes(trained=1, frozen=1)

    def losses(self, source: Batch, target: Batch) -> Iterator[Losses]:
        P_s = self.segmenter(source.image)
        yield self.supervised(P_s, source.label)                                   # L_seg
        with torch.no_grad():
            self.segmenter(target.image)                                           # running statistics only
