"""A few labelled target pictures beside a source: semi-supervised adaptation.

Letters: x_L, y_L labelled target pictures and their labels, a stream of their own (`Pair.labelled`).

    L_L = CE(P(x_L), y_L)

Any method takes it: the step is the method's, with one more forward and backward pass.
"""

from typing import Any

from course_lib.methods.step import Losses, Passes, Step, Stream
from course_lib.methods.supervision import supervised_loss
from course_lib.methods.terms.base import Term
from course_lib.networks import Prediction


class FewLabels(Term):
    """Cross-entropy on few labelled target pictures; `weight` 1 (ours): as much as the source's."""

    name = "few_labels"
    reads = ()

    @classmethod
    def streams(cls, settings: Any) -> dict[str, Stream]:
        return {"labelled": Stream(labels="true")}

    def forward(self, P: dict[str, Prediction], step: Step) -> Losses:
        labelled = step.batches["labelled"]
        return {"segmentation": supervised_loss(self.segmenter(labelled.image), labelled.label)}             # L_L

    def passes(self) -> Passes:
        return Passes(trained=1, frozen=0)
