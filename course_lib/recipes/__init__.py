"""The numbers: what a pair of domains fixes (`pairs/`), what a paper publishes (`papers/`), and the recipe that both make.

`recipe("gta5_cityscapes", METHOD)` gives the constants; `course_lib.experiments` runs them.
"""

from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from typing import Any

from course_lib.methods import METHODS, Method, find_method, load_method
from course_lib.methods.terms import find_term, load_term
from course_lib.networks import load_builder
from course_lib.recipes.pairs import PAIRS, find_pair
from course_lib.recipes.paper import Layer, Paper, Row, Stage
from course_lib.recipes.papers import PAPERS, own_paper, paper_of
from course_lib.recipes.recipe import Recipe, find_key, slots, split_assignment, unknown_key, with_terms
from course_lib.registry import find_named


def recipe(pair: str, method: str | type[Method], origins: dict[str, str] | None = None) -> Recipe:
    """The recipe of `method` for a pair of domains; unknown names are a ValueError that lists what there is.

    method: as in `methods.load_method`: a name, "FILE.py:CLASS", "MODULE:CLASS", an entry point, or a class.
    origins: takes the name of the layer that each setting comes from, by full name; those that are left out: a default.

    >>> recipe("gta5_cityscapes", "source-only").loop.steps
    150000
    """
    find_pair(pair)
    method = load_method(method)
    paper = paper_of(method)
    stage = paper.stage_of[method] if paper is not None else method
    return layered(layers(pair, paper), {stage: method}, pair, {} if origins is None else {stage: origins})[stage]


def layers(pair: str, paper: Paper | None) -> dict[str, Layer]:
    """The layers of a pair and a paper by name, the lowest first."""
    settings = find_pair(pair)
    found = {f"pair {pair}": {"*": settings.values}}
    if paper is not None:
        found[f"{paper.name}, {settings.scale}"] = paper.published if settings.scale == "published" else paper.small
        found[f"{paper.name} on {pair}"] = paper.pairs.get(pair, {})
    return found


def layered(
    named: Mapping[str, Layer], stages: Mapping[str, str], pair: str, origins: dict[str, dict[str, str]] | None = None
) -> dict[str, Recipe]:
    """The recipes of `stages` {stage: method}, made of layers; `origins[stage]` takes the name of each key's layer.

    A key goes to every stage that knows it; ValueError where none does.
    """
    recipes = {stage: Recipe(pair, method, terms=_own_terms(method)) for stage, method in stages.items()}
    for name, layer in named.items():
        for place in ("*", *(stage for stage in layer if stage != "*" and stage in stages)):
            for key, value in layer.get(place, {}).items():
                for stage in _knowing(key, recipes if place == "*" else {place: recipes[place]}, strict=place != "*"):
                    if origins is not None:
                        origins.setdefault(stage, {})[find_key(key, slots(recipes[stage]))] = name
                    recipes[stage] = recipes[stage].replaced(key, value)
    return recipes


def _own_terms(method: str) -> dict[str, Any]:
    return {name: find_term(name).Settings() for name in find_method(method).own_terms}


def overridden(recipes: Mapping[str, Recipe], assignments: Iterable[str], strict: bool = True) -> dict[str, Recipe]:
    """The recipes of stages with "[STAGE.][SECTION.]KEY=value" texts applied: a key without a stage goes to each that knows it.

    Terms go to the stages that have the predictions which they read. Raises ValueError for a key that none knows, and for a
    term that fits none; strict=False: it is left out.
    """
    recipes = dict(recipes)
    for assignment in assignments:
        key, text = split_assignment(assignment)
        stage, _, rest = key.partition(".")
        some = recipes
        if rest and stage in recipes:
            some, key = {stage: recipes[stage]}, rest
        elif rest and strict and not any(recipe.has(key) for recipe in recipes.values()) and get_close_matches(stage, recipes):
            find_named("stage", stage, recipes)
        if key == "terms":
            recipes |= with_terms(some, text, strict)
            continue
        for name in _knowing(key, some, strict):
            recipes[name] = recipes[name].replaced(key, text, parsed=False)
    return recipes


def _knowing(key: str, recipes: Mapping[str, Recipe], strict: bool = True) -> list[str]:
    """The stages that know `key`."""
    if not (found := [stage for stage, recipe in recipes.items() if recipe.has(key)]) and strict:
        names = [name for recipe in recipes.values() for name in slots(recipe)]
        raise ValueError(unknown_key(key, names, {recipe.method for recipe in recipes.values()}))
    return found


def layer_names(pair: str, method: str) -> dict[str, dict[str, str]]:
    """Which layer each setting of the stages of a method's plan comes from, {stage: {full name: layer}}."""
    found: dict[str, dict[str, str]] = {}
    if (paper := own_paper(method)) is not None:
        layered(layers(pair, paper), paper.stages, pair, found)
    return found


def load_code(code: Iterable[tuple[str, str]]) -> None:
    """Load what another process has loaded (`outside.loaded`)."""
    functions = {"method": load_method, "term": load_term, "network": load_builder}
    for kind, text in code:
        functions[kind](text)


__all__ = ["METHODS", "PAIRS", "PAPERS", "Paper", "Recipe", "Row", "Stage", "find_method", "find_pair", "layer_names",
           "layered", "layers", "load_builder", "load_code", "load_method", "load_term", "overridden", "own_paper", "paper_of",
           "recipe"]  # fmt: skip
