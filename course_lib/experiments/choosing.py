"""The stage `choose` of a plan: of several trained networks the one that is better on held-out labelled pictures stays.

The pictures are a part of the labelled ones that no stage of the plan learns from (`parts.hold_out`). Nothing here opens the
pictures that the plan is scored on. They are few, often 2 or 4, and do not show every class: a network that predicts a rare
class once, where none is, would have IoU 0 for it, and one that never predicts it would not. So all networks are compared over
the same classes, those that the held-out labels show.
"""

import math
from pathlib import Path
from typing import Any, TypedDict

import torch

from course_lib import ranks
from course_lib.engine.checkpoint import second_name
from course_lib.evaluation import Scores
from course_lib.experiments.parts import Pair, opened
from course_lib.experiments.state import fingerprint
from course_lib.experiments.train import score_network
from course_lib.files import digest, read_json, write_json
from course_lib.recipes import Stage

CHOICE = "choice.json"  # in the folder of a stage that chooses


class ChoiceContent(TypedDict):
    """The content of choice.json, which such a stage writes beside best.pt."""

    key: dict[str, Any]
    chosen: str
    scores: dict[str, float]  # mean IoU of the classes that the held-out labels show, by stage


def read_choice(folder: Path) -> dict[str, Any]:
    """Which branch was chosen, and the scores of all; ValueError that names a file of other types."""
    return read_json(folder / CHOICE, ChoiceContent)


def over_shown_classes(scores: Scores) -> float:
    """The mean IoU of the classes that the labels show, whichever others are predicted; a fraction.

    >>> seen = {"classes": ("road", "car", "bus"), "iou": (0.9, 0.5, 0.0), "shares": (0.8, 0.2, 0.0)}
    >>> over_shown_classes(Scores(**seen, miou=1.4 / 3, miou_common=0.7, subsets={}, accuracy=0.9, mean_accuracy=0.8,
    ...                           images=2, seconds=0.1))
    0.7
    """
    shown = [iou for iou, share in zip(scores.iou, scores.shares) if share > 0]
    return math.fsum(shown) / len(shown)


def choose(
    stage: Stage, branches: dict[str, str], held: str, pair: Pair, folder: Path, *, device: torch.device, quiet: bool
) -> dict[str, Any]:
    """Let `folder/best.pt` be the best of `branches`, checkpoints by stage; of equal ones the first. Returns choice.json.

    held: the text of the pictures that they are scored on. A choice among other networks, on other pictures or by another score
    is made again.
    """
    pictures = opened(stage.recipe, held, "train", skip_bad=pair.skip_bad).require_labels("Choosing")
    key = {
        "score": "shown classes",
        "pictures": fingerprint(pictures),
        "networks": {name: digest(Path(path)) for name, path in branches.items()},
    }
    if ranks.agree((folder / CHOICE).is_file() and (folder / "best.pt").is_file()):
        if (found := read_choice(folder))["key"] == key:
            return found
    scores = {
        name: over_shown_classes(
            score_network(path, held, target=pair.target, statistics=stage.recipe.statistics,
                          skip_bad=pair.skip_bad, workers=stage.recipe.workers, device=device, quiet=quiet))
        for name, path in branches.items()
    }  # fmt: skip
    chosen = max(scores, key=scores.get)  # of equal ones the first
    content = {"key": key, "chosen": chosen, "scores": scores}
    if ranks.is_main():
        folder.mkdir(parents=True, exist_ok=True)
        second_name(Path(branches[chosen]), folder / "best.pt")
        write_json(folder / CHOICE, content, "uda run")
    ranks.barrier()
    return content
