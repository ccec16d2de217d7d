"""The library's docstrings, changed as mkdocstrings reads them (griffe): see docstrings.py."""

import sys
from pathlib import Path

from griffe import Alias, Attribute, Docstring, Extension, Function

sys.path.insert(0, str(Path(__file__).parent))
from content import PACKAGE  # noqa: E402
from docstrings import comments, escaped, markdown  # noqa: E402

LONGEST = 120  # characters: a longer value is left to the source


def overridden(function: Function) -> str | None:
    """Full name of the library's method that this one overrides."""
    for base in function.parent.mro():
        found = base.members.get(function.name)
        if found is not None and found.docstring and base.path.startswith(f"{PACKAGE}."):
            return found.path
    return None


class PlainDocstrings(Extension):
    """Changes the docstrings of the whole package once it is loaded."""

    def on_package(self, *, pkg, loader, **kwargs) -> None:
        self.change(pkg)

    def change(self, thing) -> None:
        if isinstance(thing, Attribute) and len(str(thing.value or "")) > LONGEST:
            thing.value = None
        for name, member in list(thing.members.items()):
            if isinstance(member, Alias):
                continue
            self.change(member)
            if isinstance(member, Attribute) and not member.docstring and member.labels == {"instance-attribute"}:
                del thing.members[name]  # set in __init__, without a word about it: not for others
        if thing.docstring:
            thing.docstring.value = markdown(thing.docstring.value)
        elif isinstance(thing, Attribute) and thing.endlineno and (text := comments(thing.filepath).get(thing.endlineno)):
            thing.docstring = Docstring(escaped(text), parent=thing)
        elif isinstance(thing, Function) and thing.parent.is_class and (base := overridden(thing)):
            owner, _, name = base.rpartition(".")
            thing.docstring = Docstring(f"As [`{owner.rpartition('.')[2]}.{name}`][{base}] describes it.", parent=thing)
