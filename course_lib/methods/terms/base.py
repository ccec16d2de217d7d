"""The interface of a term: a loss with its own weight, parameters and buffers, added to the step of a method.

    L = L_method + sum over terms of  weight x (their losses),    from step `first_step` on

A term reads predictions of the method's network (`reads`), or has a forward pass of its own (`reads = ()`). One that also wants
the teacher's labels, features or predictions says so (`taught = True`) and finds them in `Step.taught`; where it has a forward
pass of its own, it reads the teacher's prediction (`reads = ("teacher",)`).
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar
from zlib import crc32

import torch
from torch import Tensor, nn

from course_lib.data.sampling import SeedStream, mixed_seed
from course_lib.methods.optimisers import OptimiserSettings, adapted
from course_lib.methods.step import Losses, Passes, Step, Stream, Taught
from course_lib.networks import Prediction
from course_lib.teacher import EMA
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
    also: ClassVar[tuple[Predictions, ...]] = ()  # others that it is called for, too, where a backward pass has them
    taught: ClassVar[bool] = False  # whether it reads `Step.taught`: only methods with a teacher have it

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
        raise NotImplementedError(
            f"{type(self).__name__} has no `forward`. Write it: from predictions by name it returns a dictionary of losses."
        )

    def embedding(self, P: Prediction) -> Tensor:
        """What it compares of the cells of P, (N, D, h, w): their features, or what its projector makes of them."""
        return P.features

    def after_step(self, step: int) -> None:
        """After the optimisers, before a checkpoint: memories are written here."""

    def passes(self) -> Passes:
        """Of a step in which it takes part."""
        return Passes(trained=0, frozen=0)


class ProjectingTerm(Term):
    """Base of the terms with a `projector` and a `teacher`, an EMA of it with the settings of the method's own teacher."""

    projector: nn.Module
    teacher: EMA
    due: tuple[int, int] | None = None  # the step, and of how many, that the teacher's projector has yet to follow

    def begin_step(self, step: int, steps: int) -> None:
        self.due = step, steps

    def follow(self, teacher: EMA) -> None:
        """phi' <- a phi' + (1 - a) phi, once per step: the settings are known when the method's teacher is here."""
        if self.due is not None:
            self.teacher.follow_as(teacher, self.projector, *self.due)
            self.due = None


def in_rows(maps: Tensor) -> Tensor:
    """(N, D, h, w) -> (N h w, D), picture by picture: the order of `label.flatten()`."""
    return maps.permute(0, 2, 3, 1).flatten(0, 2)


def at_middles(maps: Tensor, grid: tuple[int, int], align_corners: bool) -> Tensor:
    """Maps (N, H, W) at the pixel in the middle of each cell, (N, h, w): where maps of the grid that are brought to (H, W),
    with or without aligned corners, have the value of the cell.

    >>> x = torch.arange(12).expand(1, 1, 12)
    >>> at_middles(x, (1, 3), False).tolist(), at_middles(x, (1, 3), True).tolist()
    ([[[2, 6, 10]]], [[[0, 6, 11]]])
    """
    rows, columns = (_middles(size, cells, align_corners, maps.device) for size, cells in zip(maps.shape[1:], grid))
    return maps[:, rows[:, None], columns]


def _middles(size: int, cells: int, align_corners: bool, device: torch.device) -> Tensor:
    i = torch.arange(cells, device=device)
    if align_corners and cells > 1:
        return (2 * i * (size - 1) + cells - 1) // (2 * (cells - 1))                         # round(i (H - 1) / (h - 1))
    return (2 * i + 1) * size // (2 * cells)                                                 # floor((i + 1/2) H / h)


def readable(term: type[Term], offers: tuple[Predictions, ...]) -> bool:
    """Whether one backward pass of a method that offers these predictions has all that a term reads."""
    if term.taught and (not term.reads or TEACHER not in offers):
        return False
    return not term.reads or any(set(term.reads) <= set(offer) for offer in offers)


