"""Several methods on several seeds, in one table with its controls: the only way the course reports a gain.

A table has five kinds of rows: source-only with the same steps; source-only with the compute of a method, without and with
strong photometric augmentation; target pictures forwarded through the normalisation layers without a loss; the methods; the
oracle. The gain of a row is taken from its control, the row with the same start, augmentation and compute (recipes.compute).
"""

import json
import os
import platform
import re
import statistics
import sys
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypedDict

import torch
import torchvision

from course_lib.engine import CheckpointError, PeakMemory, RunFolder, RunLock, load_checkpoint
from course_lib.engine.checkpoint import second_name
from course_lib.engine.progress import last_step
from course_lib.evaluation.labelling import read_labels
from course_lib.evaluation.scoring import ScoresContent
from course_lib.files import comment, digest, made_by, mark, read_json, read_text, refuse_foreign, write_result
from course_lib.recipes import recipe as find_recipe
from course_lib.recipes.compute import compute, equal_steps
from course_lib.recipes.needed import content_of, look_at_stages
from course_lib.recipes.plan import KIND as RUN
from course_lib.recipes.plan import (
    STAGE_TIMES,
    Stage,
    contrast_alone,
    folder_of,
    forget_plan,
    has_published_stages,
    run_plan,
    source_alone,
    stage_times,
    straight_to_labels,
    without_contrast,
)
from course_lib.recipes.plan import plan as make_plan
from course_lib.recipes.pool import Pool
from course_lib.recipes.prepared_sizes import enlarged
from course_lib.recipes.recipe import Recipe
from course_lib.recipes.stages import Pair, common_start, score_network, train_recipe
from course_lib.recipes.state import differences, learning_key
from course_lib.recipes.table import table
from course_lib.terminal import print

BEGINS = "begins_with.txt"  # in a row's folder: which shared source stage its stages began with
KIND = "uda compare"  # in the results of a comparison, whichever command made it


class RowScores(TypedDict):
    """What a row leaves in scores.json."""

    recipe: dict
    stages: list
    pair: dict
    train_seconds: float
    scores: ScoresContent


@dataclass(frozen=True)
class Arm:
    """One row of a table: a method with settings, or another row's network scored in another way."""

    name: str
    method: str
    overrides: tuple[str, ...] = ()
    network_of: str | None = None  # score the network of this row instead of training one
    explanation: str = ""
    control: str | None = None  # the row that its gain is taken from
    compute_of: "Arm | None" = None  # train as many steps as cost what this arm's training costs
    # several stages that share the steps; "contrast": the first half of proca's, with all steps; "ada-st": contrast off. Where
    # the recipe has published stages they keep their steps, and there is "source of bida". "source": the first stage alone
    plan: Literal["proca", "contrast", "ada-st", "bida", "source", "source of bida", None] = None
    multiscale: bool = False  # score at six scales, plain and mirrored
    published: float | None = None  # mIoU in % that the paper's table has in this place; the source is GTA5 or SYNTHIA

    def recipe(self, name: str, overrides: tuple[str, ...], seed: int) -> Recipe:
        """The arm's constants: the recipe, then what the comparison sets, then what the arm sets."""
        recipe = find_recipe(name, self.method).override(*overrides, *self.overrides, f"seed={seed}")
        if self.compute_of is None:
            return recipe
        return recipe.override(f"steps={equal_steps(self.compute_of.compute(name, overrides, seed), recipe)}")

    def compute(self, name: str, overrides: tuple[str, ...], seed: int) -> int:
        """What the arm's training costs, in passes (recipes.compute)."""
        return compute(self.all_stages(name, overrides, seed))

    def all_stages(self, name: str, overrides: tuple[str, ...], seed: int) -> list[Stage]:
        """The arm's stages, also where it has no plan: training, and the test."""
        stages = self.stages(name, overrides, seed) or _as_stages(self, self.recipe(name, overrides, seed))
        return stages if self.network_of is None else stages[-1:]

    def stages(self, name: str, overrides: tuple[str, ...], seed: int) -> list[Stage]:
        """The stages of an arm that has a plan: of a small recipe they train as many steps together as any other arm, of one
        with published stages as many as published."""
        if self.plan is None:
            return []
        if has_published_stages(name):
            paper = "bida" if self.plan.endswith("bida") else "proca"
            stages = make_plan(name, paper, (*overrides, *self.overrides, f"seed={seed}"))
            part = {"contrast": contrast_alone, "ada-st": straight_to_labels}.get(self.plan, list)
            part = source_alone if self.plan.startswith("source") else part
            return [replace(stage, multiscale=False) for stage in part(stages)]
        recipe = self.recipe(name, overrides, seed)
        steps = recipe.loop.steps
        if self.plan == "source":
            return source_alone(make_plan(name, "proca", (*overrides, *self.overrides, f"seed={seed}")))
        if self.plan == "bida":
            share = f"round.steps={max(1, steps // recipe.bida.rounds)}"
            stages = make_plan(name, "bida", (*overrides, *self.overrides, f"seed={seed}", share))
            return [replace(stage, multiscale=False) for stage in stages]
        first = steps if self.plan == "contrast" else steps // 2
        shares = [f"self-training.steps={max(1, steps - first)}", f"contrast.steps={first}"]
        stages = make_plan(name, "proca", (*overrides, *self.overrides, f"seed={seed}", *shares))
        stages = {"proca": list, "contrast": contrast_alone, "ada-st": without_contrast}[self.plan](stages)
        return [replace(stage, multiscale=False) for stage in stages]  # multi-scale scores are a row of their own


