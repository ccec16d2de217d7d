"""A recipe as a file: `uda recipe show PAIR METHOD > mine.toml`, edited, then `--recipe mine.toml`.

    [recipe]                  pair, method, and, where there are any, seed and terms
    [SECTION]                 settings, as --set SECTION.KEY has them
    [STAGE.SECTION]           of one stage of the method's plan
    [rows.NAME]               of a comparison: method (default: the file's), set = ["KEY=VALUE", ...], explanation

What a file says otherwise than `uda recipe show` is a change, and every change acts as a --set that comes before those of the
command: a key goes to every stage and row that has it, and tables of a stage come last. A file without changes is the recipe
itself.
"""

import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from course_lib.experiments.rows import method_row
from course_lib.experiments.show import stages_of
from course_lib.files import read_text
from course_lib.methods import load_method
from course_lib.methods.terms import load_term
from course_lib.networks import load_builder
from course_lib.outside import is_reference
from course_lib.recipes import Row, find_pair
from course_lib.recipes import recipe as find_recipe
from course_lib.recipes.recipe import GROUPS, PARTS, Recipe, parse, slots, split_assignment, unknown_key
from course_lib.registry import find_named
from course_lib.terminal import shown

BEGIN = "`uda recipe show PAIR METHOD` writes a file to begin with."
SECTIONS = (*GROUPS, *PARTS, "terms")


@dataclass(frozen=True)
class RecipeFile:
    """What a file says."""

    pair: str
    method: str
    changes: tuple[str, ...]  # "[STAGE.]SECTION.KEY=VALUE", against the built-in recipe
    rows: tuple[Row, ...]

    @property
    def own_changes(self) -> tuple[str, ...]:
        """The changes for `uda train METHOD`, which has no stages."""
        stages = stages_of(self.pair, self.method)
        return tuple(text for text in self.changes if text.partition(".")[0] not in stages)

    @property
    def recipe(self) -> Recipe:
        """The recipe of `uda train METHOD`."""
        return find_recipe(self.pair, self.method).override(*self.own_changes)


def is_file(recipe: str | None) -> bool:
    """Whether --recipe names a file.

    >>> is_file("mine.toml"), is_file("ministreet")
    (True, False)
    """
    return recipe is not None and recipe.endswith(".toml")


def read_recipe(path: Path | str) -> RecipeFile:
    """Read a recipe file. Code that it names (FILE.py:NAME) is imported, from the working folder or the file's.

    Raises:
        ValueError: naming the file, for one that is no TOML; for a table, a key, a pair or a method that is not known (with
            the nearest names), or a value that does not fit. OSError: as `open`.
    """
    path = Path(path).expanduser()
    text = read_text(path)
    try:
        content = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"{shown(path)} is no TOML: {error}. {BEGIN}") from None
    try:
        return _read(content, path.parent)
    except ValueError as error:
        raise ValueError(f"{shown(path)}: {error}") from error


def _read(content: dict[str, Any], near: Path) -> RecipeFile:
    head = _table(content.pop("recipe", None), "recipe", {"pair": str, "method": str, "seed": int, "terms": list})
    for key in ("pair", "method"):
        if key not in head:
            raise ValueError(f"The table [recipe] has no {key}. {BEGIN}")
    pair, method = find_pair(head["pair"]).name, load_method(head["method"], near)
    rows = _rows(content.pop("rows", {}), method, near)
    changes = [f"seed={head['seed']}"] if "seed" in head else []
    plain, stages = find_recipe(pair, method), stages_of(pair, method)
    terms = [load_term(term, near) for term in head.get("terms", plain.terms)]
    if terms != list(plain.terms):
        changes.append(f"terms={','.join(terms) or 'none'}")
    plain = plain.override(*changes)
    for name in content:
        find_named("table", name, (*SECTIONS, *stages, "recipe", "rows"))
        if not isinstance(content[name], dict):
            raise ValueError(f"{name} is {content[name]!r}; wanted a table [{name}] of settings.")
    base, changed = slots(plain), set()
    for full, value in _flat({name: content[name] for name in SECTIONS if name in content}, base, plain):
        if full == "network.network" and is_reference(str(value)):
            value = load_builder(value, near)
        if parse(full, text := _text(value), base[full].hint) != base[full].value:
            changes.append(f"{full}={text}")
            changed.add(full)
    for stage in (name for name in stages if name in content):
        there = slots(stages[stage])
        for full, value in _flat(content[stage], there, stages[stage]):
            if full in changed or parse(full, text := _text(value), there[full].hint) != there[full].value:
                changes.append(f"{stage}.{full}={_text(value)}")
    changes = [text for text in changes if text != f"seed={find_recipe(pair, method).seed}"]
    return RecipeFile(pair, method, tuple(changes), rows)


def _table(value: Any, name: str, keys: dict[str, type]) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"There is no table [{name}]. {BEGIN}")
    for key, given in value.items():
        find_named(f"key of [{name}]", key, keys)
        if not isinstance(given, keys[key]) or isinstance(given, bool):
            raise ValueError(f"{key} in [{name}] is {given!r}; wanted {keys[key].__name__}.")
    return value


def _rows(tables: Any, method: str, near: Path) -> tuple[Row, ...]:
    if not isinstance(tables, dict):
        raise ValueError("rows is no table; wanted [rows.NAME] with method and set.")
    found = []
    for name, table in tables.items():
        given = _table(table, f"rows.{name}", {"method": str, "set": list, "explanation": str})
        plain = method_row(load_method(given["method"], near) if "method" in given else method)
        settings = tuple(_loaded(str(setting), near) for setting in given.get("set", ()))
        about = given.get("explanation") or plain.explanation
        found.append(Row(name, plain.method, settings, explanation=about, plan=plain.plan))
    return tuple(found)


def _loaded(setting: str, near: Path) -> str:
    """A setting whose code, where it names some, was imported from the working folder or `near`."""
    key, value = split_assignment(setting)
    name = key.rpartition(".")[2]
    if name == "network" and is_reference(value):
        return f"{key}={load_builder(value, near)}"
    if name == "terms" and not value.startswith("-"):
        terms = [load_term(term, near) if is_reference(term) else term for term in map(str.strip, value.lstrip("+").split(","))]
        return f"{key}={'+' * value.startswith('+')}{','.join(terms)}"
    return setting


def _flat(tables: Any, names: dict[str, Any], recipe: Recipe, prefix: str = "") -> list[tuple[str, Any]]:
    """(full name, value) of nested tables; ValueError, with the nearest names, for a key that the recipe does not have."""
    found = []
    for key, value in tables.items() if isinstance(tables, dict) else ():
        full = prefix + key
        if full in names:
            found.append((full, value))
        elif isinstance(value, dict) and any(name.startswith(f"{full}.") for name in names):
            found += _flat(value, names, recipe, f"{full}.")
        else:
            raise ValueError(unknown_key(full, names, {recipe.method}))
    return found


def _text(value: Any) -> str:
    """A value of TOML as --set has it."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return value if isinstance(value, str) else repr(value)
