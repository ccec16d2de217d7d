"""docs/what_contrast_adds.md and its figures, from the result files of benchmarks/what_contrast_adds.py.

    python -m benchmarks.contrast_page       the same result files give the same page and the same figures

Every number of the page is computed here from results/contrast_PAIR.json, results/features/contrast_PAIR.json,
results/mean_teacher_ministreet.json, results/mean_teacher_ministreet_long.json, results/proca_ablation.json and
results/scores/contrast_ministreet_design.json. A row with a term is compared, seed by seed, with its control, the row without
the term that had as many network passes, and with the row without it that had as many steps.
"""

import re
import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from matplotlib.figure import Figure

from benchmarks.mean_teacher import MAIN, RESULTS
from benchmarks.measuring import gain_cells, png, training_hours
from course_lib.classroom import figures
from course_lib.experiments.paired import Difference, differences, half_interval
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


def at_equal_steps(results: Results) -> dict[str, Difference]:
    """row with a term -> its mIoU less that of the base of as many steps."""
    return {name: less(results, name, base_of(results, name)) for name in added(results)}


def more(results: Results, gains: Mapping[str, Difference]) -> dict[str, Difference]:
    """row on poor labels -> by how much more its term gains there than on the base, seed by seed. gains: of all rows."""
    found = {}
    for poor in POOR:
        for row in grouped(results)[poor]:
            here = gains[row.removeprefix(f"{poor}, ")].points
            found[row] = Difference("mIoU", {seed: points - here[seed] for seed, points in gains[row].points.items()})
    return found


def smallest(found: Mapping[str, Difference]) -> str:
    """The least mean difference whose 95 % interval would lie above 0, t s / sqrt(n), of the rows with the least and the
    largest spread, in words. s: the standard deviation of a row's differences over its n seeds."""
    least, most = (choose(found, key=lambda name: found[name].half) for choose in (min, max))
    return f"{found[least].half:.2f} ({least}) to {found[most].half:.1f} points ({most})"


def clear(results: Results, found: Mapping[str, Difference]) -> str:
    """Which rows gain or lose, over the control and over the base of as many steps, in words."""
    above = [name for name in found if _side(results, name) > 0]
    below = [name for name in found if _side(results, name) < 0]
    means = [each.mean for each in found.values()]
    return (
        f"of {len(found)} rows {_counted(above, 'gain')}, {_counted(below, 'lose')}; the mean gains lie between "
        f"{min(means):+.1f} and {max(means):+.1f} points"
    )


def _side(results: Results, row: str) -> int:
    """1 or -1 where both intervals, over the control and over the base of as many steps, lie on that side of 0; else 0."""
    both = [less(results, row, other) for other in (results["rows"][row]["control"], base_of(results, row))]
    return next((sign for sign in (1, -1) if all(sign * each.mean > each.half for each in both)), 0)


def _counted(rows: list[str], verb: str) -> str:
    return f"{len(rows)} {verb}{'s' * (len(rows) == 1)}" + (f" ({', '.join(rows)})" if rows else "")


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
        mean, span, _ = gain_cells(less(results, name, base_of(results, name)).points).split(" | ")
        over = f"{control}, {rows[control]['miou_mean']:.1f}"
        cells = [gain_cells(each.points), mean, span, f"{row['miou_mean']:.1f}", over, f"{row['passes']:g}"]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def more_table(results: Results) -> str:
    """By how much more a term gains where labels are poor, over controls of equal compute and of equal steps."""
    lines = ["| row | gains more than on the base by | 95 % interval | by seed | at equal steps | 95 % interval |",
             "|---|---|---|---|---|---|"]  # fmt: skip
    compute, steps = more(results, added(results)), more(results, at_equal_steps(results))
    for row, each in compute.items():
        mean, span, _ = gain_cells(steps[row].points).split(" | ")
        lines.append(f"| {row} | {gain_cells(each.points)} | {mean} | {span} |")
    return "\n".join(lines)


