"""SemiSegContrast: cells are drawn to a memory of good features of their class, without negatives.

Letters: x_S, y_S labelled pictures and their labels, x_m mixed pictures, y_m their labels and q_m their weights; F features of
the student, F', P' features and probabilities of the teacher; g the student's projector, g' the teacher's, h the predictor; z
the vectors of the memory, K of each class at most; S_c, S'_c the selectors of class c, for cells and for the memory.

    from `first_step` on
                phi' <- a phi' + (1 - a) phi                     the weights of g', with the rate a of the method's own teacher
                good cells of x_S:  argmax_c P'_c = y_S  and  max_c P'_c > least_confidence
                z takes in g'(F'(x_S)) of good cells: of each class those with the highest S_c        course_lib/class_memory.py
    from `loss_from` on, for x_S with y_S and for x_m with y_m <- ignored where q_m = 0
                p = h(g(F)),    w = sigmoid S_y(p),  v = sigmoid S'_y(z),   S without gradient in p
                L = 1/C sum_c  mean over pairs of w^ v^ (1 - p . z)                       losses/memory_contrast.py

p and z have unit length. Other than released: the predictor and both selectors read vectors of unit length, the selectors have
no batch normalisation (networks/class_mlp.py), cells are ranked by the selectors of the student (there by a copy in the
teacher), the teacher reads the labelled pictures without changes of colour, and one cell of a class is enough (there two).
As the teacher reads labelled pictures, too, its running statistics are of both kinds (`EMA`, "keep").

Source: SemiSegContrast (Alonso et al., ICCV 2021).
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from course_lib import ranks
from course_lib.class_memory import FeatureQueue
from course_lib.losses import memory_contrast
from course_lib.losses.inputs import IGNORE
from course_lib.losses.prototype import labels_at
from course_lib.methods.step import Losses, Passes, Step, Taught
from course_lib.methods.terms.base import ProjectingTerm, TermSettings, in_rows
from course_lib.networks import Prediction
from course_lib.networks.class_mlp import ClassMLP
from course_lib.networks.projector import GridProjector
from course_lib.teacher import EMA
from course_lib.typed import AT_LEAST_1, COUNT, SHARE, checked, in_range

Kept = Literal["highest", "lowest"]
MemoryWeights = Literal["learned", "released"]


@dataclass(frozen=True)
class MemoryContrastSettings(TermSettings):
    """Source: SemiSegContrast (Alonso et al., ICCV 2021), released code."""

    weight: float = 0.1  # [code] of labelled and of unlabelled cells; between domains 0.2
    first_step: int = 1_001  # [code] the memory is fed from this step on
    loss_from: int = 2_001  # [code] the step of the first loss
    length: int = 256  # [code] K
    labelled: int = 100  # labelled pictures; [code] the more there are, the fewer features of each enter (`per_picture`)
    least_confidence: float = 0.95  # [code] of the teacher, in cells that enter: more than this
    memory_hidden: int = 256  # [code] of projector and predictor
    memory_out: int = 256  # [code] numbers of an embedding
    selector_hidden: int = 256  # [code]
    # two of the release's mistakes, for teaching. "lowest", [code]: scores are sorted the other way round. "released", [code]:
    # the memory's weights are divided by themselves: all are 1, and their selectors never learn
    kept: Kept = "highest"
    memory_weights: MemoryWeights = "learned"

    def __post_init__(self) -> None:
        super().__post_init__()
        in_range(self, loss_from=COUNT, length=AT_LEAST_1, labelled=AT_LEAST_1, least_confidence=SHARE,
                 memory_hidden=AT_LEAST_1, memory_out=AT_LEAST_1, selector_hidden=AT_LEAST_1)  # fmt: skip
        checked(Kept, self.kept, "kept")
        checked(MemoryWeights, self.memory_weights, "memory_weights")

    @property
    def per_picture(self) -> int:
        """Features of a class that enter, for each picture of a step: together the labelled pictures fill the memory once.

        >>> [MemoryContrastSettings(labelled=n).per_picture for n in (20, 100, 744)]
        [13, 3, 1]
        """
        return max(1, round(self.length / self.labelled))


class MemoryContrast(ProjectingTerm):
    """Cells of labelled and of mixed pictures near to good features of their class, for methods with a teacher.

    Projectors, selectors and memory are in the state; all processes share one memory. No random numbers.

    Losses: "source" and "mixed"; 0 where no cell counts or the memory is empty.
    """

    name = "memory_contrast"
    Settings = MemoryContrastSettings
    reads, also, taught = ("source",), (("mixed",),), True

    def __init__(self, segmenter: nn.Module, settings: MemoryContrastSettings | None = None) -> None:
        super().__init__(segmenter, settings)
        s, C = self.settings, segmenter.num_classes
        self.projector = GridProjector((segmenter.feature_dim,), s.memory_hidden, s.memory_out)
        self.predictor = GridProjector((s.memory_out,), s.memory_hidden, s.memory_out)
        self.teacher = EMA(self.projector)
        self.selector = ClassMLP(C, s.memory_out, s.selector_hidden)
        self.memory_selector = ClassMLP(C, s.memory_out, s.selector_hidden)
        self.queue = FeatureQueue(C, s.memory_out, s.length)

    def forward(self, P: dict[str, Prediction], step: Step) -> Losses:
        taught, losses = step.taught, {}
        if "source" in P:
            self._remember(taught, step.batches["source"].label)                             # g', z
        for name in ("source", "mixed") if step.number >= self.settings.loss_from else ():
            if name in P:
                y = step.batches[name].label
                y = y if name == "source" else torch.where(taught.mixed_weight > 0, y, IGNORE)
                losses[name] = self._contrast(self.embedding(P[name]), y)                    # L
        return losses

    def embedding(self, P: Prediction) -> Tensor:
        """h(g(F)) of all cells."""
        return self.predictor((self.projector((P.features,)),))

    @torch.no_grad()
    def _remember(self, taught: Taught, label: Tensor) -> None:
        self.follow(taught.teacher)                                                          # phi' <- a phi' + (1 - a) phi
        s, P = self.settings, taught.teacher(taught.source)                                  # P', F'
        grid = tuple(P.features.shape[2:])
        sure, predicted = P.resized(grid).softmax(dim=1).max(dim=1)
        y = labels_at(label, grid)
        y = torch.where((predicted == y) & (sure > s.least_confidence), y, IGNORE)           # good cells
        z = self.teacher((P.features,))
        scores = self.selector(in_rows(z), y.flatten()).view(y.shape)                        # S_y
        scores = scores if s.kept == "highest" else -scores
        self.queue.update(z, y, scores, most=ranks.count() * len(y) * s.per_picture)

    def _contrast(self, p: Tensor, label: Tensor) -> Tensor:
        y = labels_at(label, tuple(p.shape[2:]))
        w = self.selector(in_rows(p.detach()), y.flatten()).sigmoid().view(y.shape)
        return memory_contrast(p, y, self.queue.features, self.queue.there, w, self._memory_weight())

    def _memory_weight(self) -> Tensor | None:
        """v (C, K); None: 1."""
        if self.settings.memory_weights == "released":
            return None
        z, there = self.queue.features, self.queue.there
        c = torch.where(there, torch.arange(len(z), device=z.device)[:, None], IGNORE)
        return self.memory_selector(z.flatten(0, 1), c.flatten()).sigmoid().view(there.shape)

    def passes(self) -> Passes:
        """The teacher's of the labelled pictures."""
        return Passes(trained=0, frozen=1)
