"""What several benchmarks share: command, times, memory in use and free, two ways compared, prototypes, tables."""

import argparse
import io
import os
import platform
import shlex
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from course_lib.experiments.paired import half_interval
from course_lib.files import write_whole
from course_lib.methods import ProCA
from course_lib.prototypes import ClassSums

if TYPE_CHECKING:  # the check for a GPU imports this file and runs without matplotlib
    from matplotlib.figure import Figure

MIB, GIB = 2**20, 2**30
CPU = torch.device("cpu")


def command() -> str:
    """The command that started this benchmark, for its file of results: `python -m benchmarks.NAME ...`."""
    return shlex.join(["python", "-m", f"benchmarks.{Path(sys.argv[0]).stem}", *sys.argv[1:]])


def wait(device: torch.device) -> None:
    """Until the device has computed all that was queued."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def seconds(
    action: Callable[[], object], device: torch.device = CPU, clock: Callable[[], float] = time.perf_counter
) -> float:
    """Time of one call, by `clock`."""
    wait(device)
    began = clock()
    action()
    wait(device)
    return clock() - began


def medians(
    actions: Iterable[Callable[[], object]],
    rounds: int,
    device: torch.device = CPU,
    clock: Callable[[], float] = time.perf_counter,
) -> list[float]:
    """Median seconds of each action. In every round each runs once, so that a busy moment of the machine affects all."""
    actions = list(actions)
    taken = [[seconds(action, device, clock) for action in actions] for _ in range(rounds)]
    return [statistics.median(column) for column in zip(*taken, strict=True)]


def peak_bytes(action: Callable[[], object], device: torch.device = CPU) -> int:
    """The most bytes of tensors alive at a time during `action`, beyond those from before; of a GPU as CUDA counts them."""
    if device.type == "cuda":
        wait(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        action()
        wait(device)
        return torch.cuda.max_memory_allocated(device) - before
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
        action()
    changes = [event for event in record.profiler.kineto_results.events() if event.name() == "[memory]"]
    alive = peak = 0
    for event in sorted(changes, key=lambda event: event.start_ns()):
        alive += event.nbytes()
        peak = max(peak, alive)
    return peak


def available() -> float:
    """Free bytes of memory; infinite where the system does not report them."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return float("inf")
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable"))


def give_prototypes(method: ProCA) -> None:
    """Random prototypes, as if each class had been seen in a thousand cells."""
    for bank in method.banks.values():
        _, C, D = bank.mean.shape
        sums = ClassSums(C, D)
        sums.counts += 1000
        sums.sums += 1000 * torch.randn(C, D, dtype=torch.float64)
        bank.initialise(sums)


Step = Callable[..., tuple[Tensor, ...]]


def two_ways(count: int, ours: Step, plain: Step, inputs: Sequence[Tensor], names: Sequence[str], rounds: int) -> list[str]:
    """The rows "course_lib" and "plain" of a table: count, way, ms, times faster, extra MiB, share of the plain way's.

    names: of the results, which have to agree to 1e-5 of their largest element; SystemExit where they do not.
    """
    for name, a, b in zip(names, ours(*inputs), plain(*inputs), strict=True):
        off = ((a - b).abs().max() / b.abs().max()).item()
        if not off <= 1e-5:
            raise SystemExit(f"{name} differs by {off:.1e} of its size: times cannot be compared.")
    ways = [lambda: ours(*inputs), lambda: plain(*inputs)]
    times, memory = medians(ways, rounds), [peak_bytes(way) for way in ways]
    return [
        f"| {count} | {name} | {1e3 * t:,.1f} | {times[1] / t:.1f} x | {m / MIB:,.1f} | {m / memory[1]:.3f} |"
        for name, t, m in zip(("course_lib", "plain"), times, memory, strict=True)
    ]


def command_line(doc: str, rounds: int | None = None, device: bool = False) -> argparse.ArgumentParser:
    """The options that many benchmarks have: --threads, --out, and where they are wanted --rounds and --device."""
    parser = argparse.ArgumentParser(description=doc.splitlines()[0])
    if rounds is not None:
        parser.add_argument("--rounds", type=int, default=rounds)
    if device:
        parser.add_argument("--device", type=torch.device, default=CPU)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--out", type=Path, help="write the output there, too")
    return parser


def parsed(parser: argparse.ArgumentParser) -> argparse.Namespace:
    """The words of the command line; torch then uses as many threads as they say."""
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    return given


def table_of_parts(
    doc: str, parts: Iterable[str], row: Callable[[str, int, torch.device], str], title: str, head: str, rounds: int
) -> None:
    """The command line of a benchmark whose table has a line for each part: row(name, rounds, device) -> the line."""
    parser = command_line(doc, rounds, device=True)
    parser.add_argument("--parts", nargs="+", choices=list(parts), default=list(parts))
    given = parsed(parser)
    lines = [
        f"# {title}",
        "",
        f"`{command()}`",
        "",
        f"{given.device}, threads: {given.threads} of {os.cpu_count()} ({platform.machine()}), torch {torch.__version__},",
        f"float32; medians of {given.rounds} rounds. What the rows are: benchmarks/{Path(sys.argv[0]).stem}.py.",
        "",
        head,
        "|---" * (head.count("|") - 1) + "|",
    ]
    lines += [row(name, given.rounds, given.device) for name in given.parts]
    hand_over(lines, given.out)


def mean(values: Iterable[float]) -> str:
    """Mean and standard deviation of scores in %; the mean alone of one value."""
    values = list(values)
    return f"{statistics.fmean(values):.1f}" + (f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else "")


def gain_cells(points: Mapping[str, float]) -> str:
    """Points gained, by seed, as three cells of a table: mean, 95 % interval of the mean (three seeds or more), each seed.

    >>> gain_cells({"0": 1.0, "1": 2.0, "2": 3.0})
    '+2.0 | -0.5 to +4.5 | +1.0, +2.0, +3.0'
    """
    values = list(points.values())
    mean, interval = statistics.fmean(values), "one seed" if len(values) == 1 else "two seeds"
    if len(values) > 2:
        half = half_interval(values)
        interval = f"{mean - half:+.1f} to {mean + half:+.1f}"
    return f"{mean:+.1f} | {interval} | {', '.join(f'{value:+.1f}' for value in values)}"


def training_hours(*tables: Mapping[str, Any]) -> float:
    """Of the runs of all tables together, in hours of one process."""
    runs = (run for table in tables for row in table["rows"].values() for run in row["seeds"].values())
    return sum(run["train_seconds"] for run in runs) / 3600


def png(figure: "Figure", dpi: int = 120, **texts: str) -> bytes:
    """A figure as a PNG file, which does not name the version of matplotlib; texts: stored in it."""
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=dpi, metadata={"Software": None, **texts})
    return picture.getvalue()


def leaves(content: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """The values in nested dictionaries and lists, each with its path.

    >>> dict(leaves({"a": {"b": 1}, "c": [2]}))
    {'a.b': 1, 'c.0': 2}
    """
    if isinstance(content, dict | list | tuple):
        items = content.items() if isinstance(content, dict) else enumerate(content)
        for key, value in items:
            yield from leaves(value, f"{path}.{key}" if path else str(key))
    else:
        yield path, content


def hand_over(lines: list[str], out: Path | None) -> None:
    """Print a table and, if asked, write it."""
    text = "\n".join(lines) + "\n"
    print(text, end="")
    if out is not None:
        write_whole(out, text)
