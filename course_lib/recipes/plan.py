"""A paper's whole procedure as a list of stages, each in a folder of its own, each resumable and runnable alone.

    proca    source -> prototypes (-> first-labels) -> contrast -> labels -> self-training -> test
    bida     source -> labels-1 -> round-1 -> labels-2 -> round-2 ... -> test
    adaptsegnet    adapt -> test

first-labels are there where the contrast reads label files (`target_labels=static`) instead of asking the network it trains.
Every round of bida begins with the network of the one before, and with static labels that this network has written.

A stage reads what earlier stages left (a network, prototypes, pseudo-labels), writes its own folder, and is done when its last
file is there. `run_plan` goes through them; a killed run goes on where it was. OUT/stages.json keeps how long each took.
"""

import difflib
import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any, Literal, TypedDict

import torch

from course_lib import ranks
from course_lib.data import open_dataset, test_transform
from course_lib.data.reading import READING
from course_lib.data.sampling import share
from course_lib.engine import CheckpointError, PeakMemory, RunFolder, RunLock, load_checkpoint, save_checkpoint
from course_lib.engine.precision import to_device
from course_lib.evaluation import write_pseudo_labels
from course_lib.evaluation.labelling import forget_labels
from course_lib.evaluation.scoring import ScoresContent
from course_lib.files import made_by, read_json, refuse_foreign, write_result
from course_lib.recipes import PAPERS, RECIPES, find_named
from course_lib.recipes import recipe as find_recipe
from course_lib.recipes.label_kinds import measure_label_kinds
from course_lib.recipes.needed import content_of, look_at_stages
from course_lib.recipes.parts import Pair, build_method, seeded_segmenter, split_of
from course_lib.recipes.prototypes import initialise_proca
from course_lib.recipes.recipe import Recipe
from course_lib.recipes.stages import common_start, score_network, train_recipe
from course_lib.recipes.state import differences, fingerprint, load_network
from course_lib.typed import checked

STAGE_TIMES = "stages.json"  # in the folder of a run
KIND = "uda run"  # in the results of a run
Kind = Literal["start", "prototypes", "train", "labels", "test"]


@dataclass(frozen=True)
class Stage:
    """One step of a plan: what it does, with which constants, on what earlier stages left."""

    name: str
    kind: Kind
    recipe: Recipe
    network: str | None = None  # the stage whose network it begins with, labels with, or scores; None: the recipe's own start
    prototypes: str | None = None  # the stage whose prototypes it begins with
    labels: str | None = None  # the stage whose pseudo-labels it learns from
    multiscale: bool = False  # of a test
    trained: str | None = None  # the folder in which it has been trained already, for several plans; only read here


class StageTime(TypedDict):
    """What a stage took, over all calls."""

    seconds: float
    peak_bytes: int | None
    device: str


class RunScores(TypedDict, total=False):
    """What a test leaves in scores.json."""

    key: dict
    single: ScoresContent
    multiscale: ScoresContent
    label_kinds: dict[str, dict[str, Any]] | None


def read_scores(folder: Path) -> dict[str, Any]:
    """The scores that a test left in its folder; ValueError that names a file of other types."""
    return read_json(folder / "scores.json", RunScores)


def plan(recipe_name: str, paper: str, overrides: tuple[str, ...] = ()) -> list[Stage]:
    """The stages of `paper` by the recipe `recipe_name`, with "key=value" or "stage.key=value" replaced.

    The constants of bida's rounds and of their labels are those of the stages "round" and "labels", whichever number. steps are
    a stage's own; of another number of rounds each gets its share again, unless steps are set too.

    >>> [stage.name for stage in plan("gta5_cityscapes", "proca")]
    ['source', 'prototypes', 'contrast', 'labels', 'self-training', 'test']
    >>> plan("gta5_cityscapes", "proca", ("contrast.steps=7",))[2].recipe.loop.steps
    7
    """
    find_named("paper", paper, PAPERS)
    find_named("recipe", recipe_name, RECIPES)
    module = import_module(f"course_lib.recipes.{recipe_name}")
    if paper == "adaptsegnet":
        recipes = {"adapt": find_recipe(recipe_name, paper)}
    else:
        recipes = module.stages(paper) if has_published_stages(recipe_name) else _equal_shares(recipe_name, paper)
    for assignment in overrides:
        stage, dot, rest = assignment.partition("=")[0].rpartition(".")
        if dot and stage not in recipes:
            near = difflib.get_close_matches(stage, recipes, n=1) or list(recipes)
            raise ValueError(f"There is no stage {stage!r} to set {assignment!r} in. Did you mean {', '.join(near)}?")
        for name in [stage] if dot else list(recipes):
            recipes[name] = recipes[name].override(assignment[len(stage) + 1 :] if dot else assignment)
    set_steps = any(assignment.partition("=")[0].rpartition(".")[2] == "steps" for assignment in overrides)
    if paper == "bida" and not has_published_stages(recipe_name) and not set_steps:
        recipes["round"] = _share_of_round(recipes["round"], find_recipe(recipe_name, paper).loop.steps)
    if "source" in recipes:
        recipes["source"] = _source_recipe(recipes["source"])
    return {"proca": _proca, "bida": _bida, "adaptsegnet": _adaptsegnet}[paper](recipes)


