"""One paper, one file: what each method adds to supervised training on the source. `base` has their interface.

METHODS has the classes by the names that the command line uses. They are found by looking into this folder: a method is added
or removed with its file.
"""

from typing import TYPE_CHECKING, Any

from course_lib.methods.base import Method
from course_lib.registry import find_named, modules_of

__all__ = ["METHODS", "find_method"]
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
    """The class of a method; ValueError, with the nearest names, for an unknown one.

    >>> find_method("source-only").__name__
    'SourceOnly'
    """
    find_named("method", name, METHODS)
    return METHODS[name]
