"""Several networks at once: a list of tasks, in this process or in several, with one bar over all."""

import multiprocessing
import os
import threading
from collections.abc import Callable
from concurrent.futures import FIRST_EXCEPTION, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool

import torch

from course_lib import outside
from course_lib.data.processes import KILLED, end_with_starter, refuse_unguarded_script
from course_lib.engine.progress import progress


class Pool:
    """Runs a list of tasks: alone, each has all threads and its own bar; in `jobs` processes, one bar is over them all.

    found: called in this process with what a task returned, as soon as it did, in lists run with `tell`. begin: what each
    process does first.
    """

    def __init__(
        self, jobs: int, quiet: bool, found: Callable = lambda key, value: None, begin: Callable | None = None
    ) -> None:
        self.jobs, self.quiet, self.found, self.begin = jobs, quiet, found, begin

    def __enter__(self):
        if self.jobs > 1:
            refuse_unguarded_script("spawn")
            threads = max(1, (os.cpu_count() or 1) // self.jobs)
            spawn = multiprocessing.get_context("spawn")  # a forked torch may hang
            self.executor = ProcessPoolExecutor(self.jobs, spawn, _worker, (threads, self.begin))
        return self

    def __exit__(self, *_):
        if self.jobs > 1:
            self.executor.shutdown(cancel_futures=True)

    def __call__(self, name: str, function, tasks: list[tuple], steps=None, tell: bool = False) -> dict:
        """{key: value} of the pairs that `function` returns; `steps()` lists (done, wanted) of every task for the bar."""
        found = self.found if tell else lambda key, value: None
        if self.jobs == 1 or len(tasks) <= 1:
            pairs = {}
            for task in tasks:
                key, value = function(*task, self.quiet)
                pairs[key] = value
                found(key, value)
            return pairs
        try:
            return self._several(name, function, tasks, steps, found)
        except BrokenProcessPool as error:
            raise ChildProcessError(KILLED) from error

    def _several(self, name: str, function, tasks: list[tuple], steps, found: Callable) -> dict:
        futures = [self.executor.submit(_placed, function, *task, True) for task in tasks]
        steps = steps or (lambda: [(future.done(), 1) for future in futures])
        with progress(None, name, total=sum(wanted for _, wanted in steps()), quiet=self.quiet) as bar:
            pending = set(futures)
            while pending:
                finished, pending = wait(pending, timeout=1.0, return_when=FIRST_EXCEPTION)
                for future in finished:
                    found(*future.result())  # an error in one network ends the comparison; what is finished stays
                bar.update(sum(done for done, _ in steps()) - bar.n)
        return dict(future.result() for future in futures)


def _placed(function, *task):
    """What a process runs. An error takes along where it passed a user's code: its traceback stays in that process."""
    try:
        return function(*task)
    except Exception as error:
        error.place = outside.place(error)
        raise


def _worker(threads: int, begin: Callable | None) -> None:
    """A worker's share of the cores; it ends when the process that wants its results is gone, however that ended."""
    if begin is not None:
        begin()
    torch.set_num_threads(threads)
    threading.Thread(target=end_with_starter, daemon=True).start()
