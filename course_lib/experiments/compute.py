"""How much a row of a table trains, counted in passes of the network: a method and its control have to have the same.

    cost of a step = 3 trained + frozen + encoded  forward pass 1, backward pass 2 (methods.step.Passes)
                     a network of two resolutions sees less of a picture in training, and more of it elsewhere (networks.Cost)
    compute of a row = sum of steps x cost x load over the stages that train
    load = pictures in a batch x pixels of one, in those of another training; 1 where they are the same

Not counted: a common start, which the rows share, and passes that write labels or prototypes or score.
"""

import json
import math
from bisect import bisect_left, bisect_right
from fractions import Fraction
from functools import lru_cache, partial

import torch
from torch import nn

from course_lib.labels import label_space
from course_lib.methods import Method
from course_lib.networks import Cost, blank_options, build
from course_lib.outside import short
from course_lib.recipes import Stage
from course_lib.recipes.recipe import Recipe, build_method


def blank_segmenter(recipe: Recipe) -> nn.Module:
    """The recipe's network with random weights: nothing is downloaded."""
    options = blank_options(recipe.network, recipe.network_options)
    return build(recipe.network, label_space(recipe.space).num_classes, **options)


def build_meta(recipe: Recipe) -> Method:
    """The recipe's method on the meta device: shapes without numbers."""
    with torch.device("meta"):
        return build_method(recipe, blank_segmenter(recipe))


def step_key(recipe: Recipe) -> str:
    """What a step's cost depends on; steps and rates are not among it."""
    content = recipe.to_dict()
    content["optimiser"]["lr"], content["loop"]["steps"], content["loop"]["schedule_steps"] = 1.0, 1, None
    return json.dumps(content)


def step_cost(recipe: Recipe) -> float:
    """Forward passes that one training step costs.

    >>> from course_lib.recipes import recipe
    >>> {method: step_cost(recipe("ministreet", method)) for method in ("source-only", "target-only", "bn-control")}
    {'source-only': 3, 'target-only': 3, 'bn-control': 4}
    """
    return recipe.loop.accumulate * _costs(step_key(recipe))[""]


@lru_cache(maxsize=256)
def _costs(key: str) -> dict[str, float]:
    """Of one batch of each stream: "" the method's own, and by name those of its terms."""
    method = build_meta(Recipe.from_dict(json.loads(key)))
    network = getattr(method.segmenter, "cost", Cost())
    costs = {"": method.passes().cost(network)} | {name: term.passes().cost(network) for name, term in method.terms.items()}
    return {name: int(cost) if cost == int(cost) else cost for name, cost in costs.items()}


def training_cost(recipe: Recipe, steps: int | None = None) -> float:
    """Forward passes of a whole training, or one of so many steps; a term counts from its first step on."""
    costs, steps = _costs(step_key(recipe)), recipe.loop.steps if steps is None else steps
    terms = sum(costs[short(name)] * max(0, steps - settings.first_step) for name, settings in recipe.terms.items())
    return recipe.loop.accumulate * (steps * costs[""] + terms)


def load(recipe: Recipe, unit: Recipe) -> Fraction:
    """Pixels of a batch, in those of the batches of `unit`: source pictures, as they are cropped or else resized. Of pictures
    that keep the size of their files the batches alone are compared.

    >>> from course_lib.recipes import recipe
    >>> load(recipe("gta5_cityscapes", "daformer"), recipe("gta5_cityscapes", "source-only"))  # 2 of 512x512, 1 of 1280x720
    Fraction(128, 225)
    """
    ours, theirs = (each.crop or each.source_size for each in (recipe, unit))
    area = Fraction(math.prod(ours), math.prod(theirs)) if ours and theirs else 1
    return Fraction(recipe.batch_size, unit.batch_size) * area


def compute(stages: list[Stage], unit: Recipe | None = None) -> Fraction:
    """Forward passes that a row's own training costs, of batches as `unit` has them (None: as each stage has them)."""
    passes = Fraction(0)
    for recipe in (stage.recipe for stage in stages if stage.kind == "train"):
        passes += Fraction(training_cost(recipe)) * (1 if unit is None else load(recipe, unit))
    return passes


def equal_steps(passes: float | Fraction, recipe: Recipe, at_most: bool = False) -> int:
    """Steps of `recipe` that cost at least `passes`, those of a control; or at most so many, at least one step.

    >>> from course_lib.recipes import recipe
    >>> equal_steps(300 * 6, recipe("ministreet", "source-only"))
    600
    >>> [equal_steps(720, recipe("ministreet", "dacs"), at_most) for at_most in (False, True)]  # of 7 passes each
    [103, 102]
    """
    candidates = range(math.ceil(passes / step_cost(recipe)) + 1)  # terms add to the cost of a step
    cost = partial(training_cost, recipe)
    return max(1, bisect_right(candidates, passes, key=cost) - 1) if at_most else bisect_left(candidates, passes, key=cost)
