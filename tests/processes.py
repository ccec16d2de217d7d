"""Real processes for tests: the same function in two of them, joined by gloo through a file."""

import multiprocessing
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
    multiprocessing.get_context(METHOD).set_forkserver_preload(["course_lib.cli", "course_lib.recipes.stages"])


def together(work: Callable[[], Any], folder: Path, count: int = 2) -> list[Any]:
    """What `work()` returns in each of `count` processes; the traceback of one that fails is raised here."""
    torch.multiprocessing.start_processes(_child, (work, folder, count), nprocs=count, start_method=METHOD)
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(count)]


def _child(rank: int, work: Callable[[], Any], folder: Path, count: int) -> None:
    torch.set_num_threads(1)
    meeting = f"file://{folder / 'meeting'}"
    dist.init_process_group("gloo", init_method=meeting, rank=rank, world_size=count, timeout=timedelta(seconds=HANG))
    torch.save(work(), folder / f"{rank}.pt")
