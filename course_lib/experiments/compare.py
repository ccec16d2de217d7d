"""Several methods on several seeds, in one table with its controls: how the course reports a gain (experiments.rows)."""

import hashlib
import json
import os
import platform
import statistics
import sys
import warnings
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, NotRequired, TypedDict

import torch
import torchvision

from course_lib import outside
from course_lib.engine import CheckpointError, RunFolder, RunLock, load_checkpoint
from course_lib.engine.checkpoint import second_name
from course_lib.engine.pool import Pool
from course_lib.engine.progress import last_step
from course_lib.evaluation.labelling import read_labels
from course_lib.evaluation.scoring import ScoresContent
from course_lib.experiments.compute import compute
from course_lib.experiments.needed import content_of, look_at_stages
from course_lib.experiments.parts import Pair, hold_out
from course_lib.experiments.plan import KIND as RUN
from course_lib.experiments.plan import STAGE_TIMES, folder_of, forget_plan, run_plan, stage_times
from course_lib.experiments.prepared_sizes import enlarged
from course_lib.experiments.rows import check_overrides, row_compute, row_recipe, row_stages, standard_rows, terms_left_out
from course_lib.experiments.start import common_start, start_key, start_recipe
from course_lib.experiments.state import code_of, learning_key
from course_lib.experiments.table import table
from course_lib.experiments.train import score_network
from course_lib.files import (
    comment,
    digest,
    folder_name,
    made_by,
    mark,
    read_json,
    read_text,
    refuse_foreign,
    table_text,
    write_json,
    write_result,
    write_whole,
)
from course_lib.recipes import Recipe, Row, Stage, load_code
from course_lib.terminal import print

BEGINS = "begins_with.txt"  # in a row's folder: which shared source stage its stages began with
KIND = "uda compare"  # in the results of a comparison, whichever command made it


class RowScores(TypedDict):
    """The content of a row's scores.json."""

    recipe: dict
    stages: list
    pair: dict
    code: NotRequired[dict[str, str]]  # SHA-256 by name
    train_seconds: float
    scores: ScoresContent


class Task(NamedTuple):
    """One row with one seed."""

    row: Row
    recipe: Recipe
    stages: list[Stage]
    pair: Pair
    out: Path
    device: str

    @property
    def folder(self) -> Path:
        """Where its run is kept: one folder for each row and seed."""
        return row_folder(self.out, self.row.name, self.recipe.seed)

    @property
    def steps(self) -> int:
        """Of its training, those of a common start not counted."""
        return trained_steps(self.stages)


def trained_steps(stages: list[Stage]) -> int:
    """Of all trainings together, those of a common start not counted."""
    return sum(stage.recipe.loop.steps for stage in stages if stage.kind == "train")


class Kept:
    """The scores of rows in one file, which is written as they come: what is committed of a comparison that takes days.

    A row is taken from it only where its constants, its pictures and the code from outside are the same. The code of this
    library is not compared: after a change of what a method computes, its rows have to be removed. others: files of other
    comparisons, of which such rows are taken too, whatever they are called there.
    """

    def __init__(self, path: Path | str, others: Iterable[Path] = ()) -> None:
        self.path = Path(path)
        self.rows = self._read(self.path) if self.path.is_file() else {}
        others = (self._read(other) for other in others if other != self.path)
        self.others = {content["key"]: content for rows in others for row in rows.values() for content in row.values()}

    @staticmethod
    def _read(path: Path) -> dict[str, dict[str, dict]]:
        return read_json(path, dict[str, dict[str, dict]])

    @staticmethod
    def key(task: Task) -> str:
        """Of all that decides what is learnt; paths are not among it."""
        recipes = [task.recipe.identity(), *(stage.recipe.identity() for stage in task.stages)]
        texts = ("source", "target", "validation", "labelled")
        pair = {name: value for name, value in task.pair.to_dict().items() if name not in texts}
        scored = ["multiscale"] * task.row.multiscale  # no recipe says so
        return hashlib.sha256(json.dumps([recipes, pair, _code(task), *scored], sort_keys=True).encode()).hexdigest()[:16]

    def find(self, task: Task) -> dict[str, Any] | None:
        """What `run_row` gave for this row, or None."""
        content, key = self.rows.get(task.row.name, {}).get(str(task.recipe.seed)), self.key(task)
        return content if content and content["key"] == key else self.others.get(key)

    def add(self, task: Task, content: dict[str, Any]) -> None:
        """Keep a row's scores."""
        row = {"key": self.key(task), "train_seconds": content["train_seconds"], "scores": content["scores"]}
        self.rows.setdefault(task.row.name, {})[str(task.recipe.seed)] = row
        write_whole(self.path, json.dumps(self.rows, indent=1) + "\n")


