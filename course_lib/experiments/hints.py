"""What to type next, made of what is there: each command works as it is printed, names in capitals replaced."""

import dataclasses
import shlex
from contextlib import suppress
from pathlib import Path
from typing import Any

from course_lib.data import open_dataset
from course_lib.experiments.parts import Pair, split_of
from course_lib.methods import METHODS, find_method
from course_lib.outside import LOADED
from course_lib.recipes import PAIRS
from course_lib.recipes import recipe as find_recipe
from course_lib.recipes.recipe import Recipe


def scoring_hint(checkpoint: Path | str, recipe: Recipe, pair: Pair) -> str:
    """How to score a network: on the validation pictures or the target's split val, where these have labels."""
    if alone := _in_python(checkpoint, recipe):
        return alone
    for text in (pair.validation, f"{split_of(pair.target, 'train')[0]}@val"):
        with suppress(OSError, ValueError):
            name, split = split_of(text, "val") if text is not None else ("", "")
            open_dataset(name, split, recipe.space, bits=recipe.bits).require_labels("Scoring")
            given = ("--data", name, "--split", split, *_statistics(recipe, pair), *_sets(_outside(recipe)))
            return "Score it: " + _command("evaluate", checkpoint, *given)
    return (
        "Score it on labelled target pictures: "
        + _command("evaluate", checkpoint, "--data", "LAYOUT:PATH", "--split", "SPLIT", *_statistics(recipe, pair),
                   *_sets(_outside(recipe)))
    )  # fmt: skip


def features_hints(checkpoint: Path | str, recipe: Recipe) -> list[str]:
    """How to score a network without a trained classifier by its features, and how to start a segmenter from it."""
    if alone := _in_python(checkpoint, recipe):
        return [alone]
    start = _command("train", "source-only", "--source", "LAYOUT:PATH", "--target", "LAYOUT:PATH", "--out", "RUN",
                     *_network(recipe, "source-only"), "--set", f"init_from={checkpoint}")  # fmt: skip
    score = _command("evaluate", checkpoint, "--probe", "FOLDER", *_sets(_outside(recipe)))
    return [f"Score it by FOLDER/train/CLASS/ and FOLDER/test/CLASS/: {score}", f"Start a segmenter from it: {start}"]


def labels_hint(checkpoint: Path | str, recipe: Recipe, target: str, labels: Path | str) -> str:
    """How to learn from pseudo-labels, by a method that reads them and nothing else of an earlier stage."""
    if alone := _in_python(checkpoint, recipe):
        return alone
    method = learners()[0]
    return "Learn from them: " + _command(
        "train", method, "--source", "LAYOUT:PATH", "--target", target, "--out", "RUN", "--start", checkpoint,
        "--pseudo-labels", labels, *_network(recipe, method),
    )  # fmt: skip


def learners() -> list[str]:
    """The methods that learn from label files by their default settings, those with the fewest constants first."""
    having = [name for name, method in METHODS.items()
              if any(stream.labels == "files" for stream in method.streams(method.Settings()).values())]  # fmt: skip
    return sorted(having, key=lambda name: len(dataclasses.fields(METHODS[name].Settings)))


def _in_python(checkpoint: Path | str, recipe: Recipe) -> str | None:
    """What to do with a network that no command can import, a function of a script or a notebook; None: of any other."""
    code = LOADED.get(("network", recipe.network))
    if code is None or code.text is not None:
        return None
    return (
        f"No command can import the network {code.name}: it was defined in a script or a notebook. Use it in Python, "
        f"course_lib.networks.load_builder({code.object.__name__}), then "
        f"course_lib.experiments.train.load_network({str(checkpoint)!r}); or put it into a file and train again with "
        f"network=FILE.py:{code.object.__name__}."
    )


def _outside(recipe: Recipe) -> dict[str, str]:
    """The setting that names a network from outside, which no checkpoint imports by itself."""
    return {"network": code.text} if (code := LOADED.get(("network", recipe.network))) else {}


def _statistics(recipe: Recipe, pair: Pair) -> list[str]:
    return ["--target", pair.target] if recipe.statistics == "target" and pair.target is not None else []


def _network(recipe: Recipe, method: str) -> list[str]:
    """The options that choose this recipe's network and classes for another method."""
    name = recipe.name if recipe.name in PAIRS and find_method(recipe.method).segments else "ministreet"
    plain, keys = find_recipe(name, method), ("network", "network_options", "space")
    values = {key: getattr(recipe, key) for key in keys} | _outside(recipe)
    return ["--recipe", name, *_sets({key: value for key, value in values.items() if value != getattr(plain, key)})]


def _sets(settings: dict[str, Any]) -> list[str]:
    return [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]


def _command(*words: object) -> str:
    return shlex.join(["uda", *map(str, words)])
