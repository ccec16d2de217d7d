"""Work in several processes that end with the one that started them, however that one ends."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import torch

from course_lib.files import read_text

AT_ONCE = 4  # jobs that are submitted ahead for each process: enough to keep it busy, few to cancel after an error
KILLED = "A worker process was killed (out of memory?). Run the same command again; where it has --workers, with fewer."
LOOK = 0.5  # seconds between two looks whether the starter is still there
# forked workers start at once, with all that their starter has imported; elsewhere they are spawned
START = "fork" if sys.platform == "linux" else "spawn"


def in_processes(work: Callable[[Any], Any], items: Sequence[Any], workers: int) -> Iterator[Any]:
    """`work(item)` of all items, as they are done, by `workers` processes (1: in this one); the first error ends it.

    `work` and the items are pickled. Raises ChildProcessError where a process was killed; `refuse_unguarded_script`.
    """
    workers = min(workers, len(items))
    if workers <= 1:
        yield from map(work, items)
        return
    refuse_unguarded_script(START)
    with ProcessPoolExecutor(workers, multiprocessing.get_context(START), _begin) as pool:
        rest = iter(items)
        jobs = {pool.submit(work, item) for _, item in zip(range(AT_ONCE * workers), rest)}
        try:
            while jobs:
                job = next(as_completed(jobs))
                jobs.remove(job)
                yield job.result()
                jobs |= {pool.submit(work, item) for _, item in zip(range(1), rest)}
        except BrokenProcessPool as error:
            raise ChildProcessError(KILLED) from error
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def refuse_unguarded_script(method: str | None = None) -> None:
    """Raise RuntimeError where processes begin by running the script that starts them, and nothing in it says what they skip.

    method: how they start; None: as the platform does. Forked ones run nothing again.
    """
    main = sys.modules.get("__main__")
    if getattr(getattr(main, "__spec__", None), "name", "").endswith(".__main__"):
        return  # `python -m PACKAGE`: Python itself leaves it out
    script = Path(getattr(main, "__file__", None) or "")
    if (method or multiprocessing.get_start_method()) == "fork" or script.suffix != ".py" or not script.is_file():
        return
    if "__name__" not in read_text(script, errors="replace"):
        raise RuntimeError(
            f"{script} starts processes, and each of them runs it again from its first line. Put what it does below the line "
            '`if __name__ == "__main__":`.'
        )


def cores() -> int:
    """The processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _begin() -> None:
    torch.set_num_threads(1)  # the processes are the parallelism; a forked process has none of its parent's threads
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to all: the starter says what happens
    threading.Thread(target=end_with_starter, daemon=True).start()


def end_with_starter() -> None:
    """End this process once the one that started it is gone: a killed one cannot end its workers, which would wait for ever.

    The parent is the starter, or a fork server that ends with it; a starter that is gone already shows in its sentinel.
    """
    starter, parent = multiprocessing.parent_process(), os.getppid()
    while os.getppid() == parent and starter.is_alive():
        time.sleep(LOOK)
    os._exit(1)
