"""The tolerances of the tests: the bound holds in any order, and the comparison can fail."""

import ast
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.bounds import bound, close, far, near, printed, stated

TESTS = Path(__file__).parent
NUMERIC = ("losses", "networks", "evaluation", "methods", "test_prototypes.py", "test_ranks.py", "test_pseudo_labels.py",
           "test_dynamic_labels.py", "test_peers.py")  # fmt: skip
GUESSES = {"approx", "allclose", "isclose", "assert_close", "assert_allclose", "assert_almost_equal"}
EXACT = stated(0.0, "bit for bit")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("n", [2, 10, 100, 1000])
def test_a_sum_stays_within_the_bound_in_any_order(n, dtype):
    """One after the other, and as torch does it; as drawn, reversed, and sorted both ways."""
    x = torch.rand(n, generator=torch.Generator().manual_seed(n), dtype=torch.float64).to(dtype)
    exact = math.fsum(x.tolist())
    for order in (x, x.flip(0), x.sort().values, x.sort(descending=True).values):
        close(sum(order), exact, bound(n, dtype, exact))
        close(order.sum(), exact, bound(n, dtype, exact))


def test_the_bound_is_the_worst_case_up_to_25_roundings_and_grows_as_a_root_from_there_on():
    u = 2.0**-24
    for n, size, roundings in ((1, 1.0, 1), (25, 3.0, 75), (10_000, 1.0, 500), (40_000, -1.0, 1000)):
        assert bound(n, torch.float32, size).value == pytest.approx(roundings * u, rel=1e-3)
    assert bound(2, torch.float64, torch.tensor([-1.0, 2.0])).value.tolist() == pytest.approx([2.0**-52, 2.0**-51])


def test_a_rounding_more_than_the_bound_is_seen():
    exact = 1.0
    close(torch.tensor(1 + 2.0**-23), exact, bound(2, torch.float32) * (1 + 1e-6))
    with pytest.raises(AssertionError, match=r"Got 1.00000023841857\d+, wanted 1.0 \+- .*, 2 times the tolerance"):
        close(torch.tensor(1 + 2.0**-22), exact, bound(2, torch.float32))


@pytest.mark.parametrize(
    "got, wanted",
    [
        (1.0, 2.0),
        ([1.0, 2.0], [1.0, 2.5]),
        ([1.0, 2.0], [1.0]),
        (torch.zeros(2, 1), torch.zeros(2)),
        (math.nan, 1.0),
        (1.0, math.nan),
        (math.nan, math.nan),
        (math.inf, 1.0),
        (math.inf, -math.inf),
        ({"a": 1.0}, {"b": 1.0}),
        ({"a": 1.0}, {"a": 1.5}),
        (1.0, {"a": 1.0}),
    ],
)
def test_what_is_not_near(got, wanted):
    assert not near(got, wanted, stated(0.25, "a quarter"))
    with pytest.raises(AssertionError):
        close(got, wanted, stated(0.25, "a quarter"))


def test_what_is_near():
    assert near(math.inf, math.inf, EXACT) and near({"a": [1.0]}, {"a": [1.25]}, stated(0.25, "a quarter"))
    assert near([math.nan, 1.0], [math.nan, 1.0], EXACT, nan_ok=True)
    assert not near([math.nan, 1.0], [1.0, math.nan], EXACT, nan_ok=True)
    assert near(torch.ones(3), np.ones(3), EXACT) and near([torch.ones(2)], torch.ones(1, 2), EXACT)
    assert far([1.0, 2.0], [1.0, 3.0], 0.5) and not far(1.0, 1.5, 0.5)


def test_a_printed_number_keeps_half_a_unit_of_its_last_digit():
    value, tolerance = printed("2.9066")
    assert (value, tolerance.value) == (2.9066, 5e-5)
    assert near(2.90664, value, tolerance) and not near(2.90666, value, tolerance)
    assert printed("-3")[1].value == 0.5 and printed("6.35397109e-4")[1].value == pytest.approx(5e-13)


def test_a_tolerance_says_where_it_comes_from():
    with pytest.raises(ValueError, match="stated wants a reason"):
        stated(1e-3, "")
    for compare in (close, near):
        with pytest.raises(TypeError, match=r"tolerance is 0.001; it wants bound"):
            compare(1.0, 1.0, 1e-3)


def test_comparisons_are_recorded(tmp_path, monkeypatch):
    monkeypatch.setenv("NUMERICS_RECORD", str(tmp_path / "record"))
    close([1.0, 2.0], [1.0, 2.25], stated(0.5, "a half"))
    line = json.loads((tmp_path / "record").read_text(encoding="utf-8"))
    assert line["test"].endswith("test_comparisons_are_recorded") and (line["error"], line["bound"]) == (0.25, 0.5)


# ---- no tolerance without a reason ----------------------------------------------------------------------------------


def literal(node: ast.AST) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, (int, float)) and not isinstance(node.value, bool)


def guessed(source: str) -> list[int]:
    """The lines of a test file with a tolerance that nothing explains.

    A comparison with tolerances of its own (`approx` and the like, whose defaults are guesses, too), a tolerance that is a
    number, and "below" a number of at most 1/1000, which is how a tolerance looks when written by hand.
    """
    lines = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call):
            name = getattr(node.func, "attr", getattr(node.func, "id", ""))
            numbers = [k for k in node.keywords if k.arg in {"abs", "rel", "atol", "rtol", "tolerance"} and literal(k.value)]
            if name in GUESSES or numbers:
                lines.append(node.lineno)
        if isinstance(node, ast.Compare):
            for way, right in zip(node.ops, node.comparators):
                if isinstance(way, (ast.Lt, ast.LtE)) and literal(right) and 0 < right.value <= 1e-3:
                    lines.append(node.lineno)
    return sorted(lines)


@pytest.mark.parametrize(
    "line",
    [
        "assert x == pytest.approx(y)",
        "assert x == approx(y, rel=1e-6)",
        "torch.testing.assert_close(x, y, rtol=0, atol=1e-5)",
        "assert torch.allclose(x, y)",
        "np.testing.assert_allclose(x, y)",
        "assert gradcheck(f, x, atol=1e-4)",
        "assert abs(x - y) < 1e-6",
        "assert 0 < (x - y).abs().max() <= 0.001",
    ],
)
def test_a_guessed_tolerance_is_found(line):
    assert guessed("x = 1\n" + line) == [2]


def test_other_numbers_are_no_tolerances():
    allowed = "close(x, y, bound(20, dtype, 3.0) + stated(1e-3, 'why'))\nassert x < 0.1 and abs(x - y) > 1e-6 and x < y"
    assert guessed(allowed) == []


FILES = sorted(path for name in NUMERIC for path in ([TESTS / name] if name.endswith(".py") else (TESTS / name).glob("*.py")))


@pytest.mark.parametrize("path", FILES, ids=[str(path.relative_to(TESTS)) for path in FILES])
def test_numeric_tests_guess_no_tolerance(path):
    lines = guessed(path.read_text(encoding="utf-8"))
    assert not lines, f"{path.name}, lines {lines}: use close or near of tests.bounds, with bound, printed or stated"


def test_where_no_digit_is_certain_there_is_no_bound():
    """A tolerance that grows with n u / (1 - n u) would be negative, and everything within it."""
    with pytest.raises(ValueError, match="After 1000000 roundings to torch.bfloat16 no digit is certain"):
        bound(10**6, torch.bfloat16)
    assert 0 < bound(1_000, torch.bfloat16).value < 2