def row_folder(out: Path | str, name: str, seed: int | str) -> Path:
    """Where a row's network of one seed is.

    >>> row_folder("runs", "source-only, target statistics", 0).as_posix()
    'runs/source-only_target_statistics/seed0'
    """
    return Path(out) / folder_name(name) / f"seed{seed}"


def run_row(task: Task, quiet: bool = False) -> dict[str, Any]:
    """Train (or take) a row's network and score it; a finished row is read from `scores.json` instead of run again."""
    if (content := _finished(task)) is not None:
        return content
    row, recipe, stages, pair, _, device = task
    refuse_foreign(task.folder / "scores.json", KIND)
    (task.folder / "scores.json").unlink(missing_ok=True)  # of another recipe: its network is about to be replaced
    content = {"recipe": recipe.to_dict(), "stages": [stage.recipe.to_dict() for stage in stages], "pair": pair.to_dict()}
    content["code"] = _code(task)
    if row.network_of is not None:
        scores = score_network(
            row_folder(task.out, row.network_of, recipe.seed) / "best.pt", pair.validation, target=pair.target,
            statistics=recipe.statistics, multiscale=row.multiscale, skip_bad=pair.skip_bad, workers=recipe.workers,
            device=device, quiet=quiet,
        )  # fmt: skip
        content |= {"train_seconds": 0.0, "scores": scores.to_dict() | {"peak_mib": None}}
    else:
        content |= _run_stages(task, quiet)
    write_json(task.folder / "scores.json", content, KIND)
    return content


def _run_stages(task: Task, quiet: bool) -> dict[str, Any]:
    """The stages' network as `best.pt` in the row's folder, its scores, and the quality of its pseudo-labels."""
    stages, folder = task.stages, task.folder

    def run() -> dict[str, Any]:
        if stages[0].trained is not None:
            _begin_with(Path(stages[0].trained) / "best.pt", stages, folder)
        return run_plan(stages, task.pair, folder, device=task.device, quiet=quiet)

    tested = _run_again(run, stages, folder)
    trained = [folder_of(stages, stage.name, folder) for stage in stages if stage.kind == "train"]
    scored = folder_of(stages, stages[-1].network, folder)  # by the test
    labelling = [folder_of(stages, stage.name, folder) for stage in stages if stage.kind == "labels"]
    quality = read_labels(labelling[-1])["quality"] if labelling else None
    times = stage_times(folder) | (stage_times(Path(stages[0].trained).parent) if stages[0].trained else {})
    peaks = [stage["peak_bytes"] for stage in times.values() if stage["peak_bytes"]]
    second_name(scored / "best.pt", folder / "best.pt")
    more = {} if task.row.plan is None else {"labels": quality, "label_kinds": tested.get("label_kinds")}
    return {
        "train_seconds": round(sum(load_checkpoint(path / "last.pt")["seconds"] for path in trained), 1),
        "scores": tested["single"] | more | {"peak_mib": round(max(peaks) / 2**20) if peaks else None},
    }


def _run_again(run: Callable[[], Any], stages: list[Stage], folder: Path) -> Any:
    """`run()`; where the folder has stages of other constants or pictures, or all are torn, they are removed first."""
    try:
        return run()
    except CheckpointError as error:
        warnings.warn(f"{error} Running all stages again.", stacklevel=2)
        forget_plan(stages, folder)
        return run()


def _begin_with(network: Path, stages: list[Stage], folder: Path) -> None:
    """Note which shared network a row begins with; stages that began with another one are removed."""
    note, begins = folder / BEGINS, f"{network.parent.parent.name} {digest(network)}, {mark(KIND)}\n"
    refuse_foreign(note, KIND)
    if note.is_file() and read_text(note) != begins:
        warnings.warn(f"{folder} began with another source stage. Running all its stages again.", stacklevel=2)
        forget_plan(stages, folder)
    write_result(note, begins, KIND)


