"""Recipes as text: every constant with the layer that it comes from."""

from typing import Any

from course_lib.methods import METHODS
from course_lib.methods.terms import TERMS
from course_lib.recipes import PAIRS, paper_of
from course_lib.recipes import recipe as find_recipe
from course_lib.recipes.recipe import SIZES, find_key, slots, split_assignment


def recipe_text(pair: str, method: str, overrides: tuple[str, ...] = ()) -> str:
    """A recipe as TOML: one table per section, each value with its layer as a comment.

    >>> print(recipe_text("ministreet", "source-only", ("steps=20",)).splitlines()[0])
    # source-only on ministreet
    """
    found: dict[str, str] = {}
    recipe = find_recipe(pair, method, found).override(*overrides)
    for assignment in overrides:
        key = split_assignment(assignment)[0]
        if key != "terms":
            found[find_key(key, slots(recipe))] = f"--set {assignment}"
    sections: dict[str, list[str]] = {}
    for full, slot in slots(recipe).items():
        section, _, key = full.rpartition(".")
        value = _toml(slot.value, key in SIZES)
        sections.setdefault(section, []).append(f"{key} = {value}  # {found.get(full, 'default')}")
    lines = [f"# {method} on {pair}", "[recipe]", f'pair = "{pair}"', f'method = "{method}"', *sections.pop("")]
    return "\n".join([*lines, *(line for name, rows in sections.items() for line in ("", f"[{name}]", *rows))])


def _toml(value: Any, size: bool = False) -> str:
    """A value as TOML has it; a size as "WIDTHxHEIGHT", None as "none", as --set writes them."""
    if value is None:
        return '"none"'
    if size:
        return f'"{value[1]}x{value[0]}"'
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key} = {_toml(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_toml, value)) + "]"
    return f'"{value}"' if isinstance(value, str) else repr(value)


def listing() -> str:
    """The pairs, methods and terms that commands take by name, as Markdown."""
    lines = ["| pair | scale | source |", "|---|---|---|"]
    lines += [f"| {name} | {pair.scale} | {pair.source} |" for name, pair in PAIRS.items()]
    lines += ["", "| method | what it does | from |", "|---|---|---|"]
    for name, method in METHODS.items():
        paper = paper_of(name)
        lines.append(f"| {name} | {method.__doc__.partition('.')[0]} | {paper.reference if paper else 'a control'} |")
    if TERMS:
        lines += ["", "| term | what it adds |", "|---|---|"]
        lines += [f"| {name} | {term.__doc__.partition('.')[0]} |" for name, term in TERMS.items()]
    return "\n".join(lines)
