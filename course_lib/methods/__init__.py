"""One paper, one file: what each method adds to supervised training on the source. `base` has their interface.

METHODS has the classes by the names that the command line uses. They are found by looking into this folder: a method is added
or removed with its file. `load_method` adds one from outside.
"""

from dataclasses import is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from course_lib import outside
from course_lib.methods.base import Method
from course_lib.registry import find_named, modules_of

__all__ = ["METHODS", "Method", "find_method", "load_method"]
METHODS: dict[str, type[Method]] = {}

for _module in modules_of(__name__, __path__):
    for _name, _class in vars(_module).items():  # classes defined there: methods, their settings, optimisers
        if isinstance(_class, type) and _class.__module__ == _module.__name__ and not _name.startswith("_"):
            globals()[_name] = _class
            __all__.append(_name)
            if issubclass(_class, Method) and vars(_class).get("name"):
                METHODS[_class.name] = _class


if TYPE_CHECKING:

    def __getattr__(name: str) -> Any: ...  # the classes above, of which a type-checker sees nothing


def find_method(name: str) -> type[Method]:
    """The class of a method; ValueError, with the nearest names, for an unknown one. Imports nothing.

    >>> find_method("source-only").__name__
    'SourceOnly'
    """
    if name not in METHODS and outside.is_reference(str(name)):
        raise ValueError(outside.not_loaded(name, "method"))
    find_named("method", name, METHODS)
    return METHODS[name]


def load_method(method: str | type[Method], near: Path | None = None) -> str:
    """The name by which recipes know a method, which is imported where it comes from outside this library.

    method: a name of METHODS, "FILE.py:CLASS", "MODULE:CLASS", the name of an entry point of the group course_lib.methods, or
    a class. near: see `outside.load`, which says what is raised.

    >>> load_method("source-only")
    'source-only'
    """
    if isinstance(method, str) and not outside.is_reference(method):
        if method in METHODS and ("method", method) not in outside.LOADED:
            return method
        known = (*METHODS, *(name for name in outside.entry_point_names("method") if name not in METHODS))
        find_named("method", method, known)
    code = outside.load(method, "method", Method, near)
    settings = code.object.Settings
    if not is_dataclass(settings) or not settings.__dataclass_params__.frozen:
        raise ValueError(f"The Settings of {code.name} are {settings!r}; wanted a frozen dataclass: @dataclass(frozen=True).")
    METHODS[code.name] = code.object
    return code.name