def standard_arms(recipe_name: str) -> tuple[Arm, ...]:
    """Source-only, its controls, AdaptSegNet and the oracle."""
    recipe = find_recipe(recipe_name, "source-only")
    frozen = recipe.network_options.get("norm") == "frozen"  # then bn-control would train source-only's network, bit for bit
    adaptsegnet = Arm("adaptsegnet", "adaptsegnet", explanation="adversarial alignment of the outputs")
    plain = control_of(adaptsegnet, recipe_name)
    norm = Arm(
        "bn-control",
        "bn-control",
        network_of="source-only" if frozen else None,
        control="source-only",
        explanation="target pictures pass the normalisation layers in training, no loss"
        + ("; these layers are frozen, so it is source-only's network" if frozen else ""),
    )
    norm_control = () if frozen else (control_of(norm, recipe_name),)
    return (
        Arm("source-only", "source-only", explanation="source labels alone"),
        *norm_control,
        plain,
        Arm(
            "source-only + photometric",
            "source-only",
            ("photometric=strong",),
            control=plain.name,
            compute_of=adaptsegnet,
            explanation="strong photometric augmentation, the steps that cost what a method with two domains costs",
        ),
        Arm(
            "source-only, target statistics",
            "source-only",
            ("statistics=target",),
            network_of="source-only",
            control="source-only",
            explanation="source-only's network, its normalisation statistics re-estimated on target pictures",
        ),
        replace(norm, control=norm_control[0].name if norm_control else "source-only"),
        replace(adaptsegnet, control=plain.name),
        Arm("target-only (oracle)", "target-only", control="source-only", explanation="trained on the target's labels"),
    )


def control_of(arm: Arm, recipe_name: str, overrides: tuple[str, ...] = ()) -> Arm:
    """The row that `arm` has to be read against: source-only with its compute, named by how much that is of source-only's.

    >>> control_of(Arm("adaptsegnet", "adaptsegnet"), "ministreet").name
    'source-only, 2 x compute'
    """
    plain = Arm("source-only", "source-only", overrides)
    times = arm.compute(recipe_name, (), 0) / plain.compute(recipe_name, (), 0)
    return replace(
        plain,
        name=f"source-only, {times:.3g} x compute",
        compute_of=arm,
        explanation=f"source labels alone, {times:.3g} times the steps: the compute of {arm.name}",
    )


def folder_name(arm: Arm) -> str:
    """The arm's name as a folder.

    >>> folder_name(Arm("source-only, target statistics", "source-only"))
    'source-only_target_statistics'
    """
    return re.sub(r"[^\w-]+", "_", arm.name).strip("_")


