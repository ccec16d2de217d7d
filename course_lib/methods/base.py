"""The interface of a method: what a paper adds to a training step.

A method is a module that owns its networks, optimisers and state. The loop (engine.loop) calls, in this order,

    prepare(looks)         before step 0, not on resume
    begin_step(k, steps)   once per step, before its first batch
    losses(**batches)      once per batch (`accumulate` of them in a step): a generator; each dictionary that it yields,
                           name -> loss, is one backward pass, done before the next one is computed
    after_step(k)          after the optimisers, before a checkpoint

and then steps its optimisers by the gradients that were added up; it calls the terms (`methods.terms`) in the same way. What a
method has beside these:

    segmenter     the network that learns: image -> Prediction(features, logits, aux_logits)
    scored        which network is chosen, scored and exported: the segmenter, or a teacher of it
    optimisers    by name; the loop sets their rates and steps them
    weights       the lambda of each loss; a loss that is not named weighs 1
    landmarks     the value that a loss has when nothing is learnt yet, and what it means

All state that a resumed run needs is in buffers.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor, nn

from course_lib.data import Batch
from course_lib.losses import cross_entropy, lovasz_softmax
from course_lib.methods.optimisers import OptimiserSettings, segmenter_optimiser
from course_lib.methods.step import Looks, Losses, Passes, Stream
from course_lib.methods.supervision import supervised_loss
from course_lib.methods.terms.base import Term, Terms
from course_lib.networks import Prediction
from course_lib.teacher import EMA
from course_lib.typed import WEIGHT, in_range


@dataclass(frozen=True)
class NoSettings:
    """Of a method without constants of its own."""


@dataclass(frozen=True)
class HeadSettings:
    """Weights of the supervised losses, which all methods share."""

    lambda_seg_aux: float = 0.1  # [code] AdaptSegNet multi-level: cross-entropy of the auxiliary output, where there is one
    lambda_lovasz: float = 0.0  # [code] ProCA: 0.75, of Lovász-softmax; not on the slides

    def __post_init__(self) -> None:
        in_range(self, lambda_seg_aux=WEIGHT, lambda_lovasz=WEIGHT)


class Method(nn.Module):
    """Base of the methods: owns the segmenter, its optimiser and the terms. Subclasses write `losses`.

    A subclass names itself (`name`, as on the command line) and the frozen dataclass of its constants (`Settings`).
    """

    name: ClassVar[str] = ""  # on the command line
    Settings: ClassVar[type] = NoSettings
    segments: ClassVar[bool] = True  # whether it trains the classifier, so that its network can be scored on labels
    needs_labels: ClassVar[bool] = False  # whether what `losses` computes depends on the labels' values; one backward pass then
    scored: str = "segmenter"  # chosen, scored and exported; or the name of an EMA of the segmenter, "teacher"
    planned: ClassVar[bool] = False  # whether it has no step of its own: the stages of its paper's plan train it
    own_terms: ClassVar[tuple[str, ...]] = ()  # terms that belong to the method: its recipes have them, unless terms= is set
    offers: ClassVar[tuple[tuple[str, ...], ...]] = ()  # predictions that terms may read, those of one backward pass together

    @classmethod
    def streams(cls, settings: Any) -> dict[str, Stream]:
        """What `losses` is given, by the name of its argument; known before anything is built."""
        return {"source": Stream(labels="true"), "target": Stream()}

    @classmethod
    def check_batch(cls, settings: Any, pictures: int) -> None:
        """Raise ValueError where a step needs more than so many pictures of each stream, those of all processes together."""

    def __init__(
        self,
        segmenter: nn.Module,
        settings: Any = None,
        optimiser: OptimiserSettings | None = None,
        heads: HeadSettings | None = None,
        terms: dict[str, Term] | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.segmenter, self.seed = segmenter, seed
        self.settings = self.Settings() if settings is None else settings
        if not isinstance(self.settings, self.Settings):
            raise TypeError(
                f"The settings of {type(self).__name__} are {self.Settings.__name__}; got {type(settings).__name__}. Those of "
                "the optimiser are given as optimiser=..., of the heads as heads=...."
            )
        self.optimiser_settings = optimiser = optimiser or OptimiserSettings()
        heads = heads or HeadSettings()
        self.terms = Terms(terms or {}, self.name or type(self).__name__, self.offers, seed)
        self.optimisers = {"segmenter": segmenter_optimiser(segmenter, optimiser)}
        self.terms.join(self.optimisers["segmenter"], optimiser)
        self.weights: dict[str, float] = {"segmentation_aux": heads.lambda_seg_aux, "lovasz": heads.lambda_lovasz}
        self.landmarks = {"segmentation": (math.log(segmenter.num_classes), f"ln {segmenter.num_classes}: knows nothing")}

    def prepare(self, looks: Looks) -> None:
        """Look at the pictures before step 0, for example for the first prototypes."""

    def begin_step(self, step: int, steps: int) -> None:
        """Before the first batch of step `step` (from 0) of `steps`.

        steps: the length of the schedule (`schedule_steps`), so that a training that is made longer is the same until then.
        """

    def losses(self, *args: Any, **batches: Any) -> Iterator[Losses]:
        """Yield one dictionary of losses per backward pass, from one batch of each stream, given by the stream's name.

        (`*args` and Any: so that type-checkers accept a subclass that names its streams.)
        """
        raise NotImplementedError(
            f"{type(self).__name__} has no `losses`. Write it: a generator that takes a batch of each stream by name and "
            "yields one dictionary of losses for each backward pass."
        )

    def after_step(self, step: int) -> None:
        """After the optimisers' step `step`."""

    @classmethod
    def kinds(cls, settings: Any) -> tuple[str, ...]:
        """The kinds of pseudo-labels that `label_kinds` measures."""
        return ()

    def label_kinds(self, looks: Looks) -> dict[str, Any]:
        """How dense and how right this method's kinds of pseudo-labels are: {kind: pseudo_labels.LabelQuality}."""
        return {}

    def passes(self) -> Passes:
        """Of one step, from one batch of each stream; terms state their own."""
        return Passes(trained=len(self.streams(self.settings)), frozen=0)

    def graphs(self, **batches: Batch) -> Iterator[Any]:
        """The forward passes of one batch of each stream, one item for each backward pass: what an estimate of memory does on
        the meta device, where labels have no values (`needs_labels`)."""
        if self.needs_labels:
            yield [supervised_loss(self.segmenter(batch.image), batch.label) for batch in batches.values()]
        else:
            yield from self.losses(**batches)

    def exchanged(self) -> dict[str, int]:
        """Bytes of each process that are exchanged for one batch, by kind, without those of gradients and running
        statistics."""
        return {}

    @property
    def result(self) -> nn.Module:
        """The network of `scored`."""
        network = getattr(self, self.scored)
        return network.module if isinstance(network, EMA) else network

    def networks(self) -> list[nn.Module]:
        """What `compile` compiles."""
        return [self.segmenter]

    def weight(self, loss: str) -> float:
        """The lambda of a loss; of a term's loss, "TERM.loss", that of the term."""
        return self.weights.get(loss, self.terms.weight(loss))

    def supervised(self, prediction: Prediction, label: Tensor, classes: Tensor | None = None) -> Losses:
        """Cross-entropy of the main output and, when the network has one, of the auxiliary output; Lovász-softmax where it has
        a weight. classes (C,): weights of the classes in the cross-entropy."""
        corners = prediction.align_corners
        losses = {"segmentation": supervised_loss(prediction, label, classes)}
        if prediction.aux_logits is not None:
            losses["segmentation_aux"] = cross_entropy(prediction.aux_logits, label, classes, align_corners=corners)
        if self.weights["lovasz"]:
            losses["lovasz"] = lovasz_softmax(prediction.logits, label, align_corners=corners)
        return losses
