"""`make test` draws at least 500 cases; FUZZ_CASES draws as many as it says."""

import re
from pathlib import Path

import pytest
from hypothesis import strategies as st

from tests.fuzz.cases import CASES, USUAL, expected_errors_name, fuzz, shares


def test_at_least_500_cases_are_drawn_and_each_line_has_its_test():
    used = [name for path in Path(__file__).parent.glob("test_*.py")
            for name in re.findall(r'^@fuzz\("([^"]+)"', path.read_text(encoding="utf-8"), re.M)]  # fmt: skip
    assert sorted(used) == sorted(USUAL)
    assert sum(USUAL[name] for name in used) >= 500
    assert sum(CASES.values()) >= sum(USUAL.values())


def test_the_switch_draws_more():
    assert 20_000 <= sum(shares(20_000).values()) < 20_020
    assert shares(0) == shares(10) == USUAL


def test_a_fuzz_test_runs_its_cases_and_can_fail():
    seen = []
    run = fuzz("training", number=st.integers())(lambda number: seen.append(number))
    run()
    assert len(seen) >= CASES["training"]

    def not_big(number):
        assert number < 1000

    with pytest.raises(AssertionError):
        fuzz("training", number=st.integers())(not_big)()
    with pytest.raises(AssertionError, match="only 2 cases"):  # there are no more booleans
        fuzz("training", yes=st.booleans())(lambda yes: None)()


def test_what_counts_as_an_expected_error(tmp_path):
    file = tmp_path / "a.png"
    with expected_errors_name(file):
        raise ValueError(f"{file} is broken")
    with pytest.raises(AssertionError, match="names no file"), expected_errors_name(file):
        raise OSError("broken")
    with pytest.raises(KeyError), expected_errors_name(file):
        raise KeyError(str(file))
