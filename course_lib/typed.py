"""Values of a file, as JSON or a checkpoint has them, checked against Python's type hints before anything uses them."""

import dataclasses
import functools
import types
import typing
from collections.abc import Callable
from typing import Any, Literal

# ranges for `in_range`, both ends included: beyond them a number is a slip of the keyboard, or overflows within some steps
WEIGHT = (0.0, 1e6)  # of a loss
RATE = (0.0, 1e3)  # of learning
SHARE = (0.0, 1.0)
MOMENTUM = (0.0, 0.999999)
TEMPERATURE = (1e-6, 1e6)
COUNT = (0, 10**9)
AT_LEAST_1 = (1, 10**9)

SHOWN = 60  # characters of a wrong value that an error shows


def checked(hint: Any, value: Any, what: str) -> Any:
    """`value` as the type `hint` has it: lists become tuples, dictionaries dataclasses, where the hint says so.

    hint: None, bool, int, float (a whole number fits, too), str, Any, Literal, unions; list, tuple, dict, TypedDict, NamedTuple
    (from a list) and dataclasses (from a dictionary) of these. Any other class: an instance of it. Keys that a TypedDict does
    not name pass as they are; those of a dataclass have to be its fields.
    Raises ValueError that names the place below `what`, what came and what was wanted.

    >>> checked(dict[str, tuple[int, float]], {"a": [1, 2.5]}, "sizes.json")
    {'a': (1, 2.5)}
    >>> checked(dict[str, int], {"a": "x"}, "sizes.json")
    Traceback (most recent call last):
    ValueError: sizes.json: 'a' is 'x', wanted a whole number.
    """
    try:
        return _reader(hint)(value)
    except _Wrong as wrong:
        place = ".".join(map(str, reversed(wrong.place)))
        shown = repr(wrong.value)
        shown = shown if len(shown) <= SHOWN else shown[: SHOWN - 3] + "..."
        raise ValueError(f"{what}: {f'{place!r} is' if place else 'it holds'} {shown}, wanted {wrong.wanted}.") from None
    except ValueError as error:  # of a dataclass that checks the range of its values
        raise ValueError(f"{what}: {error}") from error


def in_range(settings: Any, **ranges: tuple[float, float]) -> None:
    """Check the fields of a settings object against (low, high), both included; None fits.

    Raises ValueError that names the field, its value and the range.
    """
    for name, (low, high) in ranges.items():
        value = getattr(settings, name)
        if value is not None and not low <= value <= high:  # NaN is in no range
            number = "whole number" if isinstance(low, int) and isinstance(high, int) else "number"
            raise ValueError(f"{name} is {str(value)[:24]}; it wants a {number} from {low:,} to {high:,}.")


class _Wrong(Exception):
    """A value of another type, and on the way up its place."""

    def __init__(self, value: Any, wanted: str) -> None:
        super().__init__()
        self.value, self.wanted, self.place = value, wanted, []


@functools.cache
def _reader(hint: Any) -> Callable[[Any], Any]:
    """The function that checks one value; made once for each hint, since a file may hold 100,000 of them."""
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return lambda value: value
    if origin in (types.UnionType, typing.Union):
        return _one_of(hint, [_reader(option) for option in inner])
    if origin is Literal:
        return _simple(lambda value: isinstance(value, str) and value in inner, hint)
    if hint in (None, type(None)):
        return _simple(lambda value: value is None, hint)
    if hint is int:
        return _simple(lambda value: isinstance(value, int) and not isinstance(value, bool), hint)
    if hint is float:
        return _simple(lambda value: isinstance(value, int | float) and not isinstance(value, bool), hint)
    if origin is list or origin is tuple and inner[-1] is Ellipsis:
        return _sequence(hint, origin, lambda count: [_reader(inner[0])] * count)
    if origin is tuple:
        return _sequence(hint, tuple, lambda count: [_reader(each) for each in inner], len(inner), len(inner))
    if origin is dict:
        return _mapping(hint, *map(_reader, inner))
    if dataclasses.is_dataclass(hint):
        fields = {f.name: f.default is f.default_factory is dataclasses.MISSING for f in dataclasses.fields(hint)}
        return _record(hint, lambda content: hint(**content), {name for name, needed in fields.items() if needed}, closed=True)
    if typing.is_typeddict(hint):
        return _record(hint, dict, hint.__required_keys__, closed=False)
    if isinstance(hint, type) and issubclass(hint, tuple) and hasattr(hint, "_fields"):  # a NamedTuple
        readers = [_reader(each) for each in typing.get_type_hints(hint).values()]
        least = len(readers) - len(hint._field_defaults)
        return _sequence(hint, lambda values: hint(*values), lambda count: readers[:count], least, len(readers))
    return _simple(lambda value: isinstance(value, hint), hint)