def read_by(term: type[Term]) -> str:
    """In words: "source and teacher"."""
    return " and ".join(dict.fromkeys((*term.reads, *(TEACHER if term.taught else ()))))


def not_offered(name: str, term: type[Term], methods: Mapping[str, tuple[Predictions, ...]]) -> str:
    """What to say of a term that none of these methods, given with what they offer, has the predictions for."""
    offered = {name: " or ".join(" and ".join(offer) for offer in offers) or "none" for name, offers in methods.items()}
    return (
        f"The term {name} reads the predictions of {read_by(term)}; "
        f"{', '.join(f'{name} offers {predictions}' for name, predictions in offered.items())}. "
        f"Leave it out (--set [STAGE.]terms=-{name}), or choose another method."
    )


class Terms(nn.ModuleDict):
    """The terms of a method: the predictions of one backward pass -> the losses of the terms that read them."""

    def __init__(self, terms: dict[str, Term], method: str, offers: tuple[Predictions, ...], seed: int = 0) -> None:
        super().__init__(terms)
        self.number, self.seed = 0, seed
        self.calls = dict.fromkeys(terms, 0)  # of each term, in this step
        for name, term in terms.items():
            if not readable(type(term), offers):
                raise ValueError(not_offered(name, type(term), {method: offers}))

    def join(self, optimiser: torch.optim.Optimizer, settings: OptimiserSettings) -> None:
        """The terms' own parameters learn with the segmenter's, at the rate of its heads."""
        if own := [parameter for parameter in self.parameters() if parameter.requires_grad]:
            lr = settings.lr * settings.head_factor
            group = {"name": "terms", "params": own, "lr": lr, "weight_decay": settings.weight_decay}
            for each in adapted([group]) if settings.optimiser == "lars" else [group]:
                optimiser.add_param_group(each)

    def weight(self, loss: str) -> float:
        """The lambda of the loss "TERM.loss"; 1 for others."""
        term = loss.partition(".")[0]
        return self[term].settings.weight if term in self else 1.0

    def begin_step(self, step: int, steps: int) -> None:
        """Before the first batch of step `step` of `steps`: all terms begin it."""
        self.number, self.calls = step, dict.fromkeys(self, 0)
        for term in self.values():
            term.begin_step(step, steps)

    def after_step(self, step: int) -> None:
        """After the optimisers: all terms write their memories."""
        for term in self.values():
            term.after_step(step)

    def forward(self, batches: dict[str, Any], taught: Taught | None = None, **P: Any) -> Losses:
        """The losses of the running terms that read these predictions, all of one backward pass; taught: for `Step.taught`."""
        losses: Losses = {}
        for name, term in self._running():
            for reads in (term.reads, *term.also):
                if reads and set(reads) <= P.keys():
                    losses |= self._of(name, {prediction: P[prediction] for prediction in reads}, batches, taught)
        return losses

    def alone(self, batches: dict[str, Any]) -> Iterator[Losses]:
        """One dictionary for each running term that has forward passes of its own."""
        for name, term in self._running():
            if not term.reads:
                yield self._of(name, {}, batches, None)

    def _of(self, name: str, P: dict[str, Any], batches: dict[str, Any], taught: Taught | None) -> Losses:
        call, self.calls[name] = self.calls[name], self.calls[name] + 1
        seed = mixed_seed(self.seed, SeedStream.TERMS, self.number, call, crc32(name.encode()))
        numbers = torch.Generator().manual_seed(seed)
        found = self[name](P, Step(self.number, batches, taught, numbers))
        if not isinstance(found, dict):
            raise ValueError(f"The term {name} returns {type(found).__name__}, wanted a dictionary of losses by name.")
        return {f"{name}.{loss}": value for loss, value in found.items()}

    def _running(self) -> list[tuple[str, Term]]:
        return [(name, term) for name, term in self.items() if self.number >= term.settings.first_step]


TEACHER = ("teacher",)  # among the offers of a method that has one
