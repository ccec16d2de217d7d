"""Real processes for tests: the same function in two of them, joined by gloo through a file; and the command line.

A run in several processes, or in two parts, is the run: `assert_like_one`, `whole_and_parts`.
"""

import multiprocessing
import os
import socket
import sys
from collections.abc import Callable
from datetime import timedelta
from itertools import repeat
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing

from course_lib import ranks
from course_lib.data import Batch
from course_lib.engine import LoopSettings, Stopped, load_checkpoint, train
from course_lib.experiments.train import Pair, train_recipe
from course_lib.methods import Method
from course_lib.recipes import Recipe
from tests.bounds import Tolerance, close

HANG = 1800  # seconds; a time limit in a test is there to end a hang, never to judge the speed of a machine
METHOD = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
if METHOD == "forkserver":
    multiprocessing.get_context(METHOD).set_forkserver_preload(["course_lib.cli", "course_lib.experiments.train"])


def together(work: Callable[[], Any], folder: Path, count: int = 2) -> list[Any]:
    """What `work()` returns in each of `count` processes; the traceback of one that fails is raised here."""
    torch.multiprocessing.start_processes(_child, (work, folder, count), nprocs=count, start_method=METHOD)
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(count)]


def _child(rank: int, work: Callable[[], Any], folder: Path, count: int) -> None:
    torch.set_num_threads(1)
    meeting = f"file://{folder / 'meeting'}"
    dist.init_process_group("gloo", init_method=meeting, rank=rank, world_size=count, timeout=timedelta(seconds=HANG))
    torch.save(work(), folder / f"{rank}.pt")


def own_part(batch: Batch) -> Batch:
    """This process's pictures of a batch."""
    n = len(batch.image) // ranks.count()
    own = slice(ranks.rank() * n, (ranks.rank() + 1) * n)
    return Batch(*(x if x is None else x[own] for x in batch))


def trained(m: Method, source: Batch, target: Batch, **loop: Any) -> dict[str, Any]:
    """Losses of three steps, each on this process's part of the batches, and where all state ends."""
    streams = {"source": repeat(own_part(source)), "target": repeat(own_part(target))}
    log = train(m, streams, LoopSettings(steps=3, log_every=1, **loop), quiet=True)
    return {"losses": [record["losses"] for record in log.records], "state": m.state_dict()}


def assert_like_one(several: list[dict[str, Any]], one: dict[str, Any], tolerance: Tolerance) -> None:
    """What `trained` gives in several processes is what it gives in one; the processes have the same state."""
    for process in several:
        for ours, wanted in zip(process["losses"], one["losses"], strict=True):
            close(ours, wanted, tolerance)
        for key, value in one["state"].items():
            if value.is_floating_point():
                close(process["state"][key], value, tolerance, what=key)
            else:
                assert torch.equal(process["state"][key], value), key
        assert all(torch.equal(value, process["state"][key]) for key, value in several[0]["state"].items())


def whole_and_parts(chosen: Recipe, pair: Pair, folder: Path, after: int = 3) -> tuple[dict[str, Any], str]:
    """A run in one go, and one that is stopped after some steps and resumed, leave the same weights, state and log.

    Returns the last checkpoint and the text of the log.
    """
    asked = iter([False] * (after - 1) + [True])
    train_recipe(chosen, pair, folder / "whole", quiet=True)
    with pytest.raises(Stopped, match=f"after step {after} of {chosen.loop.steps}"):
        train_recipe(chosen, pair, folder / "parts", stop=lambda: next(asked), quiet=True)
    train_recipe(chosen, pair, folder / "parts", existing="resume", quiet=True)
    whole, parts = (load_checkpoint(folder / name / "last.pt") for name in ("whole", "parts"))
    for part in ("segmenter", "method"):
        assert all(torch.equal(value, parts[part][key]) for key, value in whole[part].items())
    logs = [(folder / name / "log.jsonl").read_text(encoding="utf-8") for name in ("whole", "parts")]
    assert logs[0] == logs[1]
    return whole, logs[0]


def uda(
    words: list[str], out: Path, cache: Path, count: int = 1, before: Callable[[], None] | None = None
) -> tuple[list[int | None], str]:
    """The command line in `count` processes, after `before` in each: the exit status of each, and all that they print.

    Several find the variables that torchrun sets. A fork server has imported torch already; `python -m course_lib` would take
    seconds for it. `out` is the file that they print to.
    """
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    job = {"WORLD_SIZE": str(count), "MASTER_ADDR": "localhost", "MASTER_PORT": str(port)} if count > 1 else {}
    processes = []
    out.touch()
    for rank in range(count):
        variables = {"COURSE_CACHE": str(cache), **job, **({"RANK": str(rank), "LOCAL_RANK": str(rank)} if job else {})}
        processes.append(multiprocessing.get_context(METHOD).Process(target=_uda, args=(words, variables, out, before)))
        processes[-1].start()
    for process in processes:
        process.join(HANG)
    return [process.exitcode for process in processes], out.read_text(encoding="utf-8")


def _uda(words: list[str], variables: dict[str, str], out: Path, before: Callable[[], None] | None) -> None:
    from course_lib import cli

    torch.set_num_threads(1)
    os.environ.update(variables)
    sys.stdout = sys.stderr = out.open("a", encoding="utf-8", buffering=1)
    sys.argv = ["uda", *words]
    if before is not None:
        before()
    cli.main()
