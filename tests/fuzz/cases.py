"""How many cases each fuzz test draws, and what every one of them must keep to.

`make test` draws the same cases each time. FUZZ_CASES=20000 in the environment draws that many in all, other ones each
time; a failure then prints the line (`@reproduce_failure(...)`) that brings it back.
"""

import functools
import os
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

from hypothesis import HealthCheck, Phase, given, settings

from tests.processes import HANG

USUAL = {
    "pictures": 110,
    "labels": 90,
    "lists": 100,
    "descriptions": 100,
    "checkpoint bytes": 60,
    "checkpoint contents": 60,
    "published weights": 40,
    "settings": 80,
    "own code": 60,
    "own networks": 60,
    "own terms": 60,
    "recipe files": 30,
    "command lines": 60,
    "training": 50,
}  # cases of `make test`
WANTED = int(os.environ.get("FUZZ_CASES", 0))


def shares(wanted: int) -> dict[str, int]:
    """`wanted` cases in all, each line its part; never fewer than usual."""
    total = sum(USUAL.values())
    return {name: max(count, -(-count * wanted // total)) for name, count in USUAL.items()}


CASES = shares(WANTED)


def fuzz(name: str, **drawn):
    """Run a test on the cases of its line in `USUAL`; it fails, too, if fewer than that were really run."""

    def decorate(test):
        ran = 0

        @settings(
            max_examples=CASES[name],
            derandomize=not WANTED,
            database=None,
            deadline=timedelta(seconds=HANG),  # a hang has an end, and a slow computer its time
            suppress_health_check=list(HealthCheck),
            phases=(Phase.explicit, Phase.generate, Phase.shrink),
            print_blob=True,
        )
        @given(**drawn)
        @functools.wraps(test)
        def counted(**arguments):
            nonlocal ran
            ran += 1
            test(**arguments)

        @functools.wraps(counted)
        def run(*args, **kwargs):
            counted(*args, **kwargs)
            assert ran >= CASES[name], f"{name}: only {ran} cases, {CASES[name]} wanted"

        return run

    return decorate


@contextmanager
def expected_errors_name(*files: Path):
    """Inside, an error may only be a ValueError or OSError whose message names one of the files."""
    try:
        yield
    except (ValueError, OSError) as error:
        message = str(error)
        assert any(file.name in message for file in files), f"{type(error).__name__} names no file: {message!r}"
        assert len(message) < 3000, f"a message to read, not {len(message)} letters: {message[:300]!r}"