def has_published_stages(recipe_name: str) -> bool:
    """Whether a recipe has each paper's own schedule, and not equal shares of the same number of steps.

    >>> has_published_stages("gta5_cityscapes"), has_published_stages("ministreet")
    (True, False)
    """
    find_named("recipe", recipe_name, RECIPES)
    return hasattr(import_module(f"course_lib.recipes.{recipe_name}"), "stages")


def _equal_shares(recipe_name: str, paper: str) -> dict[str, Recipe]:
    """The stages of a small recipe: the common start, then in all as many steps as the other methods have."""
    of = partial(find_recipe, recipe_name)
    staged = of(paper)
    if not staged.has_start:
        raise ValueError(f"The recipe {recipe_name!r} has no stages of {paper!r}. Choose ministreet, or gta5_cityscapes.")
    source = of("source-only").override(f"start_steps={staged.start_steps}", f"start_photometric={staged.start_photometric}")
    if paper == "bida":
        return {"source": source, "labels": staged, "round": _share_of_round(staged, staged.loop.steps)}
    half, after = f"steps={max(1, staged.loop.steps // 2)}", of("self-training")
    return {"source": source, "contrast": staged.override(half), "labels": after, "self-training": after.override(half)}


def _source_recipe(recipe: Recipe) -> Recipe:
    """Without the constants of methods that it does not run: rows that differ in these alone have the same source stage."""
    plain = Recipe(recipe.name, recipe.method)
    unread = {name: getattr(plain, name) for name in ("self_training", "pseudo", "bida", "simclr", "views")}
    return replace(recipe, proca=replace(plain.proca, lambda_lovasz=recipe.proca.lambda_lovasz), **unread)


def _share_of_round(recipe: Recipe, steps: int) -> Recipe:
    return recipe.override(f"steps={max(1, steps // recipe.bida.rounds)}")


def _proca(recipes: dict[str, Recipe]) -> list[Stage]:
    begins = recipes["self-training"].self_training.self_training_from
    first = "first-labels" if recipes["contrast"].proca.target_labels == "static" else None
    return [
        Stage("source", "start" if recipes["source"].has_start else "train", recipes["source"]),
        Stage("prototypes", "prototypes", recipes["contrast"], network="source"),
        *([Stage(first, "labels", recipes["labels"], network="source")] if first else []),
        Stage("contrast", "train", recipes["contrast"], network="source", prototypes="prototypes", labels=first),
        Stage("labels", "labels", recipes["labels"], network="contrast"),
        Stage("self-training", "train", recipes["self-training"], network=None if begins == "own" else begins, labels="labels"),
        Stage("test", "test", recipes["self-training"], network="self-training", multiscale=True),
    ]


def _bida(recipes: dict[str, Recipe]) -> list[Stage]:
    stages, network = [Stage("source", "start" if recipes["source"].has_start else "train", recipes["source"])], "source"
    for k in range(1, recipes["round"].bida.rounds + 1):
        lr = recipes["round"].optimiser.lr * recipes["round"].bida.round_rate ** (k - 1)
        recipe = replace(recipes["round"], optimiser=replace(recipes["round"].optimiser, lr=lr))
        stages.append(Stage(f"labels-{k}", "labels", recipes["labels"], network=network))
        stages.append(Stage(f"round-{k}", "train", recipe, network=network, labels=f"labels-{k}"))
        network = f"round-{k}"
    return [*stages, Stage("test", "test", recipes["round"], network=network, labels=f"labels-{k}", multiscale=True)]


def _adaptsegnet(recipes: dict[str, Recipe]) -> list[Stage]:
    adapt = recipes["adapt"]  # a common start, where the recipe has one, is trained inside
    return [Stage("adapt", "train", adapt), Stage("test", "test", adapt, network="adapt", multiscale=True)]


