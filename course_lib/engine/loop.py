"""The training loop: every method of the course is trained by `train` below."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from typing import Literal

import torch

from course_lib import ranks
from course_lib.data import Batch, UnfinishedBatch
from course_lib.engine.distributed import average_gradients, running_statistics
from course_lib.engine.precision import Format, Precision, compiling, fuse, to_device
from course_lib.engine.progress import JsonLines, describe, progress
from course_lib.engine.stopping import Stopped
from course_lib.methods import Method
from course_lib.typed import AT_LEAST_1, COUNT, in_range


@dataclass(frozen=True)
class LoopSettings:
    """How long and how to run. Defaults: AdaptSegNet's published loop."""

    steps: int = 150_000  # [code] where training stops ...
    schedule_steps: int | None = 250_000  # [code] ... and where the rate would reach zero (None: the same)
    schedule: Literal["poly", "cosine"] = "poly"  # DeepLab's; SimCLR's
    power: float = 0.9  # [code] of poly
    warmup: int = 0  # [code] none; steps over which the rate climbs to the schedule's
    accumulate: int = 1  # [code] batches per step
    precision: Format = "fp32"
    channels_last: bool = False
    compile: bool = False
    log_every: int = 10  # ours
    save_every: int = 5_000  # [code]
    keep: int = 2  # ours; checkpoints that stay, older ones are removed

    def __post_init__(self) -> None:
        in_range(self, steps=AT_LEAST_1, schedule_steps=COUNT, warmup=COUNT, accumulate=AT_LEAST_1, log_every=AT_LEAST_1,
                 save_every=AT_LEAST_1, keep=AT_LEAST_1, power=(0.0, 100.0))  # fmt: skip


def poly(step: int, steps: int, power: float = 0.9) -> float:
    """The factor on all learning rates at `step` of `steps`: (1 - step / steps)^power, from 1 down to 0.

    >>> [round(poly(step, 100), 3) for step in (0, 50, 100)]
    [1.0, 0.536, 0.0]
    """
    return max(0.0, 1 - step / steps) ** power


def cosine(step: int, steps: int) -> float:
    """Likewise (1 + cos(pi step / steps)) / 2.

    >>> [round(cosine(step, 100), 3) for step in (0, 50, 100)]
    [1.0, 0.5, 0.0]
    """
    return (1 + math.cos(math.pi * min(1.0, step / steps))) / 2


def rate_at(step: int, settings: LoopSettings) -> float:
    """The factor on all learning rates: the schedule times the warm-up; "cosine" begins when the warm-up is over."""
    horizon, climb = settings.schedule_steps or settings.steps, min(1.0, (step + 1) / max(1, settings.warmup))
    if settings.schedule == "cosine":
        return climb * cosine(max(0, step - settings.warmup), max(1, horizon - settings.warmup))
    return climb * poly(step, horizon, settings.power)


class NonFiniteLoss(FloatingPointError):
    """A loss became NaN or infinite."""


def train(
    method: Method,
    loaders: Mapping[str, Iterable[Batch | UnfinishedBatch]],
    settings: LoopSettings,
    *,
    device: torch.device | str = "cpu",
    start: int = 0,
    log: JsonLines | None = None,
    save: Callable[[int], object] | None = None,
    stop: Callable[[], bool] | None = None,
    precision: Precision | None = None,
    description: str = "train",
    quiet: bool = False,
) -> JsonLines:
    """Train `method` from step `start` to `settings.steps` on endless batches of each of its streams, by name.

    Each step: set the rates, add up the gradients of every dictionary of losses that the method yields, step its
    optimisers. `save(step)` is called every `save_every` steps and at the end; `stop()` is called after each step;
    where it is true, the loop saves and raises Stopped. Returns the log, one record per `log_every` steps:
    {"step", "lr", "losses": {name: unweighted value}}. Raises NonFiniteLoss with step, loss and file names.

    Under torchrun every process calls this with its part of each batch: gradients and logged losses are means over them.
    """
    device, log = torch.device(device), log or JsonLines()
    precision = precision or Precision(settings.precision, device)
    to_device(method, device, settings.channels_last).train()
    for network in method.networks() if settings.compile else ():
        network.compile()
    fuse(method.optimisers.values(), device.type == "cuda")
    groups = [group for optimiser in method.optimisers.values() for group in optimiser.param_groups]
    loaders = {name: iter(loader) for name, loader in loaders.items()}
    statistics = running_statistics(method)
    watch = FiniteWatch()

    bar = progress(range(start, settings.steps), description, total=settings.steps - start, quiet=quiet)
    for step in bar:
        rate = rate_at(step, settings)
        for group in groups:
            group["lr"] = rate * group.setdefault("initial_lr", group["lr"])
        for optimiser in method.optimisers.values():
            optimiser.zero_grad(set_to_none=True)

        sums: dict[str, torch.Tensor] = {}
        names: list[str] = []
        for part in (method, method.terms):
            part.begin_step(step, settings.schedule_steps or settings.steps)
        with compiling(settings.compile):
            for _ in range(settings.accumulate):
                batches = {name: draw(loader, step) for name, loader in loaders.items()}
                batches = {name: batch.to(device, settings.channels_last) for name, batch in batches.items()}
                names += [name for batch in batches.values() for name in batch.name]
                for losses in backward_passes(method, batches, precision):
                    total = sum(method.weight(name) * loss for name, loss in losses.items())
                    precision.backward(total / settings.accumulate)
                    for name, loss in losses.items():
                        sums[name] = sums.get(name, 0.0) + loss.detach() / settings.accumulate
        stopping = average_gradients(method.optimisers.values(), stop is not None and stop(), statistics)
        precision.step(list(method.optimisers.values()))
        for part in (method, method.terms):
            part.after_step(step)
        watch.look(step + 1, sums, names)

        done = step + 1
        if done % settings.log_every == 0 or done == settings.steps:
            watch.stop_if_not_finite()
            values = dict(zip(sums, (ranks.total(torch.stack(list(sums.values()))) / ranks.count()).tolist()))
            log.write({"step": done, "lr": rate, "losses": values})
            bar.set_postfix(describe(values, method.landmarks), refresh=False)
        if save is not None and (stopping or done % settings.save_every == 0 or done == settings.steps):
            watch.stop_if_not_finite()  # what cannot be used is not saved
            save(done)
        if stopping and done < settings.steps:
            reasons = ranks.collect(str(stop))  # the signal may have reached another process; and all wait for the save
            raise Stopped(done, settings.steps, next((r for r in reasons if r != "nobody"), "a request"))
    return log


