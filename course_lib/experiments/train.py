"""From a recipe to a scored network: train it into a folder, go on with a run, score what it left."""

import dataclasses
import json
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Literal

import torch

from course_lib import ranks
from course_lib.data import SegmentationDataset, test_transform
from course_lib.data.sampling import share
from course_lib.engine import CheckpointError, JsonLines, Precision, RunFolder, RunLock, train
from course_lib.engine.distributed import broadcast_module
from course_lib.engine.precision import to_device
from course_lib.engine.tensorboard import TensorBoardLog
from course_lib.evaluation import ProbeScores, Scores, evaluate, probe, read_classes, reestimate_statistics
from course_lib.evaluation.labelling import MANIFEST
from course_lib.experiments.choice import Choice
from course_lib.experiments.looks import prepare
from course_lib.experiments.needed import look_at_training
from course_lib.experiments.parts import (
    Pair,
    batches,
    build_segmenter,
    opened,
    own_part,
    seeded_segmenter,
    split_of,
    tell_skipped,
    training_set,
)
from course_lib.experiments.pretrained import take_network
from course_lib.experiments.start import common_start
from course_lib.experiments.state import fingerprint, load_network, restore, training_state
from course_lib.extras import require
from course_lib.files import digest, write_whole
from course_lib.methods import Method, find_method
from course_lib.recipes.pairs.ministreet_crops import PROBE
from course_lib.recipes.recipe import Recipe, build_method

# with the parts that an experiment of one's own is made of
__all__ = [
    "Pair", "batches", "build_method", "build_segmenter", "common_start", "load_network", "probe_network", "score_network",
    "split_of", "train_recipe", "training_set",
]  # fmt: skip


def train_recipe(
    recipe: Recipe,
    pair: Pair,
    out: Path | str,
    *,
    existing: Literal["refuse", "resume", "replace"] = "refuse",
    stop: Callable[[], bool] | None = None,
    device: torch.device | str = "cpu",
    quiet: bool = False,
    take_over: bool = False,
    tensorboard: bool = False,
) -> Path:
    """Train the recipe's method into the folder `out` (`engine.RunFolder`); returns `out/best.pt`, the chosen network.

    existing: what to do in a folder that holds a run already: refuse, go on with it (bit for bit as if it had never
    stopped; a folder without a run starts one), or replace it. `stop()` is called after every step; where it is true, the run
    is saved and Stopped raised. Raises CheckpointError for a run with other settings or pictures, FolderInUse where another
    process trains in the folder (take_over: see `engine.RunLock`). tensorboard: what log.jsonl has goes to `out/tensorboard`,
    too (an extra).
    """
    if tensorboard:
        require("tensorboard", ("tensorboard",), "`--tensorboard`")
    run = RunFolder(out, recipe.loop.keep)
    share(recipe.batch_size, ranks.rank(), ranks.count())  # one that does not divide is an error before any work
    if find_method(recipe.method).planned:
        raise ValueError(f"{recipe.method} has no step of its own: it is a plan of stages. Run it: `uda run {recipe.method}`.")
    find_method(recipe.method).check_batch(recipe.settings, recipe.batch_size)
    run.refuse_foreign()
    ranks.barrier()  # no process writes before all have checked the folder
    if existing == "refuse" and (there := run.holds()):
        raise CheckpointError(
            f"{run.folder} holds a run already ({there[0].name}). Continue it (--resume), start again and lose "
            "it (--replace), or choose another --out."
        )
    Precision(recipe.loop.precision, device)  # what this device cannot do is an error before the data are looked at
    look_at_training(recipe, pair)
    if ranks.is_main():
        run.prepare()
    with RunLock(run.folder, take_over) as lock:
        return _train(recipe, pair, run, lock, existing, stop, torch.device(device), quiet, tensorboard)


def _train(
    recipe: Recipe,
    pair: Pair,
    run: RunFolder,
    lock: RunLock,
    existing: str,
    stop: Callable[[], bool] | None,
    device: torch.device,
    quiet: bool,
    tensorboard: bool,
) -> Path:
    """`train_recipe` in a folder that is this run's alone."""
    content = ranks.agree(run.newest() if existing == "resume" and ranks.is_main() else None)
    if existing == "resume" and content is None and run.best.exists():
        raise CheckpointError(
            f"{run.folder} holds a result (best.pt), but no checkpoint to go on from. Start again and lose it (--replace), or "
            "choose another --out."
        )
    method = _first_method(recipe, pair, content is None, stop, device, quiet)
    precision = Precision(recipe.loop.precision, device)
    pictures, names = _streams(recipe, pair, method.segmenter.normalisation)
    choice = Choice(recipe, pair, method.result, device)
    if content is None:
        prepare(method, recipe, pair, device=device, quiet=quiet)
    main = ranks.is_main()
    log = TensorBoardLog(run.log, run.events) if tensorboard and main else JsonLines(run.log if main else None)
    done, seconds, began = 0, 0.0, time.perf_counter()
    if content is not None:
        restore(content, recipe, method, precision, names, run.folder)
        done, seconds, choice.best = content["step"], content["seconds"], content["choice"]
    if done > recipe.loop.steps:
        raise CheckpointError(f"{run.folder} is at step {done} already, beyond steps={recipe.loop.steps}. Choose more steps.")
    if ranks.is_main():
        if content is None:
            run.clear()
        write_whole(run.recipe, json.dumps(recipe.to_dict(), indent=1) + "\n")  # first: it says whose the other files are
        run.go_back(done)
        log.rewind(done)
        if done and (choice.best["step"] == done or (choice.best["step"] and not run.best.exists())):
            run.name_best(choice.best["step"])  # a kill may have come between the checkpoint and its second name

    def save(step: int) -> None:
        try:
            best = choice.look(step)
        except (OSError, ValueError):
            write(step, best=False)  # a picture that cannot be read is no reason to lose what was learnt
            raise
        write(step, best)

    read = pictures.get("target", next(iter(pictures.values())))  # new pictures are most likely like the target's

    def write(step: int, best: bool) -> None:
        state = training_state(
            recipe, method, precision, step,
            pictures=names, choice=choice.best, seconds=seconds + time.perf_counter() - began, bits=read.bits,
        )  # fmt: skip
        lock.check()
        if ranks.is_main():
            run.save(step, state, best)

    loaders = {name: batches(recipe, dataset, name, done * recipe.loop.accumulate) for name, dataset in pictures.items()}
    with closing(log):
        train(method, loaders, recipe.loop, device=device, start=done, log=log, save=save, stop=stop, precision=precision,
              description=recipe.method, quiet=quiet or not main)  # fmt: skip
    return run.best