def _refuse_one_folder(rows: tuple[Row, ...]) -> None:
    """ValueError where two rows would be in one folder; upper and lower case do not count on every system."""
    names: dict[str, str] = {}
    for row in rows:
        folder = folder_name(row.name).casefold()
        if folder in names:
            raise ValueError(
                f"The rows {names[folder]!r} and {row.name!r} would be in one folder, {folder!r}. Rename one of them: case and "
                "punctuation make no difference."
            )
        names[folder] = row.name


def _finished(task: Task) -> dict[str, Any] | None:
    """What an earlier, equal run of this row has left."""
    path = task.folder / "scores.json"
    if made_by(path, KIND) and (task.row.network_of or (path.parent / "best.pt").exists()):
        content = read_json(path, RowScores)
        was = {"content": None} | content["pair"]  # an earlier version did not look at the files
        was["prepared"] = was.pop("prototypes", was.get("prepared"))
        gone = None in (was["content"], task.pair.content)  # the data: then the paths decide
        kept = {"content": was["content"]} if gone else {}
        try:
            recipe, *stages = (Recipe.from_dict(each) for each in (content["recipe"], *content["stages"]))
        except ValueError:  # of a method that is gone, for example
            return None
        same = stages == [stage.recipe for stage in task.stages] or (not stages and task.row.plan is None)
        same = same and not outside.changed(content.get("code", {}), _code(task))
        if same and recipe == task.recipe and was == task.pair.to_dict() | kept:
            return content
    return None


def _code(task: Task) -> dict[str, str]:
    """Of the code from outside this library that a row runs."""
    return {name: sha256 for stage in task.stages for name, sha256 in code_of(stage.recipe).items()}


