"""The curve of predicted over true area of each class, over the stages of a plan: which classes a self-training inflates."""

from pathlib import Path

import torch

from course_lib.data import test_transform
from course_lib.evaluation import area_ratios
from course_lib.experiments.parts import opened, own_part
from course_lib.experiments.plan import folder_of
from course_lib.experiments.state import load_network
from course_lib.recipes import Stage

TRAINED = ("start", "train", "choose")  # stages that leave a network


def networks_of(stages: list[Stage]) -> list[str]:
    """The stages whose network a later stage begins with or scores, in their order: not the branches that were left."""
    return [stage.name for stage in stages if stage.kind in TRAINED and any(stage.name == other.network for other in stages)]


def area_curve(
    stages: list[Stage], out: Path | str, text: str, *, skip_bad: bool = False, device: torch.device | str = "cpu",
    quiet: bool = False,
) -> dict[str, list[float]]:  # fmt: skip
    """{stage: predicted over true area of each class} of the networks of `networks_of`, of a plan in OUT (`area_ratios`).

    text: labelled pictures, "layout:path@split" (split: val); those of the test, to look at the stages afterwards, or others.
    """
    found = {}
    for name in networks_of(stages):
        segmenter, recipe = load_network(folder_of(stages, name, out) / "best.pt", device)
        pictures = opened(recipe, text, "val", test_transform(recipe.test_size, segmenter.normalisation), skip_bad=skip_bad)
        loader = own_part(pictures.require_labels("Measuring areas"), workers=recipe.workers)
        C = pictures.space.num_classes
        found[name] = area_ratios(segmenter, loader, C, device=device, progress=not quiet).tolist()
    return found
