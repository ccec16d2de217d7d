"""Recipes as text: every constant with the layer that it comes from."""

from typing import Any

from course_lib.experiments.plan import stage_recipes
from course_lib.methods import METHODS, find_method
from course_lib.methods.terms import TERMS
from course_lib.recipes import PAIRS, layer_names, own_paper, paper_of
from course_lib.recipes import recipe as find_recipe
from course_lib.recipes.recipe import SIZES, Recipe, find_key, slots, split_assignment


def recipe_text(pair: str, method: str, overrides: tuple[str, ...] = ()) -> str:
    """A recipe as a recipe file (`recipe_file`): one table per section, each value with its layer as a comment, then what the
    stages of its plan have otherwise.

    >>> print(recipe_text("ministreet", "source-only", ("steps=20",)).splitlines()[0])
    # source-only on ministreet
    """
    found: dict[str, str] = {}
    recipe = find_recipe(pair, method, found).override(*overrides)
    for assignment in overrides:
        key = split_assignment(assignment)[0]
        if key != "terms":
            found[find_key(key, slots(recipe))] = f"--set {assignment}"
    base = slots(recipe)
    lines = [f"# {method} on {pair}", "[recipe]", f'pair = "{pair}"', f'method = "{method}"']
    own = find_method(method).own_terms
    if recipe.terms or own:
        lines += [f"terms = {_toml(list(recipe.terms))}  # {'of the method' if tuple(recipe.terms) == own else '--set terms'}"]
    lines += _tables({full: slot.value for full, slot in base.items()}, found)
    for stage, other in stages_of(pair, method, overrides).items():
        changed = {
            full: slot.value for full, slot in slots(other).items() if full not in base or slot.value != base[full].value
        }
        named = layer_names(pair, method).get(stage, {})
        lines += _tables({f"{stage}.{full}": value for full, value in changed.items()},
                         {f"{stage}.{full}": layer for full, layer in named.items()})  # fmt: skip
    return "\n".join(lines)


def _tables(values: dict[str, Any], layers: dict[str, str]) -> list[str]:
    """Values by full name as TOML's lines, those of one section together."""
    sections: dict[str, list[str]] = {}
    for full, value in values.items():
        section, _, key = full.rpartition(".")
        sections.setdefault(section, []).append(f"{key} = {_toml(value, key in SIZES)}  # {layers.get(full, 'default')}")
    return [line for name, rows in sections.items() for line in ([] if not name else ["", f"[{name}]"]) + rows]


def stages_of(pair: str, method: str, overrides: tuple[str, ...] = ()) -> dict[str, Recipe]:
    """The settings of the stages of a method's plan, where it has one for this pair."""
    paper = own_paper(method)
    if paper is None or len(paper.stages) < 2:
        return {}
    try:
        return stage_recipes(pair, method, overrides)
    except ValueError:  # the paper has no stages for this pair
        return {}


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
