"""What a notebook keeps from its first to its last line: the run, the functions of its exercises, what it has cost."""

import dataclasses
import functools
import os
import platform
import time
from collections import Counter
from collections.abc import Callable

import torch
import torchvision

import course_lib
from course_lib.classroom import answers
from course_lib.classroom.checks.machinery import Check, Result
from course_lib.classroom.figures.style import use_style
from course_lib.classroom.solved import remember
from course_lib.engine import PeakMemory, choose_device, seed_everything


class Session:
    """One run of a notebook: its seed, its device, whether it is the fast run, when it began, its exercises."""

    def __init__(self, seed: int, full: bool, device: torch.device) -> None:
        self.seed, self.full, self.device = seed, full, device
        self.began = time.perf_counter()
        self.solved: dict[str, bool] = {}  # by exercise
        self.calls: Counter[str] = Counter()  # of the page's cells, by exercise

    def pick(self, *, fast, full):
        """The number for this run: `fast` lets a laptop finish in minutes, `full` is what a GPU has time for.

        >>> Session(seed=0, full=False, device=torch.device("cpu")).pick(fast=200, full=20_000)
        200
        """
        return full if self.full else fast

    def generator(self, stream: int = 0) -> torch.Generator:
        """A source of random numbers for one purpose; other streams do not disturb it."""
        return torch.Generator().manual_seed(self.seed * 1000 + stream)

    def use(self, check: Check, answer: Callable) -> Callable:
        """Check the reader's function and show the result; returns what the page calls from there on.

        That is `answer` where it is right, else the library's function (classroom.answers). The page is the same in both
        cases: it counts the calls of either.

        >>> from course_lib.classroom import checks
        >>> iou = Session(seed=0, full=False, device=torch.device("cpu")).use(checks.iou, lambda matrix: ...)
        ○ iou: not attempted yet. Write iou(matrix): (C, C) counts -> (C,) intersection over union of each class.
        This page uses the library's iou.
        """
        result = check(answer)
        right = result.status == "right"
        function = answer if right else getattr(answers, check.name)
        used = f"This page uses your {answer.__name__}." if right else f"This page uses the library's {check.name}."
        _show(dataclasses.replace(result, message=f"{result.message}\n{used}"))
        self.solved[check.name] = right
        if right:
            remember(check.name)
        self.calls[check.name] = 0

        @functools.wraps(function)
        def counted(*arguments, **named):
            self.calls[check.name] += 1
            return function(*arguments, **named)

        return counted

    def stamp(self) -> None:
        """Close the notebook: print the exercises with the calls of their functions, versions, seconds and peak memory."""
        if self.solved:
            print(f"exercises solved: {sum(self.solved.values())} of {len(self.solved)}; calls on this page: "
                  + ", ".join(f"{name} {count:,}" for name, count in self.calls.items()))  # fmt: skip
        seconds = time.perf_counter() - self.began
        print(
            f"Python {platform.python_version()}, torch {plain(torch)}, torchvision {plain(torchvision)}, "
            f"course_lib {plain(course_lib)}; {self.device}, seed {self.seed}, {torch.get_num_threads()} thread(s)"
        )
        print(f"{seconds:.0f} s, peak {peak_megabytes():.0f} MB" + _on_the_gpu(self.device))


def start(seed: int = 0, *, full: bool | None = None, device: str | None = None) -> Session:
    """Begin a notebook: seed everything, make figures readable, say what will run.

    full: the long run instead of the fast one; None reads the environment: COURSE_FULL=1 asks for it.
    device: None takes a CUDA GPU when there is one, else the CPU (Apple's MPS only by name).
    """
    if full is None:
        full = _switch("COURSE_FULL")
    chosen = choose_device(device or "auto")
    seed_everything(seed)
    use_style()
    print(f"{'Full' if full else 'Fast'} run on {chosen}, seed {seed}, torch {plain(torch)}")
    return Session(seed, full, chosen)


def _show(result: Result) -> None:
    try:
        from IPython.display import display
    except ImportError:  # a script, without the notebooks' packages
        print(result)
    else:
        display(result)


def _switch(name: str) -> bool:
    """An environment variable that is 1 or 0; not set or empty: 0."""
    value = os.environ.get(name, "")
    if value not in ("", "0", "1"):
        raise ValueError(f"The environment variable {name} is {value[:40]!r}; wanted 1 (yes) or 0 (no).")
    return value == "1"


def peak_megabytes() -> float:
    """The most memory that this process has held so far, in MB."""
    peak = PeakMemory.of_process()
    if peak is None:  # Windows
        import psutil

        peak = psutil.Process().memory_info().peak_wset
    return peak / 1e6


def plain(package) -> str:
    """A package's version without the build's suffix (2.11.0+cu130 -> 2.11.0)."""
    return package.__version__.split("+")[0]


def _on_the_gpu(device: torch.device) -> str:
    return f", {torch.cuda.max_memory_allocated(device) / 1e6:.0f} MB on the GPU" if device.type == "cuda" else ""