def source_alone(stages: list[Stage]) -> list[Stage]:
    """The plan's first stage, and its network's scores."""
    source = stages[0]
    return [source, Stage("test", "test", source.recipe, network=source.name)]


def straight_to_labels(stages: list[Stage]) -> list[Stage]:
    """The plan of proca without its contrast: the source's network writes the labels, as the paper has Ada-ST alone."""
    left = [stage for stage in stages if stage.name not in ("prototypes", "first-labels", "contrast")]
    return [replace(stage, network="source") if stage.network == "contrast" else stage for stage in left]


def without_contrast(stages: list[Stage]) -> list[Stage]:
    """The same plan with source-only training in place of the contrast: what Ada-ST does alone, at equal steps."""

    def plain(stage: Stage) -> Stage:
        return replace(stage, recipe=replace(stage.recipe, method="source-only"), prototypes=None, labels=None)

    left = [stage for stage in stages if stage.name not in ("prototypes", "first-labels")]
    return [plain(stage) if stage.name == "contrast" else stage for stage in left]


def contrast_alone(stages: list[Stage]) -> list[Stage]:
    """The plan that ends with the contrast, and scores its network."""
    left = [stage for stage in stages if stage.name not in ("labels", "self-training", "test")]
    contrast = left[-1]
    return [*left, Stage("test", "test", contrast.recipe, network="contrast")]


def folder_of(stages: list[Stage], name: str, out: Path | str) -> Path:
    """Where a stage writes, OUT/<number>_<name>, or has been trained already."""
    number, stage = next((k, stage) for k, stage in enumerate(stages, start=1) if stage.name == name)
    return Path(stage.trained) if stage.trained is not None else Path(out) / f"{number}_{name}"


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
) -> dict[str, Any]:
    """Go through the stages into OUT, those that are done already excepted; returns what the last one left (scores of a test).

    only: run this stage alone; the earlier ones have to be done. Interrupted, the same call goes on, bit for bit where it
    trains. Raises CheckpointError for a folder made with other constants, FolderInUse where another process works in it
    (take_over: see `engine.RunLock`).
    """
    out = Path(out).expanduser()
    if only is not None:
        find_named("stage", only, tuple(stage.name for stage in stages))
    check_processes([stage for stage in stages if only in (None, stage.name)], ranks.count())
    refuse_foreign_files(stages, out)
    look_at_stages([stage for stage in stages if only in (None, stage.name) and stage.trained is None], pair)
    if ranks.is_main():
        RunFolder(out).prepare()  # a folder that cannot be written is found before the first stage, not after it
    result: dict[str, Any] = {}
    with RunLock(out, take_over, below=True) as lock:
        for number, stage in enumerate(stages, start=1):
            if only in (None, stage.name) and stage.trained is None:
                tell(f"stage {number} of {len(stages)}: {stage.name}")
                lock.check()
                with _measured(stage.name, out, torch.device(device)):
                    result = _run_stage(stage, stages, pair, out, stop, torch.device(device), quiet)
                    ranks.barrier()  # the next stage reads what process 0 is writing
    return result


def refuse_foreign_files(stages: list[Stage], out: Path) -> None:
    """Raise, before anything is trained, where a stage would write over a file that no run wrote, or cannot read its own."""
    refuse_foreign(out / STAGE_TIMES, KIND)
    stage_times(out)
    ours = made_by(out / STAGE_TIMES, KIND)  # then also a start or a file of prototypes that is torn
    for stage in stages:
        folder = folder_of(stages, stage.name, out)
        if stage.trained is None and (stage.kind == "train" or stage.kind == "start" and not ours):
            RunFolder(folder).refuse_foreign()
        elif stage.kind == "prototypes" and os.path.lexists(folder / "prototypes.pt") and not ours:
            load_checkpoint(folder / "prototypes.pt")
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
        else:
            (folder / ("prototypes.pt" if stage.kind == "prototypes" else "scores.json")).unlink(missing_ok=True)
    (out / STAGE_TIMES).unlink(missing_ok=True)


def check_processes(stages: list[Stage], processes: int) -> None:
    """Raise ValueError, before anything is trained, for a stage whose batch does not divide among so many processes."""
    for stage in stages:
        if stage.kind == "train":
            try:
                share(stage.recipe.batch_size, 0, processes)
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
            write_result(out / STAGE_TIMES, json.dumps({"made_by": KIND, **content}, indent=1) + "\n", KIND)


