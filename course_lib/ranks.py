"""The processes of one job, started by torchrun: who is who, sums and lists over all of them.

Letters: R processes ("ranks"), r = 0..R-1 this one.

With one process every function here returns what it was given. With several, all processes call the same functions in
the same order; tensors may differ in value, not in shape. A loss is scaled so that its MEAN over the ranks is the loss of
the global batch, and the engine averages gradients over the ranks once per step.
"""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

Value = TypeVar("Value")


class ProcessLost(ConnectionError):
    """Another process of the job ended, or does not answer."""


class Job(NamedTuple):
    """What the environment says of this process, before any of them has joined."""

    rank: int  # of all processes
    count: int  # of processes
    local: int  # the number of this one on its machine


def launched() -> Job:
    """RANK, WORLD_SIZE and LOCAL_RANK as torchrun sets them; one process where they are not set, or empty.

    Raises ValueError that names the variable, what it is and what was wanted.
    """
    count = _variable("WORLD_SIZE", None, 1)
    rank = _variable("RANK", None, 0)
    if (count or 1) > 1 and rank is None:
        raise ValueError(f"WORLD_SIZE is {count} and RANK is not set. {_START}")
    if (rank or 0) >= (count or 1):
        raise ValueError(
            f"RANK is {rank} and WORLD_SIZE is {'not set' if count is None else count}; wanted 0 to WORLD_SIZE - 1. {_START}"
        )
    return Job(rank or 0, count or 1, _variable("LOCAL_RANK", 0, 0))


_START = "Start several processes with torchrun, which sets both; for one, unset them: env -u WORLD_SIZE -u RANK uda ..."


def _variable(name: str, default: int | None, least: int) -> int | None:
    text = os.environ.get(name, "").strip()
    if not text:
        return default
    if not re.fullmatch("[0-9]{1,9}", text) or int(text) < least:
        raise ValueError(
            f"The environment variable {name} is {text[:40]!r}; wanted a whole number of at least {least}. {_START}"
        )
    return int(text)


def rank() -> int:
    """The number r of this process."""
    return dist.get_rank() if _several() else 0


def count() -> int:
    """The number R of processes."""
    return dist.get_world_size() if _several() else 1


def is_main() -> bool:
    """Whether this is process 0, the one that prints and writes."""
    return rank() == 0


def total(tensor: Tensor) -> Tensor:
    """sum_r tensor_r, the same on all processes; without gradient."""
    tensor = tensor.detach()
    if count() == 1:
        return tensor
    tensor = tensor.clone(memory_format=torch.contiguous_format)
    with _together():
        dist.all_reduce(tensor)
    return tensor


def gather(tensor: Tensor) -> Tensor:
    """The tensors of all processes one after the other: (N, ...) -> (R N, ...), rows r N to (r+1) N - 1 from process r.

    The gradient is exact: what every process's loss says about this process's rows, summed (torch's own `all_gather` has
    none). Raises ValueError on all processes when their sizes differ.
    """
    return tensor if count() == 1 else _Gather.apply(tensor)


class _Gather(torch.autograd.Function):
    """forward: (x_0, ..., x_{R-1});   backward: dx_r = sum_q g_q[r], g_q the gradient that process q's loss sends."""

    @staticmethod
    def forward(ctx, tensor: Tensor) -> Tensor:
        _check_sizes(tensor)
        ctx.rows = len(tensor)
        parts = [torch.empty_like(tensor, memory_format=torch.contiguous_format) for _ in range(count())]
        with _together():
            dist.all_gather(parts, tensor.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:
        return _Share.apply(gradient, ctx.rows)


class _Share(torch.autograd.Function):
    """The backward pass of `gather`, a function of its own so that it can be differentiated: its backward pass is `gather`."""

    @staticmethod
    def forward(ctx, gradient: Tensor, rows: int) -> Tensor:
        return total(gradient)[rank() * rows : (rank() + 1) * rows]

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None]:
        return gather(gradient), None


def agree(value: Value) -> Value:
    """Process 0's Python object, on all processes; what the others pass is not looked at."""
    if count() == 1:
        return value
    box = [value if is_main() else None]
    with _together():
        dist.broadcast_object_list(box, src=0)
    return box[0]


def collect(value: Value) -> list[Value]:
    """Every process's Python object, in the order of the processes, on all of them."""
    if count() == 1:
        return [value]
    values: list[Any] = [None] * count()
    with _together():
        dist.all_gather_object(values, value)
    return values


def any_of(flag: bool) -> bool:
    """Whether the flag is true on any process."""
    return flag if count() == 1 else bool(total(torch.tensor(int(flag))))


@contextmanager
def fail_together() -> Iterator[None]:
    """Around what each process does alone, such as reading its pictures: where it fails in one, it fails in all of them.

    Otherwise the others would wait for it in the next common operation without end. All processes enter, and there is no common
    operation inside. The failed process raises its own OSError or ValueError, the others one of the same kind that names it.
    """
    own: OSError | ValueError | None = None
    try:
        yield
    except (OSError, ValueError) as error:
        own = error
    found = collect(None if own is None else ("OSError" if isinstance(own, OSError) else "ValueError", str(own)))
    if own is not None:
        raise own
    for number, failure in enumerate(found):
        if failure is not None:
            kind, text = failure
            raise (OSError if kind == "OSError" else ValueError)(f"Process {number} of {count()} failed: {text}")


def barrier() -> None:
    """Wait until every process is here."""
    any_of(False)


def _several() -> bool:
    return dist.is_available() and dist.is_initialized()


def _check_sizes(tensor: Tensor) -> None:
    """Sizes travel first: collectives of unequal sizes hang or mix up memory instead of failing."""
    if tensor.ndim == 0:
        raise ValueError("gather got a number (no dimensions); it lays rows one after the other. Use total for a sum.")
    size = torch.zeros(8, dtype=torch.int64)
    size[: tensor.ndim] = torch.tensor(tensor.shape)
    sizes = [torch.empty_like(size) for _ in range(count())]
    with _together():
        dist.all_gather(sizes, size)
    if any(not torch.equal(size, other) for other in sizes):
        shapes = ", ".join(f"{tuple(s[s > 0].tolist())} on process {r}" for r, s in enumerate(sizes))
        raise ValueError(f"gather got {shapes}; it wants one size. Give every process a batch of the same size.")


@contextmanager
def _together() -> Iterator[None]:
    """An operation of all processes: where one of them is gone, ProcessLost."""
    try:
        yield
    except RuntimeError as error:  # torch's only word for it
        reason = str(error).partition("\n")[0]
        raise ProcessLost(
            f"Process {rank()} waited for the others, and one of {count()} has ended or does not answer. Its own message says "
            f"why. ({reason})"
        ) from error
