"""Which checkpoint of a run is its result."""

from typing import Any

import torch
from torch import nn
from torch.utils.data import Dataset, Subset

from course_lib.data import test_transform
from course_lib.evaluation import evaluate, information
from course_lib.experiments.parts import Pair, opened, own_part
from course_lib.recipes.recipe import Recipe


class Choice:
    """Keeps track of the checkpoint that is the result (`recipe.select`); candidates are those of every `save_every` steps.

    `best` is {"by", "step", "value"} of the chosen one, and goes into every checkpoint and score.
    """

    def __init__(self, recipe: Recipe, pair: Pair, segmenter: nn.Module, device: torch.device) -> None:
        self.recipe, self.segmenter, self.device = recipe, segmenter, device
        self.best: dict[str, Any] = {"by": recipe.select, "step": 0, "value": None}
        self.pictures = selection_pictures(recipe, pair, segmenter.normalisation)

    def look(self, step: int) -> bool:
        """Whether the network is the best candidate so far."""
        loop = self.recipe.loop
        if step % loop.save_every and step != loop.steps:
            return False  # saved on a request to stop: a run without one has no such candidate
        value = self.value(step)
        if self.best["value"] is not None and value is not None and value <= self.best["value"]:
            return False
        self.best = {"by": self.recipe.select, "step": step, "value": value}
        return True

    def value(self, step: int) -> float | None:
        """The criterion at this moment, the higher the better; None where there is nothing to compare."""
        if self.pictures is None:
            return step if self.recipe.select == "last" else None
        loader = own_part(self.pictures, workers=self.recipe.workers)
        if self.recipe.select == "information":
            return information(self.segmenter, loader, device=self.device)
        return evaluate(self.segmenter, loader, self.recipe.space, device=self.device, progress=False).miou


def selection_pictures(recipe: Recipe, pair: Pair, normalisation: str) -> Dataset | None:
    """The pictures that candidates are compared on; None where there is nothing to compare."""
    if recipe.loop.save_every >= recipe.loop.steps or recipe.select == "last":
        return None
    labelled = recipe.select == "target-labels"
    text = pair.validation if labelled else pair.target
    if text is None and labelled:
        raise ValueError("select='target-labels' scores every candidate on labelled target pictures; give --validation.")
    if text is None:
        raise ValueError("select='information' looks at target predictions; there are none. Choose select=last.")
    transform = test_transform(recipe.test_size, normalisation)
    pictures = opened(recipe, text, "val" if labelled else "train", transform, labelled, pair.skip_bad)
    if labelled:
        return pictures.require_labels("select=target-labels")
    count = min(recipe.select_pictures, len(pictures))
    return Subset(pictures, [k * len(pictures) // count for k in range(count)] if recipe.select_spread else range(count))
