"""Real processes for tests: the same function in two of them, joined by gloo through a file; and the command line."""

import multiprocessing
import os
import socket
import sys
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing

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