def _simple(fits: Callable[[Any], bool], hint: Any) -> Callable[[Any], Any]:
    def read(value: Any) -> Any:
        if not fits(value):
            raise _Wrong(value, wanted(hint))
        return value

    return read


def _one_of(hint: Any, readers: list[Callable[[Any], Any]]) -> Callable[[Any], Any]:
    def read(value: Any) -> Any:
        deeper = None
        for reader in readers:
            try:
                return reader(value)
            except _Wrong as wrong:
                deeper = wrong if wrong.place else deeper  # a list of the right kind with a wrong value in it
        raise deeper or _Wrong(value, wanted(hint))

    return read


def _sequence(
    hint: Any, make: Callable, readers_for: Callable[[int], list], least: int = 0, most: float = float("inf")
) -> Callable[[Any], Any]:
    def read(value: Any) -> Any:
        if not isinstance(value, list | tuple) or not least <= len(value) <= most:
            raise _Wrong(value, wanted(hint))
        values = []
        try:
            for reader, item in zip(readers_for(len(value)), value):
                values.append(reader(item))
        except _Wrong as wrong:
            wrong.place.append(len(values))
            raise
        return make(values)

    return read


def _mapping(hint: Any, read_key: Callable[[Any], Any], read_item: Callable[[Any], Any]) -> Callable[[Any], Any]:
    def read(value: Any) -> Any:
        if not isinstance(value, dict):
            raise _Wrong(value, wanted(hint))
        content = {}
        for key, item in value.items():
            try:
                content[read_key(key)] = read_item(item)
            except _Wrong as wrong:
                wrong.place.append(key)
                raise
        return content

    return read


def _record(hint: type, make: Callable, needed: set[str], closed: bool) -> Callable[[Any], Any]:
    readers = {name: _reader(each) for name, each in typing.get_type_hints(hint).items()}

    def read(value: Any) -> Any:
        if not isinstance(value, dict):
            raise _Wrong(value, wanted(hint))
        if missing := sorted(needed - value.keys()):
            raise _Wrong(value, f"a dictionary that has {', '.join(map(repr, missing[:5]))}, too")
        if closed and (foreign := sorted(map(str, value.keys() - readers.keys()))):
            raise _Wrong(value, f"a dictionary without {', '.join(map(repr, foreign[:5]))}")
        content = {}
        for key, item in value.items():
            try:
                content[key] = readers[key](item) if key in readers else item
            except _Wrong as wrong:
                wrong.place.append(key)
                raise
        return make(content)

    return read


def wanted(hint: Any) -> str:
    """A type in words.

    >>> wanted(tuple[int, int] | None), wanted(dict[str, float])
    ('2 values (a whole number, a whole number) or nothing', 'a dictionary of texts with a number each')
    """
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, typing.Union):
        return " or ".join(map(wanted, inner))
    if origin is Literal:
        return "one of " + ", ".join(map(repr, inner))
    if origin is list or origin is tuple and inner[-1] is Ellipsis:
        return "a list"
    if origin is tuple:
        return f"{len(inner)} values ({', '.join(map(wanted, inner))})"
    if origin is dict:
        return f"a dictionary of texts with {wanted(inner[1])} each"
    if dataclasses.is_dataclass(hint) or typing.is_typeddict(hint):
        return f"a dictionary with {', '.join(typing.get_type_hints(hint))}"
    if isinstance(hint, type) and issubclass(hint, tuple) and hasattr(hint, "_fields"):
        return f"a list of {', '.join(hint._fields)}"
    names = {None: "nothing", type(None): "nothing", bool: "true or false", int: "a whole number", float: "a number",
             str: "a text", dict: "a dictionary", list: "a list", Any: "anything"}  # fmt: skip
    return names.get(hint, f"a {getattr(hint, '__name__', hint)}")
