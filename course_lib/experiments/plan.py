"""A paper's whole procedure as a list of stages, each in a folder of its own, each resumable and runnable alone.

`recipes/papers/` says which stages a paper has; a method without stages has two, its training and the test.

A stage reads what earlier stages left (a network, prepared state, pseudo-labels), writes its own folder, and is done when its
last file is there. `run_plan` goes through them; a killed run continues where it was. OUT/stages.json keeps how long each took.
"""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, TypedDict

import torch

from course_lib import ranks
from course_lib.data import test_transform
from course_lib.data.reading import READING
from course_lib.data.sampling import share
from course_lib.engine import CheckpointError, PeakMemory, RunFolder, RunLock, load_checkpoint, save_checkpoint
from course_lib.engine.precision import to_device
from course_lib.evaluation import write_pseudo_labels
from course_lib.evaluation.labelling import forget_labels
from course_lib.evaluation.scoring import ScoresContent
from course_lib.experiments.choosing import CHOICE, choose, read_choice
from course_lib.experiments.looks import label_kinds, prepare
from course_lib.experiments.needed import content_of, look_at_stages
from course_lib.experiments.parts import Pair, hold_out, opened, seeded_segmenter
from course_lib.experiments.start import common_start
from course_lib.experiments.state import code_of, differences, fingerprint, load_network
from course_lib.experiments.train import score_network, train_recipe
from course_lib.extras import require
from course_lib.files import folder_name, made_by, read_json, refuse_foreign, write_json
from course_lib.methods import find_method
from course_lib.recipes import Recipe, Stage, find_pair, layered, layers, overridden, own_paper
from course_lib.recipes import recipe as find_recipe
from course_lib.recipes.paper import one_training, source_alone
from course_lib.recipes.recipe import build_method, split_assignment
from course_lib.registry import find_named
from course_lib.typed import checked

STAGE_TIMES = "stages.json"  # in the folder of a run
KIND = "uda run"  # in the results of a run
PREPARED = "prepared.pt"  # in the folder of a stage that prepares


class StageTime(TypedDict):
    """What a stage took, over all calls."""

    seconds: float
    peak_bytes: int | None
    device: str


class RunScores(TypedDict, total=False):
    """The content of a test's scores.json."""

    key: dict
    single: ScoresContent
    multiscale: ScoresContent
    label_kinds: dict[str, dict[str, Any]] | None


def read_scores(folder: Path) -> dict[str, Any]:
    """The scores that a test left in its folder; ValueError that names a file of other types."""
    return read_json(folder / "scores.json", RunScores)


def plan(
    pair: str, method: str, overrides: tuple[str, ...] = (), steps: int | None = None, part: str | None = None, *,
    common: tuple[str, ...] = (),
) -> list[Stage]:  # fmt: skip
    """The stages of a method for a pair of domains, with "[STAGE.][SECTION.]KEY=value" replaced.

    `steps`: the stages of a small pair share these, whatever `overrides` say; None: those of the pair, and a stage has the
    steps that an override gives it. part: what the paper calls a part of its stages. common: overrides of several rows, applied
    first where a stage knows them.

    >>> [stage.name for stage in plan("gta5_cityscapes", 'proca')]
    ['source', 'prototypes', 'contrast', 'labels', 'self-training', 'test']
    >>> plan("gta5_cityscapes", 'proca', ("contrast.steps=7",))[2].recipe.loop.steps
    7
    """
    paper, recipes = own_paper(method), stage_recipes(pair, method, overrides, steps, part, common=common)
    stages = (paper.plan if paper is not None else one_training)(recipes)
    if part is None:
        return stages
    if part == "source":
        return source_alone(stages)
    find_named("part", part, paper.parts)
    return paper.parts[part](stages)


