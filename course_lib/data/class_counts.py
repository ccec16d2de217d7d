"""How many pixels of each class each label file has: counted once, then kept in the cache folder.

Letters: F files, C classes.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from contextlib import suppress

import numpy as np

from course_lib.data.cache import cache_folder
from course_lib.data.encoding import Table
from course_lib.data.examine import in_parallel
from course_lib.data.few_labels import Part, with_few_pixels
from course_lib.data.pairs import Pair
from course_lib.data.reading import read_label
from course_lib.files import read_json, write_whole


def class_counts(
    pairs: Sequence[Pair],
    table: Table,
    num_classes: int,
    spec: str = "",
    part: Part | None = None,
    size: tuple[int, int] | None = None,
) -> np.ndarray:
    """(F, C) int64. The key is the content as the file system tells it: name, size and time of every label file, and the id
    table; part: whose pixels are left of each label; size: see `with_few_pixels`."""
    stats = [(pair.name, (s := os.stat(pair.label)).st_size, s.st_mtime_ns) for pair in pairs]
    few = [] if part is None or part.pixels == "all" else [part.pixels, part.seed, size]
    key = hashlib.sha256(json.dumps([stats, table.tolist(), num_classes, *few]).encode()).hexdigest()
    path = cache_folder() / "class_counts" / f"{key[:20]}.json"
    with suppress(OSError, ValueError, KeyError):  # not there, or not readable: count
        counts = np.array(read_json(path)["counts"])
        if counts.shape == (len(pairs), num_classes) and counts.dtype == np.int64 and counts.min() >= 0:
            return counts

    def count(pair: Pair) -> np.ndarray:
        label = read_label(pair.label, table)
        label = label if not few else with_few_pixels(label, part.pixels, part.seed, pair.name, size)
        return np.bincount(label.ravel(), minlength=256)[:num_classes]

    counts = np.stack(list(in_parallel(count, pairs, "counting classes")))
    with suppress(OSError):  # a cache that cannot be written is no reason to stop
        write_whole(path, json.dumps({"spec": spec, "counts": counts.tolist()}))
    return counts
