"""What several benchmarks share: the command, memory in use and memory that is free, prototypes of many pixels, the output."""

import argparse
import os
import platform
import shlex
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile

from course_lib.files import write_whole
from course_lib.methods import ProCA
from course_lib.prototypes import ClassSums

MIB, GIB = 2**20, 2**30


def command() -> str:
    """The command that started this benchmark, for its file of results: `python -m benchmarks.NAME ...`."""
    return shlex.join(["python", "-m", f"benchmarks.{Path(sys.argv[0]).stem}", *sys.argv[1:]])


def peak_bytes(action: Callable[[], object]) -> int:
    """The most bytes of tensors alive at a time during `action`, beyond those from before."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
        action()
    changes = [event for event in record.profiler.kineto_results.events() if event.name() == "[memory]"]
    alive = peak = 0
    for event in sorted(changes, key=lambda event: event.start_ns()):
        alive += event.nbytes()
        peak = max(peak, alive)
    return peak


def available() -> float:
    """Bytes of memory to be had; without end where the system does not say."""
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


def table_of_parts(
    doc: str, parts: Iterable[str], row: Callable[[str, int, torch.device], str], title: str, head: str, rounds: int
) -> None:
    """The command line of a benchmark whose table has a line for each part: row(name, rounds, device) -> the line."""
    parser = argparse.ArgumentParser(description=doc.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=rounds)
    parser.add_argument("--parts", nargs="+", choices=list(parts), default=list(parts))
    parser.add_argument("--device", type=torch.device, default=torch.device("cpu"))
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--out", type=Path, help="write the table there, too")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
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


def hand_over(lines: list[str], out: Path | None) -> None:
    """Print a table and, if asked, write it."""
    text = "\n".join(lines) + "\n"
    print(text, end="")
    if out is not None:
        write_whole(out, text)