def compare(
    recipe_name: str,
    pair: Pair,
    out: Path | str,
    *,
    seeds: tuple[int, ...] = (0, 1, 2),
    rows: tuple[Row, ...] | None = None,
    overrides: tuple[str, ...] = (),
    device: str = "cpu",
    jobs: int | None = None,
    command: str = "",
    quiet: bool = False,
    tell: Callable[[str, int, dict[str, Any]], object] = lambda name, seed, content: None,
    take_over: bool = False,
    kept: Kept | None = None,
) -> dict[str, Any]:
    """Run all rows on all seeds; write `results.json`, `.csv` and `.md` into `out`. Interrupted, it continues where it was.

    overrides: "KEY=value" of every row that has the key. jobs: networks trained at once, by default one per CPU core (each with
    one thread: small networks gain little from more) and one on a GPU. tell: called with a row's name, its seed and the content
    of its scores.json as soon as it is scored. take_over: see `engine.RunLock`. kept: takes the scores as they come; rows that
    it has are not run.
    """
    out = Path(out).expanduser()
    rows = standard_rows(recipe_name, overrides=overrides) if rows is None else rows
    if not rows:
        raise ValueError("There are no rows to compare. Leave out rows= for those of the pair, or name one or more.")
    check_overrides(rows, recipe_name, overrides)
    _refuse_one_folder(rows)
    recipes = {(row.name, seed): row_recipe(row, recipe_name, overrides, seed) for row in rows for seed in seeds}
    pair = replace(pair, content=content_of(pair, recipes[rows[0].name, seeds[0]].space))
    tasks = [
        Task(row, recipes[row.name, seed], _stages(row, recipe_name, overrides, seed, out), pair, out, str(device))
        for row in rows
        for seed in seeds
    ]
    written = [out / f"results.{ending}" for ending in ("json", "csv", "md")]
    for path in (*written, *(task.folder / "scores.json" for task in tasks)):
        refuse_foreign(path, KIND)
    for task in tasks:
        if not made_by(task.folder / STAGE_TIMES, RUN):  # else its best.pt is a second name
            RunFolder(task.folder).refuse_foreign()
    notes = enlarged([stage for task in tasks for stage in task.stages], pair) + terms_left_out(rows, recipe_name, overrides)
    for text in notes if not quiet else ():
        print(f"Note: {text}", file=sys.stderr)
    known = {(t.row.name, t.recipe.seed): found for t in tasks if kept is not None and (found := kept.find(t)) is not None}
    # a network that another row still has to score is trained again: scores alone are kept
    scores = {(t.row.network_of, t.recipe.seed) for t in tasks if (t.row.name, t.recipe.seed) not in known}
    known = {key: content for key, content in known.items() if key not in scores}
    others = {(t.row.name, t.recipe.seed): (t.row.network_of, t.recipe.seed) for t in tasks if t.row.network_of}
    known = {key: content for key, content in known.items() if key not in others or others[key] in known}
    tasks = [task for task in tasks if (task.row.name, task.recipe.seed) not in known]
    again = {(task.row.name, task.recipe.seed) for task in tasks if task.row.network_of is None and not _finished(task)}
    for task in tasks:
        if (task.row.network_of, task.recipe.seed) in again:  # what an earlier network scored
            (task.folder / "scores.json").unlink(missing_ok=True)
    todo = [task for task in tasks if not _finished(task)]

    def scored(key: tuple[str, int], content: dict[str, Any]) -> None:
        if kept is not None:
            kept.add(next(task for task in tasks if (task.row.name, task.recipe.seed) == key), content)
        tell(*key, content)

    look_at_stages([stage for task in todo for stage in task.stages], pair)
    jobs = jobs or default_jobs(device)
    # the tasks hold settings of classes from outside, which every process has to know
    code = partial(load_code, outside.loaded()) if jobs > 1 else None
    RunFolder(out).prepare()
    with RunLock(out, take_over, below=True), Pool(jobs, quiet, scored, code) as run:
        # First what others wait for: the common starts, then networks, then rows that score another row's network.
        # The longest first, so that no core idles at the end; before them rows that train nothing.
        starts = dict(start for task in todo for start in _starts(task))
        run("common start", _start, [(recipe, pictures, str(device)) for recipe, pictures in starts.values()])
        begins = (task.stages[0] for task in todo)
        shared = {stage.trained: stage for stage in begins if stage.trained is not None}
        run("source stages", _train_shared, [(stage, pair, str(device)) for stage in shared.values()])
        own = sorted((t for t in tasks if t.row.network_of is None), key=lambda task: compute(task.stages), reverse=True)
        borrowed = [t for t in tasks if t.row.network_of is not None]
        trained = [t for t in own if t.steps]
        contents = known | run("starts", _run_row, [(t,) for t in own if not t.steps], tell=True)
        contents |= run("networks", _run_row, [(t,) for t in trained], steps=lambda: [_done(t) for t in trained], tell=True)
        contents |= run("other scorings", _run_row, [(t,) for t in borrowed], tell=True)

    found, trainer = {}, {row.name: row for row in rows}  # of the network that a row scores
    for row in rows:
        each = {str(seed): contents[row.name, seed] for seed in seeds}
        runs = {seed: {"train_seconds": content["train_seconds"], **content["scores"]} for seed, content in each.items()}
        recipe = recipes[row.name, seeds[0]]
        found[row.name] = {
            "method": row.method,
            "overrides": list(row.overrides),
            **{key: getattr(row, key) for key in ("explanation", "network_of", "control", "published")},
            **{key: getattr(recipe, key) for key in ("statistics", "select")},
            "steps": trained_steps(row_stages(row, recipe_name, overrides, seeds[0])) if row.network_of is None
            else recipe.loop.steps,
            "passes": row_compute(trainer.get(row.network_of, row), recipe_name, overrides, seeds[0]),
            **over_seeds(runs),
            "seeds": runs,
        }
    results = {
        "made_by": KIND,
        "recipe": recipe_name,
        "command": command,
        "space": recipe.space,
        "overrides": list(overrides),
        "constants": {row.name: recipes[row.name, seeds[0]].to_dict() for row in rows},
        "rows": found,
        "machine": machine(device) | {"jobs": jobs},
        **({"notes": notes} if notes else {}),
    }
    write_json(out / "results.json", results, KIND)
    write_result(out / "results.csv", scores_csv(results), KIND)
    write_result(out / "results.md", comment(KIND) + table(results), KIND)
    return results