def _first_method(
    recipe: Recipe, pair: Pair, first: bool, stop: Callable[[], bool] | None, device: torch.device, quiet: bool
) -> Method:
    """The method before its first step; not `first`: before a checkpoint's state, which needs no start."""
    start = None
    if first and pair.start is not None:
        start = take_network(pair.start, recipe)
    elif first:
        start = common_start(recipe, pair, stop=stop, device=device, quiet=quiet)
    segmenter = seeded_segmenter(recipe if first else dataclasses.replace(recipe, init_from=None))
    if start is not None:
        segmenter.begin_with(start)
    method = to_device(build_method(recipe, segmenter), device, recipe.loop.channels_last)
    broadcast_module(method)
    return method


def _streams(recipe: Recipe, pair: Pair, normalisation: str) -> tuple[dict[str, SegmentationDataset], dict[str, str]]:
    """The pictures of each stream, and what tells them, and the files of pseudo-labels, from others."""
    pictures = {
        name: training_set(recipe, getattr(pair, name), name, normalisation, pair.skip_bad, pair.pseudo_labels)
        for name in recipe.streams
    }
    for dataset in pictures.values():
        tell_skipped(dataset)
    names = {name: fingerprint(dataset) for name, dataset in pictures.items()}
    from_files = any(stream.labels == "files" for stream in recipe.streams.values())
    if from_files and (manifest := Path(pair.pseudo_labels).expanduser() / MANIFEST).is_file():
        names["pseudo-labelled"] = str(digest(manifest))[:12]
    return pictures, names


def score_network(
    checkpoint: Path | str,
    validation: str,
    *,
    target: str | None = None,
    statistics: str | None = None,
    multiscale: bool = False,
    skip_bad: bool = False,
    bits: int | None = None,
    workers: int = 0,
    settings: tuple[str, ...] = (),
    device: torch.device | str = "cpu",
    quiet: bool = False,
) -> Scores:
    """Score a checkpoint on labelled target pictures, with the recipe's convention for normalisation statistics.

    statistics="target" re-estimates them on the training pictures of `target` first; labels are not looked at.
    skip_bad leaves out files that cannot be used and says which: a score over fewer pictures is another score. bits: as in
    `open_dataset`; None: the recipe's. workers: processes that load pictures, as in `test_loader`. settings: what network it
    is, as in `load_network`.
    """
    if statistics not in (None, "running", "target"):
        raise ValueError(f"statistics is {statistics!r}; choose 'running' (as trained) or 'target' (re-estimated on --target).")
    segmenter, recipe = load_network(checkpoint, device, settings)
    recipe = recipe if bits is None else dataclasses.replace(recipe, bits=bits)
    transform = test_transform(recipe.test_size, segmenter.normalisation)
    # before the target is looked at, which takes longer
    pictures = opened(recipe, validation, "val", transform, skip_bad=skip_bad).require_labels("Scoring")
    tell_skipped(pictures)
    if (statistics or recipe.statistics) == "target":
        if target is None:
            raise ValueError(
                "statistics='target' re-estimates normalisation on target pictures; pass target='cityscapes:PATH'."
            )
        plain = opened(recipe, target, "train", transform, labelled=False, skip_bad=skip_bad)
        loader = own_part(plain, recipe.batch_size, workers)
        reestimate_statistics(segmenter, loader, device=device, progress=not quiet)
    loader = own_part(pictures, workers=workers)
    return evaluate(segmenter, loader, recipe.space, device=device, multiscale=multiscale, progress=not quiet)


def probe_network(
    checkpoint: Path | str,
    folder: Path | str,
    *,
    bits: int | None = None,
    settings: tuple[str, ...] = (),
    device: torch.device | str = "cpu",
) -> ProbeScores:
    """Linear probe and nearest neighbours on a checkpoint's features; FOLDER/train/<class>/ and FOLDER/test/<class>/.

    Pictures are resized to the recipe's test_size, which is to be square, or have one size already. bits,
    settings: as in `score_network`.
    """
    segmenter, recipe = load_network(checkpoint, device, settings)
    bits = recipe.bits if bits is None else bits
    size = recipe.test_size[0] if recipe.test_size and recipe.test_size[0] == recipe.test_size[1] else None
    train = read_classes(Path(folder) / "train", size, bits=bits)
    test = read_classes(Path(folder) / "test", size, train.classes, bits)
    return probe(segmenter, train, test, PROBE, device=device, seed=recipe.seed)