def labels_table(results: Results, features: Features) -> str:
    """How many predictions of the bases' networks are right on the scored pictures, in %."""
    lines = ["| row | mIoU | right, mean over classes | right, all pixels | cells of one class | their surest half |",
             "|---|---|---|---|---|---|"]  # fmt: skip
    for name in (BASE, *POOR):
        runs = results["rows"][name]["seeds"].values()
        classes, pixels = (100 * statistics.fmean(run[key] for run in runs) for key in ("mean_accuracy", "accuracy"))
        half, every = (
            100 * statistics.fmean(features[name][seed][f"classifier_{part}"] for seed in results["rows"][name]["seeds"])
            for part in ("half", "all")
        )
        miou = results["rows"][name]["miou_mean"]
        lines.append(f"| {name} | {miou:.1f} | {classes:.1f} | {pixels:.1f} | {every:.1f} | {half:.1f} |")
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
        own = f"{statistics.fmean(run['own_silhouette'] for run in runs):+.2f}" if "own_silhouette" in runs[0] else "-"
        changes = [(change(table, row, measure), digits) for measure, (_, _, digits) in MEASURES.items()]
        cells = [f"{statistics.fmean(each):+.{digits}f} ± {half_interval(each):.{digits}f}" for each, digits in changes]
        gain = less(results, row, base_of(results, row)).mean
        lines.append(f"| {row} | {start:.2f} → {end:.2f} | {own} | {' | '.join(cells)} | {gain:+.1f} |")
    return "\n".join(lines)


def correlations(table: Table, measure: str) -> str:
    """Pearson's, over the terms on the base, between the change of a measure and the gain, both at equal steps; and the least
    and the largest where one of the terms is left out."""
    rows = list(grouped(table.results)[BASE])

    def of(names: list[str]) -> float:
        changes = [statistics.fmean(change(table, row, measure)) for row in names]
        return statistics.correlation(changes, [less(table.results, row, BASE).mean for row in names])

    without = [of([name for name in rows if name != left_out]) for left_out in rows]
    return f"{of(rows):+.2f} ({min(without):+.2f} to {max(without):+.2f} where one term is left out)"


def bars_table(results: Results, published: Results, proca: Results) -> str:
    """Forms with label files and variants over source-only with the same augmentation and steps, beside their bars.

    published: the table of the mean teacher; proca: that of ProCA's parts. Raises ValueError where the seeds differ.
    """
    alone = {
        name: {"rows": {"row": proca["rows"][row], "floor": proca["rows"]["source-only"]}}
        for name, row in (("mean over classes", "F+O"), ("mean over pixels", "F+O, mean over pixels"))
    }
    places = [(f"ProCA's contrast alone, five blocks frozen, {name}", 3, pair) for name, pair in alone.items()]
    variants = grouped(results)[UNMIXED]
    for name in ("ProCA", "BiDA", UNMIXED, *variants, BASE):
        row = published["rows"].get(name) or results["rows"][name]
        about = f"{name}, label files" if name in published["rows"] else f"{name}, variant" if name in variants else name
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
    for counted in ("classes", "cells"):
        lines.append(f"| {counted} | {gain_cells(balanced(design, counted).points)} |")
    return "\n".join(lines)


def balanced(design: Scores, counted: str) -> Difference:
    """What prototypes gain beside one weight if the loss is a mean over "classes", or over "cells"."""
    base, row = design[POOR[0]], design[f"{POOR[0]}, + prototypes, {counted} alike"]
    found = {seed: 100 * (run["scores"]["miou"] - base[seed]["scores"]["miou"]) for seed, run in row.items()}
    return Difference("mIoU", found)


def once_more(results: Results, published: Results) -> Difference:
    """The base less the same row of the table of the mean teacher, seed by seed: equal constants and pictures."""
    pair = {"rows": {"now": results["rows"][BASE], "then": published["rows"][MAIN["ministreet"]]}}
    return less(pair, "now", "then")


def gains_figure(results: Results) -> Figure:
    """Each row with a term by its gain over its control, in the order of the bases."""
    shown = [row for rows in grouped(results).values() for row in rows]
    return figures.ablation(results["rows"], 11, shown)


def classes_figure(results: Results) -> Figure:
    """Which classes gain: by class-wise weights over one weight, where there are both, then by each term at equal steps."""
    rows, (shown, _, _) = results["rows"], cells_that_differ(results)
    return figures.class_gains(rows | shown, 12, list(shown))


def cells_that_differ(results: Results) -> tuple[dict[str, Any], int, int]:
    """The rows of the classes' figure, over the base of as many steps; of the rows with a term, how many cells (row, class)
    there are, and of how many the 95 % interval leaves out 0."""
    rows = results["rows"]
    terms = {row: rows[row] | {"control": base_of(results, row)} for names in grouped(results).values() for row in names}
    found = [each for row, content in terms.items() for each in differences(results, row, content["control"])[:-1]]
    clear_ones = sum(abs(each.mean) > each.half for each in found)
    labels = {f"{BASE}, over {POOR[0]}": rows[BASE] | {"control": POOR[0]}} if POOR[0] in rows else {}
    return labels | terms, len(found), clear_ones


