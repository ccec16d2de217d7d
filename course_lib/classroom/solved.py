"""Which exercises the reader has solved on this computer: a small file in the cache.

With COURSE_SOLVED=none in the environment it is neither read nor written: for notebooks that are executed for other readers.
"""

import json
import os
from contextlib import suppress
from datetime import date

from course_lib.data.cache import cache_folder
from course_lib.files import read_json, write_whole

SOLVED = "COURSE_SOLVED"
FILE = "exercises.json"  # {exercise: day on which it was first solved}


def solved() -> dict[str, str]:
    """{exercise: day} of all that were solved; none where the file is missing or damaged."""
    if os.environ.get(SOLVED) == "none":
        return {}
    try:
        return read_json(cache_folder() / FILE, dict[str, str])
    except (OSError, ValueError):
        return {}


def remember(exercise: str) -> None:
    """Keep that an exercise was solved. Where the cache cannot be written, nothing is kept."""
    if os.environ.get(SOLVED) != "none" and exercise not in (known := solved()):
        with suppress(OSError):
            write_whole(cache_folder() / FILE, json.dumps(known | {exercise: date.today().isoformat()}, indent=1) + "\n")