def run_arm(
    arm: Arm, recipe: Recipe, pair: Pair, out: Path, *, stages: list[Stage] = (), device: str = "cpu", quiet: bool = False
) -> dict[str, Any]:
    """Train (or take) one arm's network and score it; a finished arm is read from `scores.json` instead of run again."""
    if (content := _finished(arm, recipe, pair, out, stages)) is not None:
        return content
    folder = out / folder_name(arm) / f"seed{recipe.seed}"
    refuse_foreign(folder / "scores.json", KIND)
    (folder / "scores.json").unlink(missing_ok=True)  # of another recipe: its network is about to be replaced
    if stages:
        return _run_stages(stages, recipe, pair, folder, device, quiet)
    peak = None
    if arm.network_of is None:
        memory = PeakMemory(device)
        try:
            existing = "resume" if _resumable(recipe, folder) else "replace"
            checkpoint = train_recipe(recipe, pair, folder, existing=existing, device=device, quiet=quiet)
        except CheckpointError as error:  # other pictures, or all torn
            warnings.warn(f"{error} Training it again.", stacklevel=2)
            checkpoint = train_recipe(recipe, pair, folder, existing="replace", device=device, quiet=quiet)
        peak = memory.bytes()
    else:
        checkpoint = out / folder_name(Arm(arm.network_of, arm.method)) / f"seed{recipe.seed}" / "best.pt"
    scores = score_network(
        checkpoint, pair.validation, target=pair.target, statistics=recipe.statistics, multiscale=arm.multiscale,
        skip_bad=pair.skip_bad, workers=recipe.workers, device=device, quiet=quiet,
    )  # fmt: skip
    content = {
        "recipe": recipe.to_dict(),
        "stages": [],
        "pair": asdict(pair),
        "train_seconds": round(load_checkpoint(folder / "last.pt")["seconds"], 1) if arm.network_of is None else 0.0,
        "scores": scores.to_dict() | {"peak_mib": _mib(peak)},
    }
    write_json(folder / "scores.json", content, KIND)
    return content


def _run_stages(
    stages: list[Stage], recipe: Recipe, pair: Pair, folder: Path, device: str, quiet: bool
) -> dict[str, Any]:
    """A plan's network as `folder/best.pt`, its scores, and the quality of its pseudo-labels."""

    def run() -> dict[str, Any]:
        if stages[0].trained is not None:
            _begin_with(Path(stages[0].trained) / "best.pt", stages, folder)
        return run_plan(stages, pair, folder, device=device, quiet=quiet)

    try:
        tested = run()
    except CheckpointError as error:  # of other constants or pictures, or all torn
        warnings.warn(f"{error} Running all stages again.", stacklevel=2)
        forget_plan(stages, folder)
        tested = run()
    trained = [folder_of(stages, stage.name, folder) for stage in stages if stage.kind == "train"]
    scored = folder_of(stages, stages[-1].network, folder)  # by the test
    labelling = [folder_of(stages, stage.name, folder) for stage in stages if stage.kind == "labels"]
    quality = read_labels(labelling[-1])["quality"] if labelling else None
    times = stage_times(folder) | (stage_times(Path(stages[0].trained).parent) if stages[0].trained else {})
    peaks = [stage["peak_bytes"] for stage in times.values() if stage["peak_bytes"]]
    second_name(scored / "best.pt", folder / "best.pt")
    content = {
        "recipe": recipe.to_dict(),
        "stages": [stage.recipe.to_dict() for stage in stages],
        "pair": asdict(pair),
        "train_seconds": round(sum(load_checkpoint(path / "last.pt")["seconds"] for path in trained), 1),
        "scores": tested["single"] | {
            "labels": quality,
            "label_kinds": tested.get("label_kinds"),
            "peak_mib": _mib(max(peaks, default=None)),
        },
    }
    write_json(folder / "scores.json", content, KIND)
    return content


def _begin_with(network: Path, stages: list[Stage], folder: Path) -> None:
    """Note which shared network a row begins with; stages that began with another one are removed."""
    note, begins = folder / BEGINS, f"{network.parent.parent.name} {digest(network)}, {mark(KIND)}\n"
    refuse_foreign(note, KIND)
    if note.is_file() and read_text(note) != begins:
        warnings.warn(f"{folder} began with another source stage. Running all its stages again.", stacklevel=2)
        forget_plan(stages, folder)
    write_result(note, begins, KIND)


def _mib(size: int | None) -> int | None:
    return None if size is None else round(size / 2**20)


def _resumable(recipe: Recipe, folder: Path) -> bool:
    """Whether a run that was cut off in `folder` is this one."""
    try:
        return not differences(Recipe.from_dict(read_json(folder / "recipe.json")), recipe)
    except (OSError, ValueError):
        return False


def _finished(
    arm: Arm, recipe: Recipe, pair: Pair, out: Path, stages: list[Stage] = ()
) -> dict[str, Any] | None:
    """What an earlier, equal run of this arm has left."""
    path = out / folder_name(arm) / f"seed{recipe.seed}" / "scores.json"
    if made_by(path, KIND) and (arm.network_of or (path.parent / "best.pt").exists()):
        content = read_json(path, RowScores)
        was = {"content": None} | content["pair"]  # an earlier version did not look at the files
        kept = {} if None not in (was["content"], pair.content) else {"content": was["content"]}  # data that is gone: the paths
        same = content["recipe"] == recipe.to_dict() and was == asdict(pair) | kept
        if same and content["stages"] == [stage.recipe.to_dict() for stage in stages]:
            return content
    return None


