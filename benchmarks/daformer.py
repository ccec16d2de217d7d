"""What feature distance, masks and two resolutions add to a mean teacher: ideas of DAFormer, MIC and HRDA on a CPU network.

    python -m benchmarks.daformer ministreet [--design] [--seeds 0 1 2 3 4] [--rows NAME ...] [--jobs 2]
    python -m benchmarks.daformer ministreet_camvid --camvid FOLDER [...]
    python -m benchmarks.daformer ministreet --labels      how right the teacher's labels are before the first step, seed 0

Every row adds to the row of the mean teacher that was named beforehand (benchmarks/mean_teacher.py, MAIN), with its steps; its
control is source-only with its network, start, augmentation and compute. --design: the variants that constants were chosen
from, on seeds 100 and 101 and pictures of their own. Scores are kept in benchmarks/results/scores/daformer_PAIR[_design].json
as they come.
"""

from dataclasses import replace
from pathlib import Path

import torch
from torch.utils.data import Subset

from benchmarks.mean_teacher import MAIN, RESULTS, SWITCHES, measure, options, pictures
from benchmarks.measuring import command, hand_over
from course_lib.data import test_loader, test_transform
from course_lib.experiments.parts import opened, seeded_segmenter
from course_lib.experiments.rows import ORACLE, control_of, row_recipe, start_and_augmentation
from course_lib.experiments.start import common_start
from course_lib.networks.prediction import eval_mode
from course_lib.pseudo_labels import Labeller, LabelQuality
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


def labels_of_the_start(pair: str, names: tuple[str, ...], camvid: Path | None, count: int = 80) -> list[str]:
    """Density and accuracy of the labels of the first teacher, on `count` target pictures, as a table."""
    rows, pictures_of = {row.name: row for row in rows_of(pair, False)}, pictures(pair, False, camvid)
    lines = ["| row | labels that count | of these right | of all pixels right | mean over classes |", "|---|---|---|---|---|"]
    for name in names:
        recipe = row_recipe(rows[name], pair, (), 0)
        network = seeded_segmenter(recipe)
        network.load_state_dict(common_start(recipe, pictures_of))
        read = test_transform(recipe.test_size, network.normalisation, resize_label=True)
        some = Subset(opened(recipe, pictures_of.target, "train", read), range(count))
        labeller = Labeller(network.num_classes, recipe.settings.labels)
        kept, every = (LabelQuality(network.num_classes) for _ in range(2))
        with eval_mode(network), torch.no_grad():
            for batch in test_loader(some, 4):
                y, q = labeller(network(batch.image).resized(tuple(batch.label.shape[-2:])))
                kept.add(y.where(q > 0, 255), batch.label)
                every.add(y, batch.label)
        shares = (kept.density, kept.accuracy, every.accuracy, every.class_accuracy.nanmean().item())
        lines.append(f"| {name} | " + " | ".join(f"{100 * share:.1f} %" for share in shares) + " |")
    return [*lines, "", f"{count} target pictures, seed 0. Made by `{command()}`."]


def main() -> None:
    parser = options(__doc__, tuple(IDS))
    parser.add_argument("--labels", action="store_true")
    args = parser.parse_args()
    if args.labels:
        return hand_over(labels_of_the_start(args.pair, ("main row", "+ two resolutions"), args.camvid),
                         RESULTS / "daformer_labels.md")  # fmt: skip
    if not args.design and args.pair not in CHOSEN:
        raise SystemExit(f"No rows are chosen for {args.pair}: run --design, then name them in CHOSEN, in a commit of its own.")
    measure(args, f"daformer_{args.pair}" + "_design" * args.design, rows_of(args.pair, args.design))


if __name__ == "__main__":
    main()