def stage_recipes(
    pair: str, method: str, overrides: tuple[str, ...] = (), steps: int | None = None, part: str | None = None, *,
    common: tuple[str, ...] = (),
) -> dict[str, Recipe]:  # fmt: skip
    """The settings of a method's stages by the names that `--set STAGE.KEY=VALUE` uses; arguments as in `plan`."""
    paper = own_paper(method)
    if paper is None:  # a control, or a stage of another paper alone
        recipes = {method: find_recipe(pair, method)}
    else:
        recipes = layered(layers(pair, paper), paper.stages, pair)
    if not find_method(method).segments:
        raise ValueError(f"{method} trains no classifier that a test could score. Train it alone: `uda train {method}`.")
    small = paper is not None and find_pair(pair).scale == "small"
    if small and "source" in recipes and not recipes["source"].has_start:
        raise ValueError(f"The recipe {pair!r} has no stages of {method!r}. Choose ministreet, or gta5_cityscapes.")

    def share_steps(recipes: dict[str, Recipe], steps: int | None) -> dict[str, Recipe]:
        whole = find_recipe(pair, method).loop.steps if steps is None else steps
        shares = paper.shares(recipes, whole, part) if small else {}
        return recipes | {name: recipes[name].updated({"steps": count}) for name, count in shares.items()}

    recipes = overridden(overridden(share_steps(recipes, None), common, strict=False), overrides)
    set_steps = any(split_assignment(text)[0].rpartition(".")[2] == "steps" for text in (*common, *overrides))
    if steps is not None or not set_steps:
        recipes = share_steps(recipes, steps)
    return recipes


def folder_of(stages: list[Stage], name: str, out: Path | str) -> Path:
    """Where a stage writes, OUT/<number>_<name>, or has been trained already."""
    number, stage = next((k, stage) for k, stage in enumerate(stages, start=1) if stage.name == name)
    return Path(stage.trained) if stage.trained is not None else Path(out) / f"{number}_{folder_name(name)}"


def run_plan(
    stages: list[Stage],
    pair: Pair,
    out: Path | str,
    *,
    only: str | None = None,
    stop: Callable[[], bool] | None = None,
    device: torch.device | str = "cpu",
    quiet: bool = False,
    tell: Callable[[str], object] = lambda text: None,
    take_over: bool = False,
    tensorboard: bool = False,
) -> dict[str, Any]:
    """Go through the stages into OUT, those that are done already excepted; returns what the last one left (scores of a test).

    only: run this stage alone; the earlier ones have to be done. Interrupted, the same call goes on, bit for bit where it
    trains. Raises CheckpointError for a folder made with other constants, FolderInUse where another process works in it
    (take_over: see `engine.RunLock`). tensorboard: see `train_recipe`, of each stage that trains.
    """
    if tensorboard:
        require("tensorboard", ("tensorboard",), "`--tensorboard`")
    out = Path(out).expanduser()
    if only is not None:
        find_named("stage", only, tuple(stage.name for stage in stages))
    check_processes([stage for stage in stages if only in (None, stage.name)], ranks.count())
    refuse_foreign_files(stages, out)
    look_at_stages([stage for stage in stages if only in (None, stage.name) and stage.trained is None], pair)
    pair, held = hold_out(stages, pair)
    if ranks.is_main():
        RunFolder(out).prepare()  # a folder that cannot be written is found before the first stage, not after it
    result: dict[str, Any] = {}
    with RunLock(out, take_over, below=True) as lock:
        for number, stage in enumerate(stages, start=1):
            if only in (None, stage.name) and stage.trained is None:
                tell(f"stage {number} of {len(stages)}: {stage.name}")
                lock.check()
                with _measured(stage.name, out, torch.device(device)):
                    result = _run_stage(stage, stages, pair, held, out, stop, torch.device(device), quiet, tensorboard)
                    ranks.barrier()  # the next stage reads what process 0 is writing
    return result


def refuse_foreign_files(stages: list[Stage], out: Path) -> None:
    """Raise, before anything is trained, where a stage would write over a file that no run wrote, or cannot read its own."""
    refuse_foreign(out / STAGE_TIMES, KIND)
    stage_times(out)
    ours = made_by(out / STAGE_TIMES, KIND)  # then also a start or a prepared file that is torn
    for stage in stages:
        folder = folder_of(stages, stage.name, out)
        if stage.trained is None and (stage.kind == "train" or stage.kind == "start" and not ours):
            RunFolder(folder).refuse_foreign()
        elif stage.kind == "prepare" and os.path.lexists(folder / PREPARED) and not ours:
            load_checkpoint(folder / PREPARED)
        elif stage.kind == "choose":
            refuse_foreign(folder / CHOICE, KIND)
            if (folder / CHOICE).is_file():
                read_choice(folder)
            elif not ours:
                RunFolder(folder).refuse_foreign()
        elif stage.kind == "test":
            refuse_foreign(folder / "scores.json", KIND)
            if (folder / "scores.json").is_file():
                read_scores(folder)


