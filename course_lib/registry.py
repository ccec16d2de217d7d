"""What a folder of the package holds, found by looking into it: nothing that is added or removed has to be listed elsewhere."""

import difflib
import pkgutil
from collections.abc import Iterable
from importlib import import_module
from types import ModuleType


def modules_of(package: str, path: Iterable[str]) -> list[ModuleType]:
    """The modules in the folder of `package` (its `__path__`), imported, in the order of their names; folders are left out."""
    found = sorted(info.name for info in pkgutil.iter_modules(path) if not info.ispkg)
    return [import_module(f"{package}.{name}") for name in found]


def find_named(kind: str, value: str, known: Iterable[str]) -> None:
    """Raise ValueError, with the nearest names, where `value` is not one of `known`.

    >>> find_named("colour", "gren", ("red", "green"))
    Traceback (most recent call last):
    ValueError: There is no colour 'gren'. Did you mean green? There are: red, green.
    """
    known = tuple(known)
    if value not in known:
        near = difflib.get_close_matches(str(value), known, n=2)
        hint = f" Did you mean {' or '.join(near)}?" if near else ""
        raise ValueError(f"There is no {kind} {value!r}.{hint} There are: {', '.join(known)}.")