def compare(
    recipe_name: str,
    pair: Pair,
    out: Path | str,
    *,
    seeds: tuple[int, ...] = (0, 1, 2),
    arms: tuple[Arm, ...] | None = None,
    overrides: tuple[str, ...] = (),
    device: str = "cpu",
    jobs: int | None = None,
    command: str = "",
    quiet: bool = False,
    tell: Callable[[str, int, dict[str, Any]], object] = lambda name, seed, content: None,
    take_over: bool = False,
) -> dict[str, Any]:
    """Run all arms on all seeds and write `out/results.json` and `out/results.md`. Interrupted, it goes on where it was.

    jobs: networks trained at once, by default one per CPU core (each with one thread: small networks gain little from
    more) and one on a GPU. tell: called with a row's name, its seed and the content of its scores.json as soon as it is scored.
    take_over: see `engine.RunLock`.
    """
    out = Path(out).expanduser()
    arms = arms or standard_arms(recipe_name)
    recipes = {(arm.name, seed): arm.recipe(recipe_name, overrides, seed) for arm in arms for seed in seeds}
    pair = replace(pair, content=content_of(pair, recipes[arms[0].name, seeds[0]].space))
    tasks = [
        (arm, recipes[arm.name, seed], pair, out, _stages(arm, recipe_name, overrides, seed, out), str(device))
        for arm in arms
        for seed in seeds
    ]
    folders = [out / folder_name(arm) / f"seed{recipe.seed}" for arm, recipe, *_ in tasks]
    for path in (out / "results.json", out / "results.md", *(folder / "scores.json" for folder in folders)):
        refuse_foreign(path, KIND)
    for folder in folders:
        if not made_by(folder / STAGE_TIMES, RUN):  # the row of a plan, whose best.pt is a second name
            RunFolder(folder).refuse_foreign()
    notes = enlarged([stage for arm, recipe, *_, stages, _ in tasks for stage in stages or _as_stages(arm, recipe)], pair)
    for text in notes if not quiet else ():
        print(f"Note: {text}", file=sys.stderr)
    todo = [task for task in tasks if not _finished(*task[:5])]
    look_at_stages([stage for arm, recipe, *_, stages, _ in todo for stage in stages or _as_stages(arm, recipe)], pair)
    jobs = jobs or default_jobs(device)
    RunFolder(out).prepare()
    with RunLock(out, take_over, below=True), Pool(jobs, quiet, lambda key, content: tell(*key, content)) as run:
        # First what others wait for: the common starts, then networks, then rows that score another row's network.
        # The longest first, so that no core idles at the end; before them rows that train nothing.
        starts = {seed: recipes[arms[0].name, seed] for seed in seeds if any(not _finished(*t[:5]) for t in tasks)}
        run("common start", _start, [(recipe, pair, str(device)) for recipe in starts.values()])
        begins = (t[4][0] for t in tasks if t[4] and not _finished(*t[:5]))  # a plan's first stage
        shared = {stage.trained: stage for stage in begins if stage.trained is not None}
        run("source stages", _train_shared, [(stage, pair, str(device)) for stage in shared.values()])
        own = sorted((t for t in tasks if t[0].network_of is None), key=_cost, reverse=True)
        borrowed = [t for t in tasks if t[0].network_of is not None]
        trained = [t for t in own if _wanted(t[1], t[4])]
        contents = run("starts", _run_arm, [t for t in own if not _wanted(t[1], t[4])], tell=True)
        contents |= run("networks", _run_arm, trained, steps=lambda: [_steps(*t[:5]) for t in trained], tell=True)
        contents |= run("other scorings", _run_arm, borrowed, tell=True)

    rows, trainer = {}, {arm.name: arm for arm in arms}  # of the network that a row scores
    for arm in arms:
        runs = {}
        for seed in seeds:
            content = contents[arm.name, seed]
            runs[str(seed)] = {"train_seconds": content["train_seconds"], **content["scores"]}
        mious = [100 * run["miou"] for run in runs.values()]
        recipe = recipes[arm.name, seeds[0]]
        rows[arm.name] = {
            "method": arm.method,
            "overrides": list(arm.overrides),
            "explanation": arm.explanation,
            "network_of": arm.network_of,
            "control": arm.control,
            "published": arm.published,
            "statistics": recipe.statistics,
            "select": recipe.select,
            "steps": _wanted(recipe, arm.stages(recipe_name, overrides, seeds[0])),
            "passes": (trainer[arm.network_of] if arm.network_of in trainer else arm).compute(recipe_name, overrides, seeds[0]),
            "miou_mean": statistics.fmean(mious),  # in %
            "miou_spread": statistics.stdev(mious) if len(mious) > 1 else None,
            "common_mean": 100 * statistics.fmean(run["miou_common"] for run in runs.values()),
            "seeds": runs,
        }
    results = {
        "made_by": KIND,
        "recipe": recipe_name,
        "command": command,
        "space": recipe.space,
        "overrides": list(overrides),
        "constants": find_recipe(recipe_name, "adaptsegnet").override(*overrides).to_dict(),
        "rows": rows,
        "machine": machine(device) | {"jobs": jobs},
        **({"notes": notes} if notes else {}),
    }
    write_json(out / "results.json", results, KIND)
    write_result(out / "results.md", comment(KIND) + table(results), KIND)
    return results


