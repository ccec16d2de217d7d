"""Every number with its source, and the stages that turn a recipe into a scored network.

`recipe("gta5_cityscapes", "adaptsegnet")` gives the constants; `train_recipe` runs them; `compare` runs several methods on
several seeds and writes one table.
"""

import dataclasses
import difflib
from importlib import import_module

from course_lib.recipes.recipe import Recipe

RECIPES = ("ministreet", "gta5_cityscapes", "synthia_cityscapes", "camvid_dusk", "ministreet_camvid", "ministreet_crops")
PAPERS = ("proca", "bida", "adaptsegnet")  # what recipes.plan runs from the first stage to the scores
METHODS = ("source-only", "target-only", "bn-control", "adaptsegnet", "proca", "self-training", "bida", "simclr")


def recipe(name: str, method: str = "adaptsegnet") -> Recipe:
    """The recipe `name` for `method`; unknown names are a ValueError that lists what there is.

    >>> recipe("gta5_cityscapes", "adaptsegnet").loop.steps
    150000
    """
    find_named("recipe", name, RECIPES)
    find_named("method", method, METHODS)
    chosen = import_module(f"course_lib.recipes.{name}").recipe(method)
    # simclr has no target whose predictions could choose a checkpoint
    return dataclasses.replace(chosen, select="last") if method == "simclr" else chosen


def find_named(kind: str, value: str, known: tuple[str, ...]) -> None:
    """Raise ValueError, with the nearest names, where `value` is not one of `known`."""
    if value not in known:
        near = difflib.get_close_matches(value, known, n=2)
        hint = f" Did you mean {' or '.join(near)}?" if near else ""
        raise ValueError(f"There is no {kind} {value!r}.{hint} There are: {', '.join(known)}.")


__all__ = ["METHODS", "PAPERS", "RECIPES", "Recipe", "find_named", "recipe"]