def forget_plan(stages: list[Stage], out: Path) -> None:
    """Remove what `run_plan(stages, ..., out)` wrote; other files stay.

    Raises as `refuse_foreign_files` before anything is removed.
    """
    refuse_foreign_files(stages, out)
    for stage in stages:
        folder = folder_of(stages, stage.name, out)
        if stage.trained is not None or not folder.is_dir():
            continue
        if stage.kind == "labels":
            forget_labels(folder)
        elif stage.kind in ("start", "train"):
            RunFolder(folder).clear()
        elif stage.kind == "choose":
            for name in ("best.pt", CHOICE):
                (folder / name).unlink(missing_ok=True)
        else:
            (folder / (PREPARED if stage.kind == "prepare" else "scores.json")).unlink(missing_ok=True)
    (out / STAGE_TIMES).unlink(missing_ok=True)


def check_processes(stages: list[Stage], processes: int) -> None:
    """Raise ValueError, before anything is trained, for a stage whose batch does not divide among so many processes, or is too
    small for its method."""
    for stage in stages:
        if stage.kind == "train":
            try:
                share(stage.recipe.batch_size, 0, processes)
                find_method(stage.recipe.method).check_batch(stage.recipe.settings, stage.recipe.batch_size)
            except ValueError as error:
                raise ValueError(f"Stage {stage.name}: {error}") from None


@contextmanager
def _measured(name: str, out: Path, device: torch.device) -> Iterator[None]:
    """Add the seconds of what happens inside to OUT/stages.json, whether it ends or is stopped, and the peak memory.

    Memory is `engine.PeakMemory`'s of this stage.
    """
    began, memory = time.perf_counter(), PeakMemory(device)
    try:
        yield
    finally:
        if ranks.is_main() and out.is_dir():
            content = stage_times(out)
            was = content.get(name, {"seconds": 0.0, "peak_bytes": None})
            content[name] = {
                "seconds": round(was["seconds"] + time.perf_counter() - began, 2),
                "peak_bytes": max((size for size in (was["peak_bytes"], memory.bytes()) if size is not None), default=None),
                "device": device.type,
            }
            write_json(out / STAGE_TIMES, content, KIND)


def stage_times(out: Path | str) -> dict[str, dict[str, Any]]:
    """{stage: seconds, peak_bytes, device} of a folder of `run_plan`, over all calls but those that were killed outright."""
    path = Path(out) / STAGE_TIMES
    content = read_json(path) if path.is_file() else {}
    return checked(dict[str, StageTime], {name: stage for name, stage in content.items() if name != "made_by"}, repr(str(path)))


def _run_stage(
    stage: Stage, stages: list[Stage], pair: Pair, held: str | None, out: Path, stop, device: torch.device, quiet: bool,
    tensorboard: bool,
) -> dict:  # fmt: skip
    folder = folder_of(stages, stage.name, out)
    begins = _left(stages, stage.network, out, "best.pt")
    pair = replace(pair, start=begins, pseudo_labels=_left(stages, stage.labels, out, ""))
    if stage.kind == "start":
        content = content_of(replace(pair, target=None, validation=None, labelled=None), stage.recipe.space)
        if ranks.agree((folder / "best.pt").is_file()):
            was = load_network(folder / "best.pt")[1]
            if changed := differences(was, stage.recipe):
                raise CheckpointError(f"{folder} holds a start with other settings ({changed}). Choose another --out.")
            if load_checkpoint(folder / "best.pt").get("content") not in (None, content):  # None: of an earlier version
                raise CheckpointError(
                    f"{folder} holds a start that was trained on other source pictures or labels under the same path. Choose "
                    "another --out, or delete that folder."
                )
        else:
            weights = common_start(stage.recipe, pair, stop=stop, device=device, quiet=quiet)
            if ranks.is_main():
                first = {"recipe": stage.recipe.to_dict(), "step": stage.recipe.start_steps, "segmenter": weights}
                first |= {"content": content, "code": code_of(stage.recipe)}
                save_checkpoint(folder / "best.pt", first)
            ranks.barrier()
    elif stage.kind == "prepare":
        if not (folder / PREPARED).is_file():
            segmenter = seeded_segmenter(replace(stage.recipe, init_from=None))
            segmenter.load_state_dict(load_network(begins)[0].state_dict())
            method = to_device(build_method(stage.recipe, segmenter), device, stage.recipe.loop.channels_last)
            prepare(method, stage.recipe, pair, device=device, out=folder / PREPARED, quiet=quiet)
            ranks.barrier()
    elif stage.kind == "train":
        pair = replace(pair, prepared=_left(stages, stage.prepared, out, PREPARED))
        train_recipe(stage.recipe, pair, folder, existing="resume", stop=stop, device=device, quiet=quiet,
                     tensorboard=tensorboard)  # fmt: skip
    elif stage.kind == "choose":
        branches = {name: _left(stages, name, out, "best.pt") for name in stage.branches}
        return choose(stage, branches, held, pair, folder, device=device, quiet=quiet)
    elif stage.kind == "labels":
        return label_target(begins, pair, folder, stage.recipe, device=device, quiet=quiet)
    else:
        return _test(stage, pair, folder, begins, device, quiet)
    return {}


