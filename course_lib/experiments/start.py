"""The source-only start that all methods of a recipe share: trained once, kept in the cache folder."""

import dataclasses
import hashlib
import json
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from course_lib import __version__, ranks
from course_lib.data import SegmentationDataset, cache_that_is_needed
from course_lib.data.reading import READING
from course_lib.engine import CheckpointError, Precision, RunFolder, load_checkpoint, save_checkpoint, train
from course_lib.engine.precision import to_device
from course_lib.experiments.parts import Pair, batches, seeded_segmenter, training_set
from course_lib.experiments.shipped import shipped_start
from course_lib.experiments.state import code_of, restore, training_state
from course_lib.recipes.recipe import Recipe, build_method


def common_start(
    recipe: Recipe,
    pair: Pair,
    *,
    stop: Callable[[], bool] | None = None,
    device: torch.device | str = "cpu",
    quiet: bool = False,
) -> dict[str, Any] | None:
    """The weights after `start_steps` source-only steps, the same for every method; trained once, then read from the cache.
    With `start_from` they are those that the library ships.

    The key holds the recipe's settings that decide the result, the names, sizes and times of the pictures and of their labels,
    and the versions of torch and of this library. Developing the library itself, empty the folder `starts` of the cache.
    Stopped on the way (`stop()` is true), it raises Stopped and goes on from there the next time.
    """
    if not recipe.has_start:
        return None
    if recipe.start_from is not None:
        return shipped_start(recipe)
    first = start_recipe(recipe)
    segmenter = seeded_segmenter(first)
    pictures = training_set(first, pair.source, "source", segmenter.normalisation, pair.skip_bad)
    name = f"{_fingerprint(first, pictures)}.pt"
    with cache_that_is_needed() as folder:
        path = folder / "starts" / name
        weights = ranks.agree(_read_start(path) if ranks.is_main() else None)
    if weights is None:
        method = to_device(build_method(first, segmenter), torch.device(device), first.loop.channels_last)
        precision, half_way = Precision(first.loop.precision, device), RunFolder(path.with_suffix(""), keep=1)
        content = ranks.agree(half_way.newest() if ranks.is_main() else None)
        if ranks.is_main():
            with cache_that_is_needed():
                half_way.prepare()  # a cache that cannot be written is found before the training, not after it
        done = 0
        if content is not None:
            restore(content, first, method, precision, {}, half_way.folder)
            done = content["step"]

        def save(step: int) -> None:
            if step < first.loop.steps:  # asked to stop
                state = training_state(first, method, precision, step, pictures={}, choice={}, seconds=0.0,
                                       bits=pictures.bits)  # fmt: skip
                if ranks.is_main():
                    with cache_that_is_needed():
                        half_way.save(step, state)

        loader = batches(first, pictures, "source", done * first.loop.accumulate)
        quiet = quiet or not ranks.is_main()
        train(method, {"source": loader}, first.loop, device=device, start=done, save=save, stop=stop, precision=precision,
              description="common start", quiet=quiet)  # fmt: skip
        weights = method.segmenter.state_dict()
        if ranks.is_main():
            with cache_that_is_needed():
                content = {"recipe": first.to_dict(), "code": code_of(first), "step": first.loop.steps, "segmenter": weights}
                save_checkpoint(path, content)
            half_way.clear()
            with suppress(OSError):  # not empty
                half_way.folder.rmdir()
    return weights


def start_recipe(recipe: Recipe) -> Recipe:
    """Of the training of a recipe's start: the same, whichever method follows."""
    return dataclasses.replace(
        recipe.of("source-only"),
        photometric=recipe.start_photometric,
        sampling="uniform",
        start_steps=0,
        first_batch=0,
        heads=dataclasses.replace(recipe.heads, lambda_lovasz=0.0),
        optimiser=dataclasses.replace(recipe.optimiser, lr=recipe.start_lr or recipe.optimiser.lr),
        loop=dataclasses.replace(recipe.loop, steps=recipe.start_steps, schedule_steps=None, save_every=recipe.start_steps),
    )


def start_key(recipe: Recipe) -> str:
    """What decides the start, pictures and versions aside, of `start_recipe`: its settings as a text."""
    content = recipe.identity()
    if recipe.init_from is not None:  # the file's content, wherever it lies
        content["init_from"] = hashlib.sha256(Path(recipe.init_from).expanduser().read_bytes()).hexdigest()
    unused = ["name", "pseudo", "statistics", "target_size", "start_photometric", "start_from", "target_photometric",
              "test_size", "workers", "colours_on", "select", "select_pictures", "select_spread",
              "rare_temperature", "rare_pixels", "rare_crop_pixels"]  # fmt: skip
    for key in unused + ["init_from"] * (recipe.init_from is None):
        content.pop(key, None)  # later settings are there only if they differ
    content.pop("target_margins", None)
    for key in ("log_every", "save_every", "keep"):
        content["loop"].pop(key)
    return json.dumps(content, sort_keys=True)


def _read_start(path: Path) -> dict[str, Any] | None:
    """A start that an earlier run has left; one that is damaged is trained again."""
    with suppress(CheckpointError):
        return load_checkpoint(path)["segmenter"]
    return None


def _fingerprint(recipe: Recipe, pictures: SegmentationDataset) -> str:
    paths = (path for pair in pictures.pairs for path in (pair.image, pair.label))
    stats = ((path.name, path.stat()) for path in paths)
    files = [(name, stat.st_size, stat.st_mtime_ns) for name, stat in stats]
    versions = [torch.__version__, __version__, READING]
    versions += [about for about in (pictures.mapping, code_of(recipe)) if about]
    return hashlib.sha256(json.dumps([start_key(recipe), files, versions], sort_keys=True).encode()).hexdigest()[:20]
