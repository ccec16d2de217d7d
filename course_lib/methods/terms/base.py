"""The interface of a term: a loss with its own weight, parameters and buffers, added to the step of a method.

    L = L_method + sum over terms of  weight x (their losses),    from step `first_step` on

A term reads predictions of the method's network (`reads`), or has a forward pass of its own (`reads = ()`).
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import nn

from course_lib.methods.optimisers import OptimiserSettings
from course_lib.methods.step import Losses, Passes, Step, Stream
from course_lib.networks import Prediction
from course_lib.typed import COUNT, WEIGHT, in_range

Predictions = tuple[str, ...]  # by name, of one backward pass


@dataclass(frozen=True)
class TermSettings:
    """What every term has; a term's own Settings inherit from it."""

    weight: float = 1.0  # of all losses of the term
    first_step: int = 0  # the term takes part from this step on

    def __post_init__(self) -> None:
        in_range(self, weight=WEIGHT, first_step=COUNT)


class Term(nn.Module):
    """Base of the terms. A subclass names itself and its Settings, and writes `forward`."""

    name: ClassVar[str]
    Settings: ClassVar[type[TermSettings]] = TermSettings
    reads: ClassVar[Predictions] = ("source",)  # the predictions whose graph it needs; (): a forward pass of its own

    @classmethod
    def streams(cls, settings: Any) -> dict[str, Stream]:
        """What it reads beside the method's own streams."""
        return {}

    def __init__(self, segmenter: nn.Module, settings: TermSettings | None = None) -> None:
        super().__init__()
        object.__setattr__(self, "segmenter", segmenter)  # for a pass of its own; not a part of it: it is the method's
        self.settings = self.Settings() if settings is None else settings

    def begin_step(self, step: int, steps: int) -> None:
        """Before the first batch of step `step` of `steps`."""

    def forward(self, P: dict[str, Prediction], step: Step) -> Losses:
        """The losses, unweighted, from the predictions P by name; the log names them TERM.loss."""
        raise NotImplementedError

    def after_step(self, step: int) -> None:
        """After the optimisers, before a checkpoint: memories are written here."""

    def passes(self) -> Passes:
        """Of a step in which it takes part."""
        return Passes(trained=0, frozen=0)


def readable(reads: Predictions, offers: tuple[Predictions, ...]) -> bool:
    """Whether one backward pass of a method that offers these predictions has all that a term reads."""
    return not reads or any(set(reads) <= set(offer) for offer in offers)


def not_offered(term: str, reads: Predictions, methods: Mapping[str, tuple[Predictions, ...]]) -> str:
    """What to say of a term that none of these methods, given with what they offer, has the predictions for."""
    offered = {name: " or ".join(" and ".join(offer) for offer in offers) or "none" for name, offers in methods.items()}
    return (
        f"The term {term} reads the predictions of {' and '.join(reads)}; "
        f"{', '.join(f'{name} offers {predictions}' for name, predictions in offered.items())}. "
        f"Leave it out (--set [STAGE.]terms=-{term}), or choose another method."
    )


class Terms(nn.ModuleDict):
    """The terms of a method: the predictions of one backward pass -> the losses of the terms that read them."""

    def __init__(self, terms: dict[str, Term], method: str, offers: tuple[Predictions, ...]) -> None:
        super().__init__(terms)
        self.number = 0
        for name, term in terms.items():
            if not readable(term.reads, offers):
                raise ValueError(not_offered(name, term.reads, {method: offers}))

    def join(self, optimiser: torch.optim.Optimizer, settings: OptimiserSettings) -> None:
        """The terms' own parameters learn with the segmenter's, at the rate of its heads."""
        if own := [parameter for parameter in self.parameters() if parameter.requires_grad]:
            lr = settings.lr * settings.head_factor
            optimiser.add_param_group({"name": "terms", "params": own, "lr": lr, "weight_decay": settings.weight_decay})

    def weight(self, loss: str) -> float:
        """The lambda of the loss "TERM.loss"; 1 for others."""
        term = loss.partition(".")[0]
        return self[term].settings.weight if term in self else 1.0

    def begin_step(self, step: int, steps: int) -> None:
        self.number = step
        for term in self.values():
            term.begin_step(step, steps)

    def after_step(self, step: int) -> None:
        for term in self.values():
            term.after_step(step)

    def forward(self, batches: dict[str, Any], **P: Prediction) -> Losses:
        """The losses of the running terms that read these predictions, all of which belong to one backward pass."""
        losses: Losses = {}
        for name, term in self._running():
            if term.reads and set(term.reads) <= P.keys():
                losses |= {f"{name}.{loss}": value for loss, value in term(P, Step(self.number, batches)).items()}
        return losses

    def alone(self, batches: dict[str, Any]) -> Iterator[Losses]:
        """One dictionary for each running term that has forward passes of its own."""
        for name, term in self._running():
            if not term.reads:
                yield {f"{name}.{loss}": value for loss, value in term({}, Step(self.number, batches)).items()}

    def _running(self) -> list[tuple[str, Term]]:
        return [(name, term) for name, term in self.items() if self.number >= term.settings.first_step]
