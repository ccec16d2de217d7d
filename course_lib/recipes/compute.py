"""How much a row of a table trains, counted in passes of the network: a method and its control have to have the same.

    cost of a step = 3 trained + frozen            forward pass 1, backward pass 2 (methods.base.Passes)
    compute of a row = sum of steps x cost over the stages that train

Not counted: a common start, which the rows share, and passes that write labels or prototypes or score.
"""

import json
import math
from functools import lru_cache

from course_lib.recipes.estimate import build_meta, step_key
from course_lib.recipes.plan import Stage
from course_lib.recipes.recipe import Recipe


def step_cost(recipe: Recipe) -> int:
    """Forward passes that one training step costs.

    >>> from course_lib.recipes import recipe
    >>> [step_cost(recipe("ministreet", method)) for method in ("source-only", "bn-control", "adaptsegnet", "proca")]
    [3, 4, 6, 6]
    """
    return recipe.loop.accumulate * _passes(step_key(recipe))


@lru_cache(maxsize=256)
def _passes(key: str) -> int:
    return build_meta(Recipe.from_dict(json.loads(key))).passes().cost


def compute(stages: list[Stage]) -> int:
    """Forward passes that a row's own training costs."""
    return sum(stage.recipe.loop.steps * step_cost(stage.recipe) for stage in stages if stage.kind == "train")


def equal_steps(passes: int, recipe: Recipe) -> int:
    """Steps of `recipe` that cost at least `passes`: those of a control.

    >>> from course_lib.recipes import recipe
    >>> equal_steps(300 * 6, recipe("ministreet", "source-only"))
    600
    """
    return math.ceil(passes / step_cost(recipe))
