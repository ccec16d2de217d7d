"""What feature distance, masks and two resolutions add to a mean teacher: ideas of DAFormer, MIC and HRDA on a CPU network.

    python -m benchmarks.daformer ministreet [--design] [--seeds 0 1 2 3 4] [--rows NAME ...] [--jobs 2]
    python -m benchmarks.daformer ministreet_camvid --camvid FOLDER [...]

Every row adds to the row of the mean teacher that was named beforehand (benchmarks/mean_teacher.py, MAIN), with its steps; its
control is source-only with its network, start, augmentation and compute. --design: the variants that constants were chosen
from, on seeds 100 and 101 and pictures of their own. Scores are kept in benchmarks/results/scores/daformer_PAIR[_design].json
as they come.
"""

from dataclasses import replace

from benchmarks.mean_teacher import MAIN, SWITCHES, measure, options
from course_lib.experiments.rows import ORACLE, control_of, start_and_augmentation
from course_lib.recipes import Row

TWO = "network_options={'of': 'efficientnet_lite0', 'norm': 'frozen', 'attention_width': 64}"
DISTANCE, MASKS = "terms=+feature_distance", "terms=+masked_consistency"
IDS = {"ministreet": (), "ministreet_camvid": ("terms.feature_distance.classes=(6, 8, 9, 10)",)}  # things of the pair's classes


def variants(pair: str) -> dict[str, tuple[str, ...]]:
    """Of the development seeds: the main row, and what is added to it."""
    things = IDS[pair]
    return {
        "main row": (),
        "+ feature distance 0.005": (DISTANCE, *things, "terms.feature_distance.cell_share=0.5"),
        "+ feature distance 0.05": (
            DISTANCE, *things, "terms.feature_distance.cell_share=0.5", "terms.feature_distance.weight=0.05",
        ),
        "+ masks of 32, half hidden": (MASKS, "mask_cell=32", "mask_hidden=0.5", "masked_photometric=strong"),
        "+ masks of 32, half hidden, weight 0.3": (
            MASKS, "mask_cell=32", "mask_hidden=0.5", "masked_photometric=strong", "terms.masked_consistency.weight=0.3",
        ),
        "+ masks of 16, half hidden, weight 0.3": (
            MASKS, "mask_cell=16", "mask_hidden=0.5", "masked_photometric=strong", "terms.masked_consistency.weight=0.3",
        ),
        "+ two resolutions": ("network=hrda", TWO),
    }  # fmt: skip


# pair -> rows of the reported seeds, named once --design has run (results/daformer_ministreet_design.md): of each idea the
# constants that were best there. None of them was above the main row; photographs get the best, with nothing chosen on them
CHOSEN: dict[str, tuple[str, ...]] = {
    "ministreet": ("+ feature distance 0.005", "+ masks of 32, half hidden, weight 0.3", "+ two resolutions"),
    "ministreet_camvid": ("+ feature distance 0.005",),
}


def rows_of(pair: str, design: bool) -> tuple[Row, ...]:
    """The rows of a table, each with its control."""
    every = variants(pair)
    chosen = every if design else {name: every[name] for name in ("main row", *CHOSEN[pair])}
    first, controls, placed = None, {}, []
    for name, more in chosen.items():
        row = Row(name, "dacs", (*more, *SWITCHES[MAIN[pair]]))
        same = start_and_augmentation("dacs", pair, own=row.overrides)[1]
        control = control_of(row, pair, same)
        if any(text.startswith("network=") for text in more):
            control = replace(control, name=f"{control.name}, two resolutions")
        placed.append(replace(row, control=controls.setdefault(control.name, control).name))
        first = first or Row("source-only", "source-only", same)
    oracle = Row(ORACLE, "target-only", (*first.overrides, "target_photometric=strong"), control=first.name)
    return (first, *controls.values(), *placed, *(() if design else (oracle,)))


def main() -> None:
    args = options(__doc__, tuple(IDS)).parse_args()
    if not args.design and args.pair not in CHOSEN:
        raise SystemExit(f"No rows are chosen for {args.pair}: run --design, then name them in CHOSEN, in a commit of its own.")
    measure(args, f"daformer_{args.pair}" + "_design" * args.design, rows_of(args.pair, args.design))


if __name__ == "__main__":
    main()
