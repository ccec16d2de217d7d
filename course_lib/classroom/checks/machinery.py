"""What all checks share: a list of cases, each made so that one mistake alone can show in it."""

import copy
import html
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch


@dataclass(frozen=True)
class Case:
    """Arguments for the learner's function, the expected answer, and a hint for a wrong one.

    `part` picks what is compared of the answer; `holds(answer, *arguments)` judges it instead where no single value can
    (does a gradient flow, ...).
    """

    arguments: tuple
    expected: Any = None
    hint: str = ""
    part: Callable[[Any], Any] = lambda answer: answer
    holds: Callable[..., bool] | None = None


@dataclass(frozen=True)
class Result:
    """What a check found. In a notebook it shows itself; `print` works too."""

    name: str
    status: str  # "not attempted", "wrong" or "right"
    message: str

    MARKS = {"not attempted": ("○", "#6b6b6b"), "wrong": ("✗", "#b3261e"), "right": ("✓", "#1e7d34")}

    def __str__(self) -> str:
        return f"{self.MARKS[self.status][0]} {self.name}: {self.message}"

    __repr__ = __str__

    def _repr_html_(self) -> str:
        mark, colour = self.MARKS[self.status]
        text = html.escape(self.message).replace("\n", "<br>")
        # white on the colour, the message in the page's own colour: no colour of a text can be read on white and on black alike
        badge = f"color:#ffffff;background-color:{colour};border-radius:3px;padding:1px 5px"
        return f'<span><b style="{badge}">{mark} {html.escape(self.name)}</b> {text}</span>'

    def require(self) -> None:
        """Raise unless the answer is right: this is how a solution is proved."""
        if self.status != "right":
            raise AssertionError(str(self))


@dataclass(frozen=True)
class Check:
    """Asks a function every case in turn; stops at the first wrong answer and gives that case's hint."""

    name: str
    task: str  # what the function must do, said to those who have not begun
    cases: tuple[Case, ...]
    tolerance: float = 1e-4
    level: Literal["fill in", "write", "design"] = "write"  # the dots of a function; from an equation; many right answers

    def __call__(self, answer: Callable) -> Result:
        for number, case in enumerate(self.cases, start=1):
            status, fault = self._ask(answer, case)
            if status == "not attempted":
                return Result(self.name, status, f"not attempted yet. {self.task}")
            if status == "wrong":
                return Result(self.name, status, f"case {number} of {len(self.cases)}: {fault}\nHint: {case.hint}")
        return Result(self.name, "right", f"all {len(self.cases)} cases right.")

    def _ask(self, answer: Callable, case: Case) -> tuple[str, str]:
        """Status of one case, and what was wrong."""
        if answer is None or answer is ...:
            return "not attempted", ""
        if not callable(answer):
            return "wrong", f"got {type(answer).__name__}; pass the function itself, without calling it."
        arguments = copy.deepcopy(case.arguments)
        try:
            given = answer(*arguments)
        except NotImplementedError:
            return "not attempted", ""
        except Exception as error:  # whatever the learner's code raises is an answer to explain
            if "ellipsis" in str(error).lower():  # a `...` of the stub is still in there
                return "not attempted", ""
            return "wrong", f"your function raised {type(error).__name__}: {error}"
        if given is None or given is ...:
            return "not attempted", ""
        changed = [i for i, (a, b) in enumerate(zip(arguments, case.arguments, strict=True)) if not same(a, b)]
        if changed:
            return "wrong", f"your function changed its argument number {changed[0] + 1}; work on a copy (clone)."
        try:
            fault = self._fault(given, case, arguments)
        except Exception as error:  # the answer is no tensor or number, has no such part, takes no gradient, ...
            fault = f"your answer, {brief(given)}, cannot be judged ({type(error).__name__}: {error})"
        return ("wrong", fault) if fault else ("right", "")

    def _fault(self, given: Any, case: Case, arguments: tuple) -> str:
        if case.holds is not None:
            return "" if case.holds(given, *arguments) else f"your answer was {brief(given)}."
        mine, wanted = as_numbers(case.part(given)), as_numbers(case.expected)
        if mine.shape != wanted.shape:
            return f"your answer has shape {mine.shape}, wanted {wanted.shape}."
        if np.allclose(mine, wanted, rtol=self.tolerance, atol=self.tolerance, equal_nan=True):
            return ""
        return f"you gave {brief(mine)}, wanted {brief(wanted)}."


def as_numbers(value: Any) -> np.ndarray:
    """Tensors, lists and numbers as float64."""
    if isinstance(value, torch.Tensor):
        value = value.detach().cpu().numpy()
    return np.asarray(value, dtype=np.float64)


def same(a: Any, b: Any) -> bool:
    """Are two arguments still equal? Only tensors and arrays can be changed by accident."""
    if isinstance(a, torch.Tensor):
        return a.shape == b.shape and torch.equal(a, b)
    if isinstance(a, np.ndarray):
        return np.array_equal(a, b)
    return True


def brief(value: Any) -> str:
    """A value on one line, numbers with four digits."""
    try:
        text = np.array2string(as_numbers(value), precision=4, suppress_small=True, threshold=24, separator=", ")
    except (TypeError, ValueError, RuntimeError):  # the last: several tensors, one with a gradient
        text = repr(value)
    text = " ".join(text.split())
    return text if len(text) <= 120 else text[:117] + "..."