def corrected(results: Results) -> str:
    """The rows with a term that gain or lose by Bonferroni's correction over all of them, in words."""
    controls = [added(results), at_equal_steps(results)]
    left = [row for row in controls[0] if max(found[row].p for found in controls) < 0.05 / len(controls[0])]
    return ", ".join(left) or "none"


# ---- the page --------------------------------------------------------------------------------------------------------

HEAD = """# What contrast adds to a mean teacher

Made by `python -m benchmarks.contrast_page` from the result files; do not edit. The rows were written down before a reported
seed of a row with a term ran (those of the base were known from the [mean teacher's
table](../benchmarks/results/mean_teacher_ministreet.md)): [MiniStreet](../benchmarks/plans/contrast_ministreet.toml),
[CamVid](../benchmarks/plans/contrast_ministreet_camvid.toml).

*Base*: a mean teacher with ClassMix (DACS, notebook 07). A label counts if the teacher is among its surest half for that
class (*class-wise weights*); half of the target pictures are not mixed; rare classes are pasted first. A *term* is a
contrastive loss that is added to each step; its *control* is the same row without it, trained for as many network passes
(forward 1, backward 2).

| term | |
|---|---|
{terms_table}

Other bases: *two resolutions* (HRDA's network), *one weight* (all labels have one number as weight, the share of the batch's
pixels that are surer than 0.968, as DACS published it), *one threshold* (labels surer than 0.9, whatever their class), *no
pictures mixed* (nothing is pasted). The numbers are points of mIoU:

- **With class-wise weights** (base, two resolutions, no pictures mixed): {good}.
- **With one weight or one threshold for all labels**: {poor}.
- **On photographs**: {photographs}.

![Gain of each term](../notebooks/figures/what_contrast_adds.png)

## What to conclude for your own work

1. **Improve the weights of the labels first.** Beside one weight prototypes gain {one_weight}. Class-wise weights without a
   contrast have {direct} more than that, with {passes:,} passes in place of {term_passes:,}. They also change *building* by
   {building} and *pole* by {pole} ([which classes](#which-classes)): compare class by class, on a few labelled pictures of
   the target.
2. **Count classes alike.** Beside one weight prototypes gain {by_classes:+.1f} points on the development seeds if the loss is a
   mean over classes, and lose {by_cells:.1f} if it is a mean over cells, as published.
3. **Prototypes gain where the labels lose a class.** On MiniStreet that is beside one weight. On photographs it is beside
   class-wise weights, too: of {photo_gain} at equal steps, {top_share:.1f} are due to *{top_class}* alone, which has
   {top_base:.1f} % IoU with the base and {top_gain} more with prototypes. On the base of MiniStreet they do not gain.
4. **Compare twice**, with a control of equal compute and with one of equal steps. The {more_steps} more steps of a control
   change {longer}. A gain over a control that trained longer can be that control's loss.
5. **More seeds than one.** The smallest gain that {seeds} seeds can show depends on the spread of the row: {smallest_good}.
6. **A loss that falls is no result.** Averaged over the seeds every term's loss fell, also where mIoU fell. The silhouette of
   the features rose with prototypes ({prototypes}) and with two directions ({directions}).
7. **The highest mean on MiniStreet** is {best}.
8. **The result holds for this length**: 300 steps after a start of 700, a small network, a small street. What a contrast adds
   to this base in longer training was not measured. With 1,500 steps the base gains {long_base} over source-only of equal
   compute (three seeds), ProCA with label files {long_proca} ([table](results.md)); the papers train 40,000 steps and more.

## How to read the tables

*gain*: mIoU less that of the control, seed by seed: same start, pictures and augmentation; the passes of projectors are not
counted. *At equal steps*: less that of the base that stopped after as many steps as the row with the term.

A row *gains* or *loses* above if both intervals leave out 0. A term that costs no passes has one control, so that both are
the same. Intervals are those of Student's t, not corrected for their number; with Bonferroni's correction over the {rows}
rows these remain: {corrected}. Rows of one cost share a control, so that their gains are not independent.

The weight of each term is the better of two on [other seeds and
pictures](../benchmarks/results/contrast_ministreet_design.md). For every term that was the smaller one, so that a still
smaller one may be better. Rows on other bases have the weight of the row on the base.

The base is also a row of the mean teacher's table. Trained again for this page, with the same constants, pictures and seeds,
it differs from that row by {again} points. The reason was not found. Rounding in the 300 steps is not enough: with regions or
memory, whose loss disturbs every step, mIoU differs from the base's by a standard deviation of {least_spread:.2f} at most.
The start, which was trained on another machine, may be another one. Gains over a control of this page do not contain this
difference; in the [table of bars](#proca-and-bida-with-the-teachers-labels) rows of both are compared.

## Each term on the base

{good_table}

## At two resolutions

{resolutions_table}

## One weight or one threshold for all labels

Which labels are poor depends on what is counted: with these two the network is right more rarely in the mean over
classes, and as often or more often in pixels. In %, predictions of the trained networks on the scored pictures; *cells of one
class* are places of the feature map that have one class in three quarters of their pixels.

{labels_table}

{poor_table}

Does a term gain more here than on the base? With one weight a term reads all labels, since none has the weight 0; on the base
it reads the surest half of each class.

{more_table}

## Which classes

Mean IoU of {seeds} seeds, in points over the base of as many steps; bold: the 95 % interval leaves out 0. The first row has
no term: class-wise weights over one weight. Of the {cells} numbers of rows with a term {bold} are bold; about {chance:.0f}
would be by chance alone.

![Gain of each class](../notebooks/figures/what_contrast_adds_classes.png)

Here the loss of prototypes is a mean over classes of the mean over the cells of each, so that all classes count alike. The
paper takes the mean over all cells. Is it the contrast that gains beside one weight, or that a rare class counts as much as a
frequent one? The same row with either mean, on the development seeds and their pictures, over *one weight* with as many steps:

{balance_table}

So the gain needs the balance: with the mean over cells, which are mostly road, building and sky, the same contrast loses more
than it gains with the mean over classes. Whether the balance would gain without a contrast, as a weight of the other losses,
was not measured.

## What the losses do to the features

Of the networks on the scored target pictures, in cells of one class. *loss*: the term's, mean of the first and of the last
tenth of the steps. *own silhouette*: of what the term compares, the output of its projector; -: it has none and compares
features (prototypes: and logits). The other columns are changes of the features below the classifier over the base of as many
steps, mean ± half of the 95 % interval:

- *cosine within*, *between*: mean cosine of two features of one class, and of two classes;
- *silhouette*: 1 where classes are far apart, 0 where they touch; cosine distance, mean over classes of 50 cells and more;
- *labels by cosine*: what share of the cells has the right label, in %, if each takes the class of the nearest class mean of
  the source's features, and the surest half is counted; *by the classifier*: likewise with the classifier's labels;
- *gain*: of mIoU at equal steps.

{features_table}

Over the {terms} terms on the base the gain correlates with the change of the silhouette by {silhouette}, and with that of the
labels by cosine by {cosine_half}. {terms} rows are too few for a conclusion.

## ProCA and BiDA with the teacher's labels

Variants: all weights learn, labels are the mean teacher's, class by class, in place of files; prototypes are of the teacher's
features, and no pictures are mixed.

{variants_table}

All over source-only with the same augmentation and number of steps. *Label files*: this repository's recipes, whose labels
are written between stages by a finished network. *bar*: the gain to reach, fixed before the runs:

{bars_table}

## Photographs: MiniStreet to CamVid

The smallest gain that {seeds_photographs} seeds can show: {smallest_photographs}. With Bonferroni's correction over these rows
remain: {corrected_photographs}.

{photographs_table}

Class by class, over the base of as many steps:

![Gain of each class on photographs](../notebooks/figures/what_contrast_adds_classes_camvid.png)

{photographs_features}

## Departures from the plan

- Runs were stopped several times, and those that were under way were trained again from their common start. Scores do not
  depend on it; seconds of training do, and some are too large, because tests ran at the same time.
- The figure of classes, the correction for the number of rows and the rows of the development seeds in *Which classes* were
  added after the results.

## Hours

Scores, seconds and command of every row: [MiniStreet](../benchmarks/results/contrast_ministreet.md),
[CamVid](../benchmarks/results/contrast_ministreet_camvid.md).

{hours:.0f} hours of training of one process with one thread, two at a time.
"""


