"""Values of a file are checked against type hints, and an error names the place."""

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, TypedDict

import pytest

from course_lib.typed import checked


class Point(NamedTuple):
    x: int
    y: int | None = None


class Part(TypedDict, total=False):
    name: str


@dataclass(frozen=True)
class Outer:
    points: tuple[Point, ...]
    size: tuple[int, int] | None = None
    mode: Literal["a", "b"] = "a"

    def __post_init__(self) -> None:
        if len(self.points) > 2:
            raise ValueError("at most 2 points.")


def test_lists_become_what_the_hint_says_and_the_rest_stays():
    assert checked(Outer, {"points": [[1], [2, 3]], "size": [4, 5]}, "f") == Outer((Point(1), Point(2, 3)), (4, 5))
    assert checked(Part, {"name": "x", "other": [1]}, "f") == {"name": "x", "other": [1]}
    assert checked(dict[str, Any], {"a": None}, "f") == {"a": None}
    assert checked(float, 3, "f") == 3 and checked(list[bool], [True], "f") == [True]


@pytest.mark.parametrize("hint, value, words", [
    (int, "x", "f: it holds 'x', wanted a whole number"),
    (int, True, "f: it holds True, wanted a whole number"),
    (float, "1", "f: it holds '1', wanted a number"),
    (dict[str, int], {"a": 1.5}, "f: 'a' is 1.5, wanted a whole number"),
    (dict[str, int], {1: 1}, "f: '1' is 1, wanted a text"),
    (dict[str, int], [1], "f: it holds .1., wanted a dictionary of texts with a whole number each"),
    (Outer, {"points": [[1, "y"]]}, "f: 'points.0.1' is 'y', wanted a whole number or nothing"),
    (Outer, {"points": [[1, 2, 3]]}, "f: 'points.0' is .1, 2, 3., wanted a list of x, y"),
    (Outer, {"points": [], "size": [1, "b"]}, "f: 'size.1' is 'b', wanted a whole number"),
    (Outer, {"points": [], "size": [1]}, "f: 'size' is .1., wanted 2 values .a whole number, a whole number. or nothing"),
    (Outer, {"points": [], "mode": "c"}, "f: 'mode' is 'c', wanted one of 'a', 'b'"),
    (Outer, {"points": [], "mode": ["a"]}, "f: 'mode' is .'a'., wanted one of"),
    (Outer, {}, "f: it holds {}, wanted a dictionary that has 'points', too"),
    (Outer, {"points": [], "new": 1}, "wanted a dictionary without 'new'"),
    (Outer, {"points": [[1], [2], [3]]}, "f: at most 2 points"),
    (Part, {"name": 1}, "f: 'name' is 1, wanted a text"),
    (list[str], "abc", "f: it holds 'abc', wanted a list"),
])  # fmt: skip
def test_what_does_not_fit_is_named_with_its_place(hint, value, words):
    with pytest.raises(ValueError, match=words):
        checked(hint, value, "f")


def test_a_long_value_is_cut():
    with pytest.raises(ValueError) as caught:
        checked(int, "x" * 10_000, "f")
    assert len(str(caught.value)) < 150
