"""The main job, from nothing to a table: make the embedded pair of domains, adapt, score, report."""

from pathlib import Path
from typing import Any

import torch
from tqdm.auto import tqdm

from course_lib.data import ministreet
from course_lib.experiments.compare import compare, default_jobs
from course_lib.experiments.estimate import estimate, measure_rate
from course_lib.experiments.parts import Pair
from course_lib.experiments.rows import row_recipe, row_stages, standard_rows
from course_lib.experiments.table import table
from course_lib.recipes import Row
from course_lib.recipes.paper import Counts
from course_lib.report import first_picture, refuse_foreign_report, write_report
from course_lib.terminal import duration, print

SOURCE_SEED, TARGET_SEED, VALIDATION_SEED = 1, 2, 3  # sets of different seeds share no scene
PICTURES = {False: (240, 120), True: (40, 16)}  # quick? -> pictures per training set, pictures that are scored
STEPS = {False: 120, True: 16}  # of a method with two domains; its control has as many passes
PICTURE_SECONDS = 0.06  # to draw and write one, on one core


def demo_rows() -> tuple[Row, ...]:
    """The start itself, the standard rows, and the stages of ProCA and BiDA and the mean teacher before the oracle."""
    *rows, oracle = standard_rows("ministreet", ("adaptsegnet",))
    two_domains = next(row.compute_of for row in rows if row.compute_of is not None)  # what the controls have the compute of
    proca = "prototype contrast, class-wise pseudo-labels, self-training, half the steps each, with strong augmentation"
    bida = "forward and backward contrast, hybrid pseudo-labels, in rounds that share the steps, augmented likewise"
    dacs = "a mean teacher's labels, class by class, half of the pictures mixed; at most the passes of its control"
    augmented = "source-only + photometric"
    return (
        Row("start", "source-only", plan="proca", part="source", explanation="the network that every row begins with"),
        *rows,
        Row("proca", "self-training", plan="proca", control=augmented, explanation=proca),
        Row("bida", "bida", plan="bida", control=augmented, explanation=bida),
        Row("dacs", "dacs", ("unmixed=0.5",), control=augmented, compute_of=two_domains, explanation=dacs),
        oracle,
    )


def demo_settings(quick: bool) -> tuple[str, ...]:
    """The shipped start, for every row, and the steps."""
    return ("start_from=ministreet", f"steps={STEPS[quick]}")


def ministreet_pair(pictures: int, validation: int, *, layout: str = "gta5", quiet: bool = False, **options) -> Pair:
    """MiniStreet on disk, made once and cached: game look as GTA5 or SYNTHIA, camera look as Cityscapes.

    `pictures` per training set, `validation` labelled target pictures for scoring; `options` go to `ministreet.cached`.
    """
    options["progress"] = not quiet
    source = ministreet.cached(layout, pictures, SOURCE_SEED, **options)
    target = ministreet.cached("cityscapes", pictures, TARGET_SEED, **options)
    held_out = ministreet.cached("cityscapes", validation, VALIDATION_SEED, split="val", **options)
    return Pair(f"{layout}:{source}", f"cityscapes:{target}", f"cityscapes:{held_out}@val")


def estimated_seconds(rows: tuple[Row, ...], overrides: tuple[str, ...], counts: Counts, device: str = "cpu") -> float:
    """How long the demo takes here: the passes of all rows at the speed of the first steps, measured on this machine."""
    jobs, threads = default_jobs(device), torch.get_num_threads()
    recipe = row_recipe(rows[0], "ministreet", overrides, 0)
    try:
        torch.set_num_threads(max(1, threads // jobs))  # as each of the processes that train side by side
        looks = [measure_rate(recipe, device, 1.0, batch_size=recipe.batch_size) for _ in range(3)]
        rate = min(look.seconds_per_pixel for look in looks)  # others may use the machine
    finally:
        torch.set_num_threads(threads)
    stages = [stage for row in rows for stage in row_stages(row, "ministreet", overrides, 0)]
    work = sum(row.seconds for row in estimate(stages, counts, rate))
    return (work + PICTURE_SECONDS * (counts.source + counts.target + counts.validation)) / jobs


def run_demo(
    out: Path | str,
    *,
    quick: bool = False,
    seed: int = 0,
    device: str = "cpu",
    quiet: bool = False,
    command: str = "uda demo",
    take_over: bool = False,
) -> dict[str, Any]:
    """Write `out/results.json`, `results.md` and `report.html`, and print the table, its first row as soon as it is there.

    quick: fewer pictures and steps, to see that everything works; its numbers mean little. take_over: see `engine.RunLock`.
    """
    out, rows, overrides = Path(out).expanduser(), demo_rows(), demo_settings(quick)
    pictures, scored = PICTURES[quick]
    refuse_foreign_report(out)
    row_recipe(rows[0], "ministreet", overrides, seed)  # a seed beyond its range is an error before pictures are made
    if not quiet:
        seconds = estimated_seconds(rows, overrides, Counts(pictures, pictures, scored), device)
        print(f"About {duration(seconds)} on this machine, measured on the first steps. Stopped, it resumes.", flush=True)
    pair = ministreet_pair(pictures, scored, quiet=quiet)

    def tell(name: str, seed: int, content: dict[str, Any]) -> None:
        scores, first = content["scores"], name == rows[0].name
        head = "| row, as soon as it is scored | mIoU | common |\n|---|---|---|\n" * first
        tqdm.write(f"{head}| {name} | {100 * scores['miou']:.1f} | {100 * scores['miou_common']:.1f} |")
        if first:
            tqdm.write(f"First pictures: {first_picture(out, name, seed, pair, device=device)}")

    results = compare("ministreet", pair, out, seeds=(seed,), rows=rows, overrides=overrides, device=device,
                      command=command, quiet=quiet, tell=tell, take_over=take_over)  # fmt: skip
    report = write_report(results, pair, out, device=device)
    print(table(results))
    if quick:
        print("A quick run shows that everything works; its numbers mean little.")
    print(f"Pictures and per-class scores: {report}")
    return results