def page(made: Table, photographs: Table, published: Results, proca: Results, design: Scores, long: Results) -> str:
    """The whole page. made: MiniStreet; photographs: MiniStreet to CamVid; published and proca: as in `bars_table`; design: as
    in `balance_table`; long: the mean teacher's table of 1,500 steps."""
    results, rows = made.results, made.results["rows"]
    bases, gains, camvid = grouped(results), added(results), added(photographs.results)
    good = bases[BASE] | bases[RESOLUTIONS] | bases[UNMIXED]
    poor = bases[POOR[0]] | bases[POOR[1]]
    first, prototypes = next(iter(bases[BASE])), next(iter(bases[POOR[0]]))
    directions = list(bases[BASE])[1]
    of_class = {each.name: each for each in differences(results, BASE, POOR[0])}
    best = max(rows, key=lambda name: rows[name]["miou_mean"])
    _, cells, bold = cells_that_differ(results)
    photo_gain = {each.name: each for each in differences(photographs.results, first, BASE)}
    top = max((each for name, each in photo_gain.items() if name != "mIoU"), key=lambda each: each.mean)
    top_base = [100 * run["iou"][top.name] for run in photographs.results["rows"][BASE]["seeds"].values()]
    longer = {base: rows[next(iter(bases[base]))]["control"] for base in (BASE, *POOR, UNMIXED)}
    changes = (f"{base} by {interval(less(results, name, base))}" for base, name in longer.items())
    spread = max(statistics.stdev(less(results, row, BASE).points.values()) for row in list(bases[BASE])[-2:])
    return HEAD.format(
        terms_table="\n".join(f"| {row.removeprefix('+ ')} | {rows[row]['explanation']} |" for row in bases[BASE])
        + "".join(f"\n| {row.partition('+ ')[2]} | {rows[row]['explanation']} |" for row in bases[RESOLUTIONS]),
        good=clear(results, good),
        poor=clear(results, poor),
        photographs=clear(photographs.results, camvid),
        one_weight=interval(gains[prototypes]),
        direct=interval(less(results, BASE, prototypes)),
        passes=round(rows[BASE]["passes"]),
        term_passes=round(rows[prototypes]["passes"]),
        building=interval(of_class["building"]),
        pole=interval(of_class["pole"]),
        photo_gain=interval(photo_gain["mIoU"]),
        top_share=top.mean / (len(photo_gain) - 1),
        top_class=top.name,
        top_base=statistics.fmean(top_base),
        top_gain=interval(top),
        corrected_photographs=corrected(photographs.results),
        more_steps=rows[longer[BASE]]["steps"] - rows[BASE]["steps"],
        longer=", ".join(changes),
        seeds=len(gains[first].points),
        smallest_good=smallest(bases[BASE]),
        prototypes=f"mIoU {less(results, first, BASE).mean:+.1f} at equal steps",
        directions=f"{less(results, directions, BASE).mean:+.1f}",
        best=f"{rows[best]['miou_mean']:.1f} %, of *{best}*, {'a row with a term' if best in gains else 'which has no term'}",
        long_base=interval(less(long, MAIN["ministreet"], long["rows"][MAIN["ministreet"]]["control"])),
        long_proca=interval(less(long, "ProCA", long["rows"]["ProCA"]["control"])),
        rows=len(gains),
        corrected=corrected(results),
        again=", ".join(f"{points:+.1f}" for points in once_more(results, published).points.values()),
        least_spread=spread,
        good_table=gains_table(results, bases[BASE]),
        resolutions_table=gains_table(results, bases[RESOLUTIONS]),
        labels_table=labels_table(*made),
        poor_table=gains_table(results, poor),
        more_table=more_table(results),
        cells=cells,
        bold=bold,
        chance=0.05 * cells,
        balance_table=balance_table(design),
        by_classes=balanced(design, "classes").mean,
        by_cells=-balanced(design, "cells").mean,
        features_table=features_table(made),
        terms=len(bases[BASE]),
        silhouette=correlations(made, "silhouette"),
        cosine_half=correlations(made, "cosine_half"),
        variants_table=gains_table(results, bases[UNMIXED]),
        bars_table=bars_table(results, published, proca),
        seeds_photographs=len(next(iter(camvid.values())).points),
        smallest_photographs=smallest(camvid),
        photographs_table=gains_table(photographs.results, camvid),
        photographs_features=features_table(photographs),
        hours=training_hours(results, photographs.results),
    )


def interval(found: Difference) -> str:
    """The mean with its 95 % interval: "+0.2 (-0.2 to +0.6)"."""
    return f"{found.mean:+.1f} ({found.mean - found.half:+.1f} to {found.mean + found.half:+.1f})"


def main() -> None:
    made, photographs = read("ministreet"), read("ministreet_camvid")
    others = ("mean_teacher_ministreet", "proca_ablation", "scores/contrast_ministreet_design", "mean_teacher_ministreet_long")
    write_whole(PAGE, page(made, photographs, *(read_json(RESULTS / f"{name}.json") for name in others)))
    write_whole(FIGURES / "what_contrast_adds.png", png(gains_figure(made.results)))
    write_whole(FIGURES / "what_contrast_adds_classes.png", png(classes_figure(made.results)))
    write_whole(FIGURES / "what_contrast_adds_classes_camvid.png", png(classes_figure(photographs.results)))
    print(PAGE, *sorted(FIGURES.glob("what_contrast_adds*.png")))


if __name__ == "__main__":
    main()
