"""The main job, from nothing to a table: make the embedded pair of domains, adapt, score, report."""

from pathlib import Path
from typing import Any

from course_lib.data import ministreet
from course_lib.recipes.compare import Arm, compare, standard_arms
from course_lib.recipes.stages import Pair
from course_lib.recipes.table import table
from course_lib.report import refuse_foreign_report, write_report

SOURCE_SEED, TARGET_SEED, VALIDATION_SEED = 1, 2, 3  # sets of different seeds share no scene
PICTURES = {False: (400, 120), True: (40, 16)}  # quick? -> pictures per training set, pictures that are scored


def demo_arms() -> tuple[Arm, ...]:
    """The standard rows, and the stages of ProCA and BiDA before the oracle."""
    *rows, oracle = standard_arms("ministreet")
    alike = "with strong photometric augmentation: to be read against source-only with the same augmentation"
    proca = f"prototype contrast, class-wise pseudo-labels, self-training, half the steps each, {alike}"
    bida = f"forward and backward contrast, hybrid pseudo-labels, in rounds that share the steps, {alike}"
    return (
        *rows,
        Arm("proca", "self-training", plan="proca", explanation=proca),
        Arm("bida", "bida", plan="bida", explanation=bida),
        oracle,
    )


def ministreet_pair(pictures: int, validation: int, *, layout: str = "gta5", quiet: bool = False, **options) -> Pair:
    """MiniStreet on disk, made once and cached: game look as GTA5 or SYNTHIA, camera look as Cityscapes.

    `pictures` per training set, `validation` labelled target pictures for scoring; `options` go to `ministreet.cached`.
    """
    options["progress"] = not quiet
    source = ministreet.cached(layout, pictures, SOURCE_SEED, **options)
    target = ministreet.cached("cityscapes", pictures, TARGET_SEED, **options)
    held_out = ministreet.cached("cityscapes", validation, VALIDATION_SEED, split="val", **options)
    return Pair(f"{layout}:{source}", f"cityscapes:{target}", f"cityscapes:{held_out}@val")


def run_demo(
    out: Path | str,
    *,
    quick: bool = False,
    seed: int = 0,
    device: str = "cpu",
    quiet: bool = False,
    command: str = "uda demo",
) -> dict[str, Any]:
    """Write `out/results.json`, `results.md` and `report.html`, and print the table.

    quick: fewer pictures and steps, to see that everything works; its numbers mean little.
    """
    refuse_foreign_report(out)
    pair = ministreet_pair(*PICTURES[quick], quiet=quiet)
    overrides = ("start_steps=30", "steps=20") if quick else ()
    results = compare("ministreet", pair, out, seeds=(seed,), arms=demo_arms(), overrides=overrides, device=device,
                      command=command, quiet=quiet)  # fmt: skip
    report = write_report(results, pair, out, device=device)
    print(table(results))
    if quick:
        print("A quick run shows that everything works; its numbers mean little.")
    print(f"Pictures and per-class scores: {report}")
    return results