def _left(stages: list[Stage], name: str | None, out: Path, file: str) -> str | None:
    """The path of what an earlier stage left."""
    if name is None:
        return None
    path = folder_of(stages, name, out) / file
    if not path.exists():
        raise CheckpointError(f"The stage {name!r} has not left {path} yet. Run it first, or the whole plan without --stage.")
    return str(path)


def label_target(
    checkpoint: Path | str, pair: Pair, out: Path | str, recipe: Recipe | None = None, *,
    settings: tuple[str, ...] = (), device: torch.device | str = "cpu", quiet: bool = False,
) -> dict[str, Any]:  # fmt: skip
    """Write the pseudo-labels of a checkpoint on the target's training pictures into `out`; returns the manifest.

    `recipe` gives the constants (default: the checkpoint's own), `settings` what `load_network` takes. Target labels are
    opened, where there are any, to count density and accuracy; the pseudo-labels do not depend on them: with `skip_bad` a
    picture whose label file is missing or bad gets its pseudo-label, too, and is not counted.
    """
    segmenter, own = load_network(checkpoint, device, settings)
    recipe = recipe or own
    transform = test_transform(recipe.test_size, segmenter.normalisation)
    pictures = opened(recipe, pair.target, "train", transform, labelled=False, skip_bad=pair.skip_bad)
    with suppress(OSError, ValueError):  # an unlabelled target is the ordinary case
        pictures = pictures.with_truth(opened(recipe, pair.target, "train", transform, skip_bad=pair.skip_bad))
    key = f"{Path(checkpoint).resolve()} {Path(checkpoint).stat().st_mtime_ns} {recipe.test_size} {recipe.bits} {READING}"
    key += f" {fingerprint(pictures)}"
    return write_pseudo_labels(segmenter, pictures, out, recipe.pseudo, key=key, device=device, progress=not quiet,
                               workers=recipe.workers)  # fmt: skip


def _test(stage: Stage, pair: Pair, folder: Path, checkpoint: str, device: torch.device, quiet: bool) -> dict[str, Any]:
    path = folder / "scores.json"
    key = {"checkpoint_time": Path(checkpoint).stat().st_mtime_ns, "recipe": stage.recipe.to_dict(), "pair": pair.to_dict()}
    key["content"] = content_of(replace(pair, source=None, target=None, labelled=None), stage.recipe.space)
    if path.is_file() and (content := read_scores(folder)).get("key") == key:
        return content
    content = {"made_by": KIND, "key": key}
    for name in ("single", "multiscale") if stage.multiscale else ("single",):
        scores = score_network(checkpoint, pair.validation, target=pair.target, statistics=stage.recipe.statistics,
                               multiscale=name == "multiscale", skip_bad=pair.skip_bad, workers=stage.recipe.workers,
                               device=device, quiet=quiet)  # fmt: skip
        content[name] = scores.to_dict()
    if find_method(stage.recipe.method).kinds(stage.recipe.settings):
        content["label_kinds"] = label_kinds(checkpoint, pair, workers=stage.recipe.workers, device=device, quiet=quiet)
    if ranks.is_main():
        write_json(path, content, KIND)
    return content