def draw(loader: Iterator[Batch | UnfinishedBatch], step: int) -> Batch | UnfinishedBatch:
    """The next batch of a stream."""
    try:
        return next(loader)
    except StopIteration:
        raise ValueError(
            f"A loader ended after {step} steps; training draws without end. "
            "Use course_lib.data.train_loader, or lower `steps`."
        ) from None


def backward_passes(method: Method, batches: dict[str, Batch], precision: Precision) -> Iterator[dict[str, torch.Tensor]]:
    """The dictionaries of the method and of terms with passes of their own, their forward passes in the chosen precision."""
    own = {name: batches[name] for name in method.streams(method.settings)}
    passes, seen = chain(method.losses(**own), method.terms.alone(batches)), set()
    while True:
        with precision.autocast():  # entered again each time: the backward pass in between stays outside
            losses = next(passes, None)
        if losses is None:
            return
        _check_losses(losses, method.name or type(method).__name__)
        if twice := seen & losses.keys():
            raise ValueError(f"{method.name} yields the loss {min(twice)!r} twice in one step; give each loss its own name.")
        seen |= losses.keys()
        yield losses


def _check_losses(losses: object, name: str) -> None:
    """ValueError for what a method yields in place of a dictionary of numbers."""
    if not isinstance(losses, dict):
        raise ValueError(
            f"{name} yields {type(losses).__name__}, wanted a dictionary of losses for each backward pass. Where `losses` "
            "returns one, write yield in place of return."
        )
    for loss, value in losses.items():
        if isinstance(value, torch.Tensor) and value.ndim:
            shape = tuple(value.shape)
            raise ValueError(f"{name} yields the loss {loss!r} of shape {shape}, wanted one number: take its mean.")


class FiniteWatch:
    """Finds the first step with a NaN or infinite loss without waiting for the device at every step."""

    def __init__(self) -> None:
        self.seen: list[tuple[int, dict[str, torch.Tensor], list[str]]] = []  # since the last check

    def look(self, step: int, sums: dict[str, torch.Tensor], names: list[str]) -> None:
        """Remember a step's losses and the names of its pictures."""
        self.seen.append((step, sums, names))

    def stop_if_not_finite(self) -> None:
        """Raise NonFiniteLoss, naming step, loss and pictures, if a remembered loss of any process is NaN or infinite."""
        seen, self.seen = self.seen, []
        found = []
        numbers = [value.float() for _, sums, _ in seen for value in sums.values()]
        finite = iter(torch.stack(numbers).isfinite().tolist() if numbers else [])  # one synchronisation for all steps
        for step, sums, names in seen:
            if bad := [name for name, well in zip(sums, finite) if not well]:
                found.append((step, ", ".join(bad), ", ".join(names)))
        # the first of all processes: one step later, all have met the NaN through the averaged gradients
        if found := [first for first in ranks.collect(min(found, default=None)) if first is not None]:
            step, bad, names = min(found)
            raise NonFiniteLoss(
                f"Step {step}: {bad} is not a finite number. The pictures of this step: {names}. "
                "Lower the learning rate, or use precision fp32 or bf16; look at the pictures' labels if it happens at step 1."
            )
