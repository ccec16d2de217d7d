"""Look at pairs of files one by one, in parallel: what is in them, or what is wrong with them.

Letters: H, W image size, C classes, F files.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any, NotRequired, TypedDict

import numpy as np
from tqdm.auto import tqdm

from course_lib import ranks
from course_lib.data.bits import BITS
from course_lib.data.cache import cache_folder
from course_lib.data.disparity import read_disparity
from course_lib.data.encoding import Table
from course_lib.data.pairs import Pair, Problem
from course_lib.data.processes import cores
from course_lib.data.reading import PASSING, READING, BadPicture, read_pair, width_x_height
from course_lib.files import read_json, write_whole
from course_lib.terminal import shown


@dataclass(frozen=True)
class Facts:
    """What one pair holds; with a problem, the rest is not known."""

    problem: Problem | None = None
    size: str = ""  # "2048x1024", width first
    as_stored: bool = False  # see reading.ReadPair
    largest: int | None = None  # likewise
    pixels: np.ndarray | None = None  # (256,) int64: pixels of each train id, IGNORE included; None without labels


class Examined(TypedDict):
    """What is kept in the cache: the number of each bad pair, and what a `Problem` is made of."""

    bad: list[tuple[int, tuple[str, str, str]]]
    again: NotRequired[list[int]]  # pairs that the system could not read


def examine(pair: Pair, table: Table | None, bits: int = BITS) -> Facts:
    """Decode all files (a PNG's data carry a check sum), compare their sizes, count the train ids of the label."""
    try:
        read = read_pair(pair.image, pair.label, table, bits)
        if pair.depth is not None:
            read_disparity(pair.depth, tuple(read.label.shape))
    except BadPicture as error:
        return Facts(Problem(error.kind, pair.blamed(str(error)), str(error)))
    pixels = None if table is None or pair.label is None else np.bincount(read.label.numpy().ravel(), minlength=256)
    return Facts(None, width_x_height(read.image), read.as_stored, read.largest, pixels)


def in_parallel(
    work: Callable[[Any], Any],
    items: Sequence[Any],
    description: str,
    workers: int | None = None,
    progress: bool = True,
    delay: float = 0,
) -> Iterator[Any]:
    """`work(item)` in the order of the items, by threads (decoding lets others run), with a bar; the first error ends it.

    delay: seconds before the bar is shown.
    """
    threads = ThreadPoolExecutor(workers or cores())
    try:
        results = threads.map(work, items)
        yield from tqdm(results, description, len(items), leave=False, mininterval=0.5, disable=not progress, delay=delay)
    finally:
        threads.shutdown(wait=True, cancel_futures=True)  # what has not begun is left, so an error or Ctrl-C ends at once


def without_bad(
    pairs: Sequence[Pair], table: Table | None, spec: str, progress: bool = True, bits: int = BITS
) -> tuple[list[Pair], list[Problem]]:
    """The pairs that `examine` finds nothing wrong with, and the problems of the others.

    What was found is kept in the cache folder for files of these names, sizes and times, read in this way (`READING`, `bits`),
    but for files that the system could not read (`PASSING`), at which each call looks again.
    Of several processes each looks at its part, and all get the same answer: all of them must call it.
    """
    stats = [_stamp(path) for pair in pairs for path in (pair.image, pair.label, *([pair.depth] if pair.depth else []))]
    content = [READING, bits, stats, None if table is None else table.tolist()]
    key = hashlib.sha256(json.dumps(content).encode()).hexdigest()[:20]
    path = cache_folder() / "examined" / f"{key}.json"
    known = ranks.agree(_read(path, len(pairs)) if ranks.is_main() else None)
    found, again = known if known is not None else ([], list(range(len(pairs))))
    if again:
        mine = again[ranks.rank() :: ranks.count()]
        facts = in_parallel(
            lambda i: (i, examine(pairs[i], table, bits).problem), mine, "checking files", progress=progress and ranks.is_main()
        )
        own = [(i, astuple(problem)) for i, problem in facts if problem]
        found = sorted([*found, *((i, tuple(problem)) for part in ranks.collect(own) for i, problem in part)])
        if ranks.is_main():
            passing = [i for i, (kind, *_) in found if kind in PASSING]
            lasting = [entry for entry in found if entry[0] not in passing]
            with suppress(OSError):  # a cache that cannot be written is no reason to stop
                write_whole(path, json.dumps({"spec": spec, "bad": lasting, "again": passing}, indent=1))
    bad = {i: Problem(*problem) for i, problem in found}
    return [pair for i, pair in enumerate(pairs) if i not in bad], list(bad.values())


def summary(problems: Sequence[Problem], most: int = 10) -> str:
    """One line a kind, then the files: "left out 2 (1 damaged files, 1 ...)"."""
    kinds = ", ".join(f"{n} {shown(kind)}" for kind, n in Counter(p.kind for p in problems).most_common())
    lines = [f"  {p.file!r} ({shown(p.kind)})" for p in problems[:most]]
    more = [f"  ... and {len(problems) - most} more"] if len(problems) > most else []
    return "\n".join([f"Left out: {kinds}.", *lines, *more])


def _stamp(path: Path | None) -> tuple[str, int, int]:
    with suppress(OSError):
        if path is not None:
            status = os.stat(path)
            return str(path), status.st_size, status.st_mtime_ns
    return str(path), -1, -1


def _read(path: Path, pairs: int) -> tuple[list, list[int]] | None:
    """What is wrong with which pair, and the pairs to look at again."""
    with suppress(OSError, ValueError):
        content = read_json(path, Examined)
        bad, again = content["bad"], content.get("again", [])
        if any(problem[0] in PASSING for _, problem in bad):  # an earlier version kept those
            return None
        if {i for i, _ in bad} | set(again) <= set(range(pairs)):
            return bad, again
    return None