def over_seeds(runs: dict[str, Any]) -> dict[str, float | None]:
    """Means of a row's scores by seed, in %, and the standard deviation of its mIoU (None for one seed)."""
    mious = [100 * run["miou"] for run in runs.values()]
    return {
        "miou_mean": statistics.fmean(mious),
        "miou_spread": statistics.stdev(mious) if len(mious) > 1 else None,
        "common_mean": 100 * statistics.fmean(run["miou_common"] for run in runs.values()),
    }


def scores_csv(results: dict[str, Any]) -> str:
    """results.csv: a line for each row, seed and class, and for the means of that row and seed (`class` is then mIoU, mIoU-16,
    mIoU-common or accuracy); scores are fractions from 0 to 1, empty for a class in no label and no prediction."""
    lines = []
    for name, row in results["rows"].items():
        for seed, run in row["seeds"].items():
            means = {"mIoU": run["miou"], **{f"mIoU-{classes}": value for classes, value in run["subsets"].items()}}
            means |= {"mIoU-common": run["miou_common"], "accuracy": run["accuracy"]}
            lines += [(name, seed, class_name, value) for class_name, value in (run["iou"] | means).items()]
    return table_text(("row", "seed", "class", "score"), lines, KIND)


# ---- tasks of the pool ---------------------------------------------------------------------------------------------


def _done(task: Task) -> tuple[int, int]:
    """How many training steps a row has done, read from the last lines of its logs, and how many it wants."""
    if _finished(task) is not None:
        return task.steps, task.steps
    return sum(last_step(folder_of(task.stages, stage.name, task.folder) / "log.jsonl") for stage in task.stages), task.steps


def _starts(task: Task) -> Iterable[tuple[tuple[str, str | None], tuple[Recipe, Pair]]]:
    """(key, (recipe, pictures)) of the common starts of a row's stages: those of a plan that chooses do not learn from the
    pictures that are held out."""
    pair, _ = hold_out(task.stages, task.pair)
    for stage in task.stages:
        if stage.kind in ("start", "train") and stage.network is None and stage.recipe.has_start:
            yield (start_key(start_recipe(stage.recipe)), pair.source), (stage.recipe, pair)


def _start(recipe: Recipe, pair: Pair, device: str, quiet: bool) -> tuple:
    common_start(recipe, pair, device=device, quiet=quiet)
    return recipe.seed, None


def _stages(row: Row, recipe_name: str, overrides: tuple[str, ...], seed: int, out: Path) -> list[Stage]:
    """A row's stages; the source stage of a plan is trained in a folder that all rows with the same one share, OUT/shared/.

    Not that of a plan that chooses: it may not learn from the pictures that are held out (`parts.hold_out`), other rows do.
    """
    stages = row_stages(row, recipe_name, overrides, seed)
    if row.plan is None or stages[0].kind != "train" or "target" in stages[0].recipe.streams:
        return stages
    if any(stage.kind == "choose" for stage in stages):
        return stages
    recipe = stages[0].recipe
    folder = out / "shared" / f"source_seed{recipe.seed}_{learning_key(recipe)}"
    return [replace(stages[0], trained=str(folder_of(stages, stages[0].name, folder))), *stages[1:]]


def _train_shared(stage: Stage, pair: Pair, device: str, quiet: bool) -> tuple:
    """Train a stage that rows share, before any of them: they only read its folder."""
    folder, stages = Path(stage.trained).parent, [replace(stage, trained=None)]
    _run_again(partial(run_plan, stages, pair, folder, device=device, quiet=quiet), stages, folder)
    return stage.trained, None


def _run_row(task: Task, quiet: bool) -> tuple:
    return (task.row.name, task.recipe.seed), run_row(task, quiet)


def default_jobs(device: torch.device | str) -> int:
    """Networks trained at once: one per CPU core, one on a GPU."""
    return (os.cpu_count() or 1) if torch.device(device).type == "cpu" else 1


def machine(device: torch.device | str = "cpu") -> dict[str, Any]:
    """Versions and hardware that a number was measured with, on `device`."""
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name(device) if torch.device(device).type == "cuda" else None,
    }
