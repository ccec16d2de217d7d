"""docs/what_contrast_adds.md and its figures, from the result files of benchmarks/what_contrast_adds.py.

    python -m benchmarks.contrast_page       the same result files give the same page and the same figures

Every number of the page is computed here from results/contrast_PAIR.json, results/features/contrast_PAIR.json,
results/mean_teacher_ministreet.json, results/proca_ablation.json and results/scores/contrast_ministreet_design.json. A row
with a term is compared, seed by seed, with its control, the row without the term that had as many network passes, and with the
row without it that had as many steps.
"""

import math
import re
import statistics
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from matplotlib.figure import Figure

from benchmarks.mean_teacher import MAIN, RESULTS
from benchmarks.measuring import gain_cells, png, training_hours
from course_lib.classroom import figures
from course_lib.experiments.paired import Difference, differences, half_interval, t_quantile
from course_lib.files import read_json, write_whole

HERE = Path(__file__).resolve().parent
PAGE, FIGURES = HERE.parent / "docs" / "what_contrast_adds.md", HERE.parent / "notebooks" / "figures"
BASE, RESOLUTIONS, UNMIXED = "base", "two resolutions", "no pictures mixed"  # rows of the plan that terms are added to
POOR = ("one weight", "one threshold")
MEASURES = {  # of a network's features: heading, factor, digits
    "within": ("cosine within", 1, 3),
    "between": ("cosine between", 1, 3),
    "silhouette": ("silhouette", 1, 3),
    "cosine_half": ("labels by cosine", 100, 1),
    "classifier_half": ("by the classifier", 100, 1),
}
FLOOR = "source-only"  # of the table of the mean teacher: what the bars are over

Results = dict[str, Any]
Scores = Mapping[str, Mapping[str, Mapping[str, Any]]]  # row -> seed -> what `Kept` keeps
Features = Mapping[str, Mapping[str, Mapping[str, Any]]]  # row -> seed -> measure -> number, and "key", of its scores


class Table(NamedTuple):
    """The complete table of a pair."""

    results: Results
    features: Features


def read(pair: str) -> Table:
    name = f"contrast_{pair}.json"
    return Table(read_json(RESULTS / name), read_json(RESULTS / "features" / name))


# ---- differences, seed by seed ---------------------------------------------------------------------------------------


def less(results: Results, row: str, other: str) -> Difference:
    """mIoU of a row less that of another, in points, seed by seed."""
    return differences(results, row, other)[-1]


def added(results: Results) -> dict[str, Difference]:
    """row with a term -> its mIoU less its control's."""
    with_term = [name for name, row in results["rows"].items() if any(text.startswith("terms=") for text in row["overrides"])]
    return {name: less(results, name, results["rows"][name]["control"]) for name in with_term}


def base_of(results: Results, row: str) -> str:
    """The row that a term was added to, of the same steps; the control of `row` may have trained for longer."""
    return re.sub(r", [\d.]+ x compute$", "", results["rows"][row]["control"])


def grouped(results: Results) -> dict[str, dict[str, Difference]]:
    """base -> the rows with a term added to it, over their controls."""
    found: dict[str, dict[str, Difference]] = {}
    for row, difference in added(results).items():
        found.setdefault(base_of(results, row), {})[row] = difference
    return found


def more(results: Results) -> dict[str, Difference]:
    """row on poor labels -> by how much more its term gains there than on the base, seed by seed."""
    found, bases = {}, grouped(results)
    for poor in POOR:
        for row, there in bases[poor].items():
            here = bases[BASE][row.removeprefix(f"{poor}, ")]
            found[row] = Difference("mIoU", {seed: points - here.points[seed] for seed, points in there.points.items()})
    return found


def smallest(found: Iterable[Difference]) -> float:
    """The least mean difference whose 95 % interval would lie above 0, in points:  t s / sqrt(n).

    s: the standard deviation of a row's differences over its n seeds, pooled over the rows.
    """
    rows = [list(each.points.values()) for each in found]
    n = len(rows[0])
    return t_quantile(n - 1) * math.sqrt(statistics.fmean(statistics.variance(points) for points in rows) / n)