def stage_times(out: Path | str) -> dict[str, dict[str, Any]]:
    """{stage: seconds, peak_bytes, device} of a folder of `run_plan`, over all calls but those that were killed outright."""
    path = Path(out) / STAGE_TIMES
    content = read_json(path) if path.is_file() else {}
    return checked(dict[str, StageTime], {name: stage for name, stage in content.items() if name != "made_by"}, repr(str(path)))


def _run_stage(stage: Stage, stages: list[Stage], pair: Pair, out: Path, stop, device: torch.device, quiet: bool) -> dict:
    folder = folder_of(stages, stage.name, out)
    begins = _left(stages, stage.network, out, "best.pt")
    pair = replace(pair, start=begins, pseudo_labels=_left(stages, stage.labels, out, ""))
    if stage.kind == "start":
        content = content_of(replace(pair, target=None, validation=None), stage.recipe.space)
        if (folder / "best.pt").is_file():
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
                first["content"] = content
                save_checkpoint(folder / "best.pt", first)
            ranks.barrier()
    elif stage.kind == "prototypes":
        if stage.recipe.method == "proca" and not (folder / "prototypes.pt").is_file():
            segmenter = seeded_segmenter(replace(stage.recipe, init_from=None))
            segmenter.load_state_dict(load_network(begins)[0].state_dict())
            method = to_device(build_method(stage.recipe, segmenter), device, stage.recipe.loop.channels_last)
            initialise_proca(method, stage.recipe, pair, device=device, out=folder / "prototypes.pt", quiet=quiet)
            ranks.barrier()
    elif stage.kind == "train":
        pair = replace(pair, prototypes=_left(stages, stage.prototypes, out, "prototypes.pt"))
        train_recipe(stage.recipe, pair, folder, existing="resume", stop=stop, device=device, quiet=quiet)
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
    device: torch.device | str = "cpu", quiet: bool = False,
) -> dict[str, Any]:  # fmt: skip
    """Write the pseudo-labels of a checkpoint on the target's training pictures into `out`; returns the manifest.

    `recipe` gives the constants (default: the checkpoint's own). Target labels are opened, where there are any, to count
    density and accuracy; the pseudo-labels do not depend on them: with `skip_bad` a picture whose label file is missing or bad
    gets its pseudo-label, too, and is not counted.
    """
    segmenter, own = load_network(checkpoint, device)
    recipe = recipe or own
    name, split = split_of(pair.target, "train")
    transform = test_transform(recipe.test_size, segmenter.normalisation)

    def open_target(labelled: bool):
        return open_dataset(name, split, recipe.space, transform, labelled, skip_bad=pair.skip_bad, bits=recipe.bits)

    pictures = open_target(labelled=False)
    with suppress(OSError, ValueError):  # an unlabelled target is the ordinary case
        pictures = pictures.with_truth(open_target(labelled=True))
    key = f"{Path(checkpoint).resolve()} {Path(checkpoint).stat().st_mtime_ns} {recipe.test_size} {recipe.bits} {READING}"
    key += f" {fingerprint(pictures)}"
    return write_pseudo_labels(
        segmenter, pictures, out, recipe.pseudo, key=key, device=device, progress=not quiet,
        workers=recipe.workers,
    )


def _test(stage: Stage, pair: Pair, folder: Path, checkpoint: str, device: torch.device, quiet: bool) -> dict[str, Any]:
    path = folder / "scores.json"
    key = {"checkpoint_time": Path(checkpoint).stat().st_mtime_ns, "recipe": stage.recipe.to_dict(), "pair": asdict(pair)}
    key["content"] = content_of(replace(pair, source=None, target=None), stage.recipe.space)
    if path.is_file() and (content := read_scores(folder)).get("key") == key:
        return content
    content = {"made_by": KIND, "key": key}
    for name in ("single", "multiscale") if stage.multiscale else ("single",):
        scores = score_network(checkpoint, pair.validation, target=pair.target, statistics=stage.recipe.statistics,
                               multiscale=name == "multiscale", skip_bad=pair.skip_bad, workers=stage.recipe.workers,
                               device=device, quiet=quiet)  # fmt: skip
        content[name] = scores.to_dict()
    if stage.recipe.method == "bida" and stage.recipe.bida.uses_dynamic:
        content["label_kinds"] = measure_label_kinds(
            checkpoint, pair, pair.pseudo_labels, workers=stage.recipe.workers, device=device, quiet=quiet
        )
    if ranks.is_main():
        write_result(path, json.dumps(content, indent=1) + "\n", KIND)
    return content
