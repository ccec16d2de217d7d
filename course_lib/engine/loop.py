"""The training loop, in the open: every method of the course is trained by `train` below."""

import math
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import torch

from course_lib.data import Batch
from course_lib.engine.precision import Format, Precision, to_device
from course_lib.engine.progress import JsonLines, describe, progress
from course_lib.methods import Method


@dataclass(frozen=True)
class LoopSettings:
    """How long and how to run. Defaults: AdaptSegNet's published loop."""

    steps: int = 150_000  # where training stops ...
    schedule_steps: int | None = 250_000  # ... and where the rate would reach zero (None: the same)
    power: float = 0.9
    warmup: int = 0  # steps over which the rate climbs to the schedule's
    accumulate: int = 1  # batches per step
    precision: Format = "fp32"
    channels_last: bool = False
    compile: bool = False
    log_every: int = 10
    save_every: int = 5_000


def poly(step: int, steps: int, power: float = 0.9) -> float:
    """The factor on all learning rates at `step` of `steps`: (1 - step / steps)^power, from 1 down to 0.

    >>> [round(poly(step, 100), 3) for step in (0, 50, 100)]
    [1.0, 0.536, 0.0]
    """
    return max(0.0, 1 - step / steps) ** power


class NonFiniteLoss(FloatingPointError):
    """A loss became NaN or infinite."""


def train(
    method: Method,
    source: Iterable[Batch] | None,
    target: Iterable[Batch] | None,
    settings: LoopSettings,
    *,
    device: torch.device | str = "cpu",
    start: int = 0,
    log: JsonLines | None = None,
    save: Callable[[int], object] | None = None,
    description: str = "train",
    quiet: bool = False,
) -> JsonLines:
    """Train `method` from step `start` to `settings.steps` on endless source and target batches.

    Each step: set the rates, add up the gradients of every dictionary of losses that the method yields, step its
    optimisers. `save(step)` is called every `save_every` steps and at the end. Returns the log, one record per
    `log_every` steps: {"step", "lr", "seconds", "losses": {name: unweighted value}}.
    Raises NonFiniteLoss with step, loss and file names.
    """
    device, log = torch.device(device), log or JsonLines()
    precision = Precision(settings.precision, device)
    to_device(method, device, settings.channels_last).train()
    if settings.compile:
        method.segmenter.compile()
    groups = [group for optimiser in method.optimisers.values() for group in optimiser.param_groups]
    source, target = (None if loader is None else iter(loader) for loader in (source, target))
    watch = FiniteWatch()
    horizon = settings.schedule_steps or settings.steps
    began = time.perf_counter()

    bar = progress(range(start, settings.steps), description, total=settings.steps - start, quiet=quiet)
    for step in bar:
        rate = poly(step, horizon, settings.power) * min(1.0, (step + 1) / max(1, settings.warmup))
        for group in groups:
            group["lr"] = rate * group.setdefault("initial_lr", group["lr"])
        for optimiser in method.optimisers.values():
            optimiser.zero_grad(set_to_none=True)

        sums: dict[str, torch.Tensor] = {}
        for _ in range(settings.accumulate):
            batches = [draw(loader, step) for loader in (source, target)]
            batches = [batch and batch.to(device, settings.channels_last) for batch in batches]
            for losses in backward_passes(method, batches, precision):
                total = sum(method.weights.get(name, 1.0) * loss for name, loss in losses.items())
                precision.backward(total / settings.accumulate)
                for name, loss in losses.items():
                    sums[name] = sums.get(name, 0.0) + loss.detach() / settings.accumulate
        precision.step(list(method.optimisers.values()))
        watch.look(step + 1, sums, batches)

        done = step + 1
        if done % settings.log_every == 0 or done == settings.steps:
            values = {name: value.item() for name, value in sums.items()}
            watch.stop_if_not_finite()
            log.write({"step": done, "lr": rate, "seconds": round(time.perf_counter() - began, 3), "losses": values})
            bar.set_postfix(describe(values, method.landmarks), refresh=False)
        if save is not None and (done % settings.save_every == 0 or done == settings.steps):
            save(done)
    return log


def draw(loader: Iterator[Batch] | None, step: int) -> Batch | None:
    """The next batch of a domain, None for a domain that is not used."""
    if loader is None:
        return None
    try:
        return next(loader)
    except StopIteration:
        raise ValueError(
            f"A loader ended after {step} steps; training draws without end. "
            "Use course_lib.data.train_loader, or lower `steps`."
        ) from None


def backward_passes(method: Method, batches: list[Batch | None], precision: Precision) -> Iterator[dict[str, torch.Tensor]]:
    """The dictionaries of `method.losses`, their forward passes run in the chosen precision."""
    passes = iter(method.losses(*batches))
    while True:
        with precision.autocast():  # entered anew each time: the backward pass in between stays outside
            losses = next(passes, None)
        if losses is None:
            return
        yield losses


class FiniteWatch:
    """Finds the first step with a NaN or infinite loss without waiting for the device at every step."""

    def __init__(self) -> None:
        self.seen: list[tuple[int, dict[str, torch.Tensor], list[str]]] = []  # since the last check

    def look(self, step: int, sums: dict[str, torch.Tensor], batches: list[Batch | None]) -> None:
        """Remember a step's losses and the names of its pictures."""
        self.seen.append((step, sums, [name for batch in batches if batch is not None for name in batch.name]))

    def stop_if_not_finite(self) -> None:
        """Raise NonFiniteLoss, naming step, loss and pictures, if a remembered loss is NaN or infinite."""
        seen, self.seen = self.seen, []
        for step, sums, names in seen:
            bad = [name for name, value in sums.items() if not math.isfinite(value.item())]
            if bad:
                raise NonFiniteLoss(
                    f"Step {step}: {', '.join(bad)} is not a finite number. The pictures of this step: {', '.join(names)}. "
                    "Lower the learning rate, or use precision fp32 or bf16; look at the pictures' labels if it happens "
                    "at step 1."
                )