# ---- tasks of the pool ---------------------------------------------------------------------------------------------


def _as_stages(arm: Arm, recipe: Recipe) -> list[Stage]:
    """An arm without a plan, as one."""
    return [Stage(arm.name, "train", recipe), Stage(f"score {arm.name}", "test", recipe)]


def _steps(arm: Arm, recipe: Recipe, pair: Pair, out: Path, stages: list[Stage]) -> tuple[int, int]:
    """How many training steps an arm has done, read from the last lines of its logs, and how many it wants."""
    wanted = _wanted(recipe, stages)
    if _finished(arm, recipe, pair, out, stages) is not None:
        return wanted, wanted
    folder, done = out / folder_name(arm) / f"seed{recipe.seed}", 0
    for log in [folder / "log.jsonl", *(folder_of(stages, stage.name, folder) / "log.jsonl" for stage in stages)]:
        done += last_step(log)
    return done, wanted


def _wanted(recipe: Recipe, stages: list[Stage]) -> int:
    """The training steps of an arm, those of a common start not counted."""
    return sum(stage.recipe.loop.steps for stage in stages if stage.kind == "train") if stages else recipe.loop.steps


def _start(recipe: Recipe, pair: Pair, device: str, quiet: bool) -> tuple:
    common_start(recipe, pair, device=device, quiet=quiet)
    return recipe.seed, None


def _stages(arm: Arm, recipe_name: str, overrides: tuple[str, ...], seed: int, out: Path) -> list[Stage]:
    """An arm's stages; a source stage is trained in a folder that all rows with the same one share, OUT/shared/."""
    stages = arm.stages(recipe_name, overrides, seed)
    if not stages or stages[0].kind != "train" or stages[0].recipe.method != "source-only":
        return stages
    recipe = stages[0].recipe
    folder = out / "shared" / f"source_seed{recipe.seed}_{learning_key(recipe)}"
    return [replace(stages[0], trained=str(folder_of(stages, stages[0].name, folder))), *stages[1:]]


def _train_shared(stage: Stage, pair: Pair, device: str, quiet: bool) -> tuple:
    """Train a stage that rows share, before any of them: they only read its folder."""
    folder, stages = Path(stage.trained).parent, [replace(stage, trained=None)]
    try:
        run_plan(stages, pair, folder, device=device, quiet=quiet)
    except CheckpointError as error:  # of other pictures, or all torn
        warnings.warn(f"{error} Training it again.", stacklevel=2)
        forget_plan(stages, folder)
        run_plan(stages, pair, folder, device=device, quiet=quiet)
    return stage.trained, None


def _run_arm(arm: Arm, recipe: Recipe, pair: Pair, out: Path, stages: list[Stage], device: str, quiet: bool) -> tuple:
    return (arm.name, recipe.seed), run_arm(arm, recipe, pair, out, stages=stages, device=device, quiet=quiet)


def _cost(task: tuple) -> int:
    """What a network's training costs."""
    arm, recipe, *_, stages, _ = task
    return compute(stages or _as_stages(arm, recipe))


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


def write_json(path: Path, content: dict[str, Any], kind: str, replace: bool = False) -> None:
    """Write JSON of the command `kind` whole or not at all (`files.write_result`)."""
    write_result(path, json.dumps({"made_by": kind, **content}, indent=1) + "\n", kind, replace)
