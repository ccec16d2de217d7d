"""Training by one process and by two (gloo, CPU), with the same global batch: pictures per second, and what waiting costs.

    python -m benchmarks.scaling [--rounds 3] [--methods adaptsegnet proca bida] [--out benchmarks/results/scaling.md]

DeepLabV2-ResNet-101 on small random pictures, two of each domain in a step, started by torchrun as a training is. Every process
has one thread; "one process, two threads" is what two processes on two cores have to beat. The last column is the wait for the
gradients of a step: `average_gradients` alone, all processes at once, on a step's gradients.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from itertools import repeat
from pathlib import Path

import torch

from benchmarks.measuring import command, hand_over
from benchmarks.step_speed import METHODS, REDUCED, batches, make
from course_lib import ranks
from course_lib.data import Batch
from course_lib.data.sampling import share
from course_lib.engine import LoopSettings, train
from course_lib.engine.distributed import average_gradients, broadcast_module, join, running_statistics
from course_lib.files import write_whole

CONFIGURATIONS = {"one process": (1, 1), "one process, two threads": (1, 2), "two processes": (2, 1)}  # processes, threads


def work(method_name: str, steps: int, threads: int, results: Path) -> None:
    """What each process does: train, then exchange the gradients alone; process 0 writes seconds a step of both."""
    torch.set_num_threads(threads)
    with join("cpu"):
        case = replace(REDUCED[method_name], pictures=2)
        method = make(case, torch.device("cpu"))
        broadcast_module(method)
        part = share(case.pictures, ranks.rank(), ranks.count())
        own = [Batch(batch.image[part], batch.label[part], batch.name[part]) for batch in batches(case, torch.device("cpu"))]
        loaders = {"source": repeat(own[0]), "target": repeat(own[1])}

        def run(count: int) -> None:
            train(method, loaders, LoopSettings(steps=count, log_every=count), quiet=True)

        run(1)
        ranks.barrier()
        began = time.perf_counter()
        run(steps)
        ranks.barrier()
        step = (time.perf_counter() - began) / steps
        statistics_ = running_statistics(method)
        began = time.perf_counter()
        for _ in range(5):
            average_gradients(method.optimisers.values(), buffers=statistics_)
        exchange = (time.perf_counter() - began) / 5 if ranks.count() > 1 else 0.0
        if ranks.is_main():
            write_whole(results, json.dumps([step, exchange]))


def measure(method: str, processes: int, threads: int, steps: int, folder: Path) -> tuple[float, float]:
    """Seconds of a step, and of its exchange of gradients, by so many processes."""
    results = folder / "seconds.json"
    words = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes), "--module"]
    words += ["benchmarks.scaling", "--work", method, "--steps", str(steps), "--threads", str(threads), "--out", str(results)]
    done = subprocess.run(words, capture_output=True, env=os.environ | {"OMP_NUM_THREADS": str(threads)}, encoding="utf-8")
    if done.returncode:
        raise SystemExit(f"{' '.join(words)} ended with {done.returncode}:\n{done.stderr[-2000:]}")
    return tuple(json.loads(results.read_text(encoding="utf-8")))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=2, help="of a round")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=METHODS)
    parser.add_argument("--threads", type=int, default=1, help="of --work")
    parser.add_argument("--work", help="what torchrun starts: a method")
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    if asked.work:
        work(asked.work, asked.steps, asked.threads, asked.out)
        return
    lines = ["# One process and two", "", f"`{command()}`", ""]
    lines += [
        f"CPU, {os.cpu_count()} cores ({platform.machine()}), torch {torch.__version__}. Medians of {asked.rounds} rounds of "
        f"{asked.steps} steps, configurations in turn.",
        "",
    ]
    lines += [" ".join(__doc__.split("\n\n")[2].split()), ""]
    lines += ["More processes, several machines, GPUs: **not measured: none at hand**; on paper in `docs/scaling.md`.", ""]
    lines += ["| method | processes | s a step | images/s | of one process | exchange of gradients, s | of the step |"]
    lines += ["|---|---|---|---|---|---|---|"]
    for method in asked.methods:
        taken: dict[str, list[tuple[float, float]]] = {name: [] for name in CONFIGURATIONS}
        for _ in range(asked.rounds):
            for name, (processes, threads) in CONFIGURATIONS.items():
                with tempfile.TemporaryDirectory() as folder:
                    taken[name].append(measure(method, processes, threads, asked.steps, Path(folder)))
        alone = statistics.median(step for step, _ in taken["one process"])
        for name, found in taken.items():
            step, exchange = (statistics.median(column) for column in zip(*found, strict=True))
            waits = f"{exchange:.3f} | {100 * exchange / step:.0f} %" if exchange else "- | -"
            lines.append(f"| {method} | {name} | {step:.2f} | {4 / step:.2f} | {alone / step:.2f} x | {waits} |")
        print(method, "done", file=sys.stderr, flush=True)
    hand_over(lines, asked.out)


if __name__ == "__main__":
    main()