def clear(results: Results, found: Mapping[str, Difference]) -> str:
    """Which rows gain or lose, over the control and over the base of as many steps, in words."""
    above = [name for name in found if _side(results, name) > 0]
    below = [name for name in found if _side(results, name) < 0]
    means = [each.mean for each in found.values()]
    return (
        f"of {len(found)} rows {len(above)} gain{_named(above)}, {len(below)} lose{_named(below)}; the mean gains lie between "
        f"{min(means):+.1f} and {max(means):+.1f} points"
    )


def _side(results: Results, row: str) -> int:
    """1 or -1 where both intervals, over the control and over the base of as many steps, lie on that side of 0; else 0."""
    both = [less(results, row, other) for other in (results["rows"][row]["control"], base_of(results, row))]
    return next((sign for sign in (1, -1) if all(sign * each.mean > each.half for each in both)), 0)


def _named(rows: list[str]) -> str:
    return f" ({', '.join(rows)})" if rows else ""


# ---- tables ----------------------------------------------------------------------------------------------------------


def gains_table(results: Results, found: Mapping[str, Difference]) -> str:
    """A line for each row with a term: gain, interval, seeds, gain at equal steps, and what it costs."""
    rows = results["rows"]
    lines = [
        "| row | gain | 95 % interval | by seed | at equal steps | 95 % interval | mIoU | control | passes |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name, each in found.items():
        row, control = rows[name], rows[name]["control"]
        mean, interval, _ = gain_cells(less(results, name, base_of(results, name)).points).split(" | ")
        over = f"{control}, {rows[control]['miou_mean']:.1f}"
        lines.append(
            f"| {name} | {gain_cells(each.points)} | {mean} | {interval} | {row['miou_mean']:.1f} | {over} | {row['passes']} |"
        )
    return "\n".join(lines)


def more_table(results: Results) -> str:
    """By how much more a term gains where labels are poor."""
    lines = ["| row | gains more than on good labels by | 95 % interval | by seed |", "|---|---|---|---|"]
    for row, each in more(results).items():
        lines.append(f"| {row} | {gain_cells(each.points)} |")
    return "\n".join(lines)


def labels_table(results: Results, features: Features) -> str:
    """How many labels of the bases' networks are right on the scored pictures, in %."""
    lines = ["| row | mIoU | the surest half | all |", "|---|---|---|---|"]
    for name in (BASE, *POOR):
        half, every = (
            100 * statistics.fmean(features[name][seed][f"classifier_{part}"] for seed in results["rows"][name]["seeds"])
            for part in ("half", "all")
        )
        lines.append(f"| {name} | {results['rows'][name]['miou_mean']:.1f} | {half:.1f} | {every:.1f} |")
    return "\n".join(lines)


def change(table: Table, row: str, measure: str) -> list[float]:
    """Of a measure, of each seed: the row's less that of the base of as many steps."""
    (results, features), (_, factor, _) = table, MEASURES[measure]
    base = base_of(results, row)
    return [factor * (features[row][s][measure] - features[base][s][measure]) for s in results["rows"][row]["seeds"]]


def features_table(table: Table) -> str:
    """What each term does to its loss, to what it compares, and to the features of held-out target pictures."""
    results, features = table
    heads = [heading for heading, _, _ in MEASURES.values()]
    lines = [f"| row | loss | own silhouette | {' | '.join(heads)} | gain |", "|---|" + "---|" * (len(heads) + 3)]
    for row in added(results):
        runs = [features[row][seed] for seed in results["rows"][row]["seeds"]]
        start, end = (statistics.fmean(run[key] for run in runs) for key in ("loss_start", "loss_end"))
        own = f"{statistics.fmean(run['own_silhouette'] for run in runs):+.2f}" if "own_silhouette" in runs[0] else "features"
        changes = [(change(table, row, measure), digits) for measure, (_, _, digits) in MEASURES.items()]
        cells = [f"{statistics.fmean(each):+.{digits}f} ± {half_interval(each):.{digits}f}" for each, digits in changes]
        gain = less(results, row, base_of(results, row)).mean
        lines.append(f"| {row} | {start:.2f} → {end:.2f} | {own} | {' | '.join(cells)} | {gain:+.1f} |")
    return "\n".join(lines)


def correlation(table: Table, measure: str) -> float:
    """Pearson's, over the terms on the base: between the change of a measure and the gain, both at equal steps."""
    rows = grouped(table.results)[BASE]
    changes = [statistics.fmean(change(table, row, measure)) for row in rows]
    return statistics.correlation(changes, [less(table.results, row, BASE).mean for row in rows])


def bars_table(results: Results, published: Results, proca: Results) -> str:
    """Published forms and variants over source-only with the same start, augmentation and steps, beside their bars.

    published: the table of the mean teacher; proca: that of ProCA's parts. Raises ValueError where the seeds differ.
    """
    contrast_alone = {"rows": {"row": proca["rows"]["F+O"], "floor": proca["rows"]["source-only"]}}
    places = [("ProCA's contrast alone, published, five blocks frozen", 3, contrast_alone)]
    variants = grouped(results)[UNMIXED]
    for name in ("ProCA", "BiDA", UNMIXED, *variants, BASE):
        row = published["rows"].get(name) or results["rows"][name]
        about = f"{name}, published" if name in published["rows"] else f"{name}, variant" if name in variants else name
        bar = None if name in (UNMIXED, BASE) else 6
        places.append((about, bar, {"rows": {"row": row, "floor": published["rows"][FLOOR]}}))
    lines = ["| row | gain over source-only | 95 % interval | by seed | bar | reached |", "|---|---|---|---|---|---|"]
    for name, bar, pair in places:
        gain = less(pair, "row", "floor")
        reached = "| |" if bar is None else f"+{bar} | {'yes' if gain.mean >= bar else 'no'} |"
        lines.append(f"| {name} | {gain_cells(gain.points)} | {reached}")
    return "\n".join(lines)


def balance_table(design: Scores) -> str:
    """Prototypes beside one weight, the loss a mean over classes or over cells. design: scores of the development seeds."""
    lines = ["| the loss is a mean over | gain | 95 % interval | by seed |", "|---|---|---|---|"]
    base = design[POOR[0]]
    for counted in ("classes", "cells"):
        row = design[f"{POOR[0]}, + prototypes, {counted} alike"]
        points = {seed: 100 * (run["scores"]["miou"] - base[seed]["scores"]["miou"]) for seed, run in row.items()}
        lines.append(f"| {counted} | {gain_cells(points)} |")
    return "\n".join(lines)


def once_more(results: Results, published: Results) -> Difference:
    """The base less the same row of the table of the mean teacher, seed by seed: equal constants and pictures."""
    pair = {"rows": {"now": results["rows"][BASE], "then": published["rows"][MAIN["ministreet"]]}}
    return less(pair, "now", "then")


def gains_figure(results: Results) -> Figure:
    """Each row with a term by its gain over its control, in the order of the bases."""
    shown = [row for rows in grouped(results).values() for row in rows]
    return figures.ablation(results["rows"], 11, shown)


def classes_figure(results: Results) -> Figure:
    """Which classes gain: by labels chosen class by class over the published weight, then by each term over its control."""
    rows, labels = results["rows"], f"{BASE}, over {POOR[0]}"
    shown = [row for rows in grouped(results).values() for row in rows]
    return figures.class_gains(rows | {labels: rows[BASE] | {"control": POOR[0]}}, 12, [labels, *shown])


# ---- the page --------------------------------------------------------------------------------------------------------

HEAD = """# What contrast adds to a mean teacher

Made by `python -m benchmarks.contrast_page` from the result files; do not edit. The rows were written down before a reported
seed of a row with a term ran (those of the base were known from the [mean teacher's
table](../benchmarks/results/mean_teacher_ministreet.md)): [MiniStreet](../benchmarks/plans/contrast_ministreet.toml),
[CamVid](../benchmarks/plans/contrast_ministreet_camvid.toml). The weight of each term was chosen on
[other seeds and pictures](../benchmarks/results/contrast_ministreet_design.md).

- **With good labels**, {good}.
- **With poor labels**, {poor}.
- **On photographs**, {photographs}.

![Gain of each term](../notebooks/figures/what_contrast_adds.png)

## What to conclude for your own work

1. **Labels first.** Where a contrast gains clearly here, beside one weight for all labels ({one_weight:+.1f}), weights chosen
   class by class gain more ({class_wise:+.1f}), in the same classes and for no network pass. Look at which classes your labels
   lose ([below](#which-classes)) before you add a term.
2. **Compare twice**, with a control of equal compute and with one of equal steps. For {longer_passes:,} passes in place of
   {passes:,} the base trains {more_steps} more steps. These alone change its mIoU by {longer:+.1f} points on good labels, and
   by {longer_threshold:+.1f} with one threshold.
3. **More seeds than one.** With {seeds} seeds a gain has to be {smallest_good:.1f} points to be seen, with rows that share
   starts and pictures.
4. **A loss that falls is no result.** Every term's loss fell, also of the terms that lose. Over the terms the gain correlates
   with the change of the features' silhouette by {silhouette:+.2f}.
5. **The length belongs to the result**: 300 steps after a start of 700, a small network, a small street. With 1,500 steps the
   base itself gains less over source-only, because a class that is predicted too often stays so
   ([measured](../benchmarks/results/mean_teacher_ministreet_long_confused.md)); what a contrast does there was not measured.
   The papers train 40,000 steps and more.

## How to read the tables

*gain*: mIoU less that of the control, seed by seed: the row without the term that had the same start, pictures, augmentation
and compute (network passes: forward 1, backward 2; projectors are not counted). Such a control trained for more steps, which
does not always help a mean teacher; *at equal steps* is the gain over the row that stopped after as many steps as the term's.
A row *gains* or *loses* above where both intervals leave out 0. Intervals are those of Student's t, and are not corrected for
their number. Rows of one cost share a control, so that their gains are not independent.

The base is also a row of the mean teacher's table. Trained again for this page, with the same constants, pictures and seeds, it
differs from that row by {again} points. Presumably the processor was another one, which rounds otherwise, and 300 steps enlarge
that; it was not tested. Gains below contain this spread, and so do their intervals.

## Each term on good labels

The smallest mean gain that {seeds} seeds can show here, one whose interval would lie above 0, is {smallest_good:.1f} points.

{good_table}

## At two resolutions

{resolutions_table}

## Where labels are poor

*One weight*: the published weight, one number for the batch. *One threshold*: labels surer than 0.9, whatever their class. How
many labels of the trained networks are right on the scored pictures, in %:

{labels_table}

{poor_table}

The question is whether a term gains more here than on good labels:

{more_table}

## Which classes

Mean IoU of five seeds, in points over the control; bold: the 95 % interval leaves out 0. The first row has no contrast: labels
chosen class by class over the published weight.

![Gain of each class](../notebooks/figures/what_contrast_adds_classes.png)

Prototypes *count classes alike*: the loss is the mean over classes, and of each over its cells. Published is the mean over
cells. Is it the contrast that gains beside one weight, or that a rare class counts as much as a frequent one? The same row with
either mean, on the development seeds and their pictures, over *one weight* with as many steps:

{balance_table}

## What the losses do to the features

*loss*: the term's, mean of the first and the last tenth of the steps. *own silhouette*: of what the term compares, the output
of its projector; *features*: it compares the features themselves. Then the change of the features below the classifier over the
base of as many steps, on the target pictures that are scored, in cells of one class, mean ± half of the 95 % interval: mean
cosine of two features of a class and of two classes, silhouette, and how many % of the surest half of the cells have the right
label: that of the nearest class mean of the source, or the classifier's. *gain*: at equal steps.

{features_table}

Over the {terms} terms on the base, the gain correlates with the change of the silhouette by {silhouette:+.2f}, with that of the
labels by cosine by {cosine_half:+.2f}. So few rows describe themselves; they do not show a cause.

## ProCA and BiDA with the teacher's labels

Variants: all weights learn, labels are the mean teacher's, class by class, in place of files; prototypes are of the teacher's
features, and no pictures are mixed.

{variants_table}

All over source-only with the same start, augmentation and number of steps, beside the published forms and the bars that were
set beforehand:

{bars_table}

## Photographs: MiniStreet to CamVid

The smallest mean gain that {seeds_photographs} seeds can show here is {smallest_photographs:.1f} points.

{photographs_table}

{photographs_features}

## Departures from the plan

- Runs were stopped several times, and those that were under way were trained again from their common start. Scores do not
  depend on it; seconds of training do, and some are too large, because tests ran at the same time.
- The table of classes and the two rows of the development seeds above were added after the results.

## Hours

Scores, seconds and command of every row: [MiniStreet](../benchmarks/results/contrast_ministreet.md),
[CamVid](../benchmarks/results/contrast_ministreet_camvid.md).

{hours:.0f} hours of training of one process with one thread, two at a time.
"""


def page(made: Table, photographs: Table, published: Results, proca: Results, design: Scores) -> str:
    """The whole page. made: MiniStreet; photographs: MiniStreet to CamVid; published and proca: as in `bars_table`; design: as
    in `balance_table`."""
    bases, camvid, rows = grouped(made.results), added(photographs.results), made.results["rows"]
    poor = bases[POOR[0]] | bases[POOR[1]]
    longer, longer_threshold = (rows[next(iter(bases[name]))]["control"] for name in (BASE, POOR[1]))
    return HEAD.format(
        one_weight=bases[POOR[0]][next(iter(bases[POOR[0]]))].mean,
        class_wise=less(made.results, BASE, POOR[0]).mean,
        longer_passes=round(rows[longer]["passes"]),
        passes=round(rows[BASE]["passes"]),
        more_steps=rows[longer]["steps"] - rows[BASE]["steps"],
        longer=less(made.results, longer, BASE).mean,
        longer_threshold=less(made.results, longer_threshold, POOR[1]).mean,
        balance_table=balance_table(design),
        again=", ".join(f"{points:+.1f}" for points in once_more(made.results, published).points.values()),
        good=clear(made.results, bases[BASE]),
        poor=clear(made.results, poor),
        photographs=clear(photographs.results, camvid),
        seeds=len(next(iter(bases[BASE].values())).points),
        seeds_photographs=len(next(iter(camvid.values())).points),
        smallest_good=smallest(bases[BASE].values()),
        smallest_photographs=smallest(camvid.values()),
        good_table=gains_table(made.results, bases[BASE]),
        resolutions_table=gains_table(made.results, bases[RESOLUTIONS]),
        labels_table=labels_table(*made),
        poor_table=gains_table(made.results, poor),
        more_table=more_table(made.results),
        features_table=features_table(made),
        terms=len(bases[BASE]),
        silhouette=correlation(made, "silhouette"),
        cosine_half=correlation(made, "cosine_half"),
        variants_table=gains_table(made.results, bases[UNMIXED]),
        bars_table=bars_table(made.results, published, proca),
        photographs_table=gains_table(photographs.results, camvid),
        photographs_features=features_table(photographs),
        hours=training_hours(made.results, photographs.results),
    )


def main() -> None:
    made, photographs = read("ministreet"), read("ministreet_camvid")
    others = ("mean_teacher_ministreet", "proca_ablation", "scores/contrast_ministreet_design")
    write_whole(PAGE, page(made, photographs, *(read_json(RESULTS / f"{name}.json") for name in others)))
    write_whole(FIGURES / "what_contrast_adds.png", png(gains_figure(made.results)))
    write_whole(FIGURES / "what_contrast_adds_classes.png", png(classes_figure(made.results)))
    print(PAGE, *sorted(FIGURES.glob("what_contrast_adds*.png")))


if __name__ == "__main__":
    main()
