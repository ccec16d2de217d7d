"""docs/what_contrast_adds.md and its figure, from the result files of benchmarks/what_contrast_adds.py.

    python -m benchmarks.contrast_page       the same result files give the same page and the same figure

Every number of the page is computed here from results/contrast_PAIR.json, results/features/contrast_PAIR.json and
results/mean_teacher_ministreet.json. A row with a term is compared with its control, seed by seed: the row without the term
that had as many network passes.
"""

import io
import math
import re
import statistics
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from benchmarks.mean_teacher import RESULTS
from benchmarks.measuring import gain_cells
from course_lib.classroom import figures
from course_lib.experiments.paired import Difference, differences, t_quantile
from course_lib.files import read_json, write_whole

HERE = Path(__file__).resolve().parent
PAGE, FIGURE = HERE.parent / "docs" / "what_contrast_adds.md", HERE.parent / "notebooks" / "figures" / "what_contrast_adds.png"
BASE, RESOLUTIONS, UNMIXED = "base", "two resolutions", "no pictures mixed"  # rows of the plan that terms are added to
POOR = ("one weight", "one threshold")
MEASURES = {  # of a network's features: heading, factor, digits
    "within": ("cosine within", 1, 3),
    "between": ("cosine between", 1, 3),
    "silhouette": ("silhouette", 1, 3),
    "cosine_labels": ("cosine labels, points", 100, 1),
}

Results = dict[str, Any]
Features = Mapping[str, Mapping[str, Mapping[str, float]]]  # row -> seed -> measure


def read(pair: str) -> tuple[Results, Features]:
    """(scores, features) of a pair's complete table."""
    name = f"contrast_{pair}.json"
    return read_json(RESULTS / name), read_json(RESULTS / "features" / name)


def added(results: Results) -> dict[str, Difference]:
    """row with a term -> its mIoU less its control's, in points, seed by seed."""
    with_term = [name for name, row in results["rows"].items() if any(text.startswith("terms=") for text in row["overrides"])]
    return {name: differences(results, name, results["rows"][name]["control"])[-1] for name in with_term}


def base_of(results: Results, row: str) -> str:
    """The row that a term was added to, of the same steps; the control of `row` may have trained for longer."""
    return re.sub(r", [\d.]+ x compute$", "", results["rows"][row]["control"])


def grouped(results: Results) -> dict[str, dict[str, Difference]]:
    """base -> the rows with a term added to it."""
    found: dict[str, dict[str, Difference]] = {}
    for row, difference in added(results).items():
        found.setdefault(base_of(results, row), {})[row] = difference
    return found


def smallest(found: Iterable[Difference]) -> float:
    """The least mean difference whose 95 % interval would lie above 0, in points:  t s / sqrt(n).

    s: the standard deviation of a row's differences over its n seeds, pooled over the rows.
    """
    rows = [list(each.points.values()) for each in found]
    n = len(rows[0])
    return t_quantile(n - 1) * math.sqrt(statistics.fmean(statistics.variance(points) for points in rows) / n)


def clear(found: Mapping[str, Difference]) -> str:
    """Which intervals lie on one side of 0, in words."""
    above = [name for name, each in found.items() if each.mean > each.half]
    below = [name for name, each in found.items() if each.mean < -each.half]
    means = [each.mean for each in found.values()]
    return (
        f"of {len(found)} rows {len(above)} gain clearly{_named(above)}, {len(below)} lose clearly{_named(below)}; the means "
        f"lie between {min(means):+.1f} and {max(means):+.1f} points"
    )


def _named(rows: list[str]) -> str:
    return f" ({', '.join(rows)})" if rows else ""


def gains_table(results: Results, found: Mapping[str, Difference]) -> str:
    """A line for each row with a term: gain, interval, seeds, and what it costs."""
    rows = results["rows"]
    lines = ["| row | gain | 95 % interval | by seed | mIoU | over | passes |", "|---|---|---|---|---|---|---|"]
    for name, each in found.items():
        row, control = rows[name], rows[name]["control"]
        over = f"{control}, {rows[control]['miou_mean']:.1f}"
        lines.append(f"| {name} | {gain_cells(each.points)} | {row['miou_mean']:.1f} | {over} | {row['passes']} |")
    return "\n".join(lines)


def change(results: Results, features: Features, row: str) -> dict[str, float]:
    """measure -> its mean over seeds less that of the row's control."""
    control = results["rows"][row]["control"]
    return {
        measure: statistics.fmean(
            factor * (features[row][seed][measure] - features[control][seed][measure]) for seed in results["rows"][row]["seeds"]
        )
        for measure, (_, factor, _) in MEASURES.items()
    }


def features_table(results: Results, features: Features) -> str:
    """What each term does to the features of held-out target pictures, beside its gain."""
    heads = [heading for heading, _, _ in MEASURES.values()]
    lines = [f"| row | {' | '.join(heads)} | gain |", "|---|" + "---|" * (len(heads) + 1)]
    for row, each in added(results).items():
        changes = change(results, features, row)
        cells = [f"{changes[measure]:+.{digits}f}" for measure, (_, _, digits) in MEASURES.items()]
        lines.append(f"| {row} | {' | '.join(cells)} | {each.mean:+.1f} |")
    return "\n".join(lines)


def correlation(results: Results, features: Features, measure: str) -> float:
    """Pearson's, over rows with a term: between the change of a measure and the gain. nan for fewer than three rows."""
    found = added(results)
    if len(found) < 3:
        return float("nan")
    return statistics.correlation(
        [change(results, features, row)[measure] for row in found], [each.mean for each in found.values()]
    )


def over_source_only(results: Results, published: Results, rows: Iterable[str]) -> str:
    """Rows of this table beside the published forms, over source-only with the same start, augmentation and steps.

    Raises ValueError where the seeds differ.
    """
    floor = published["rows"]["source-only"]
    lines = ["| row | gain over source-only | 95 % interval | by seed |", "|---|---|---|---|"]
    for name in rows:
        row = results["rows"].get(name) or published["rows"][name]
        (*_, each) = differences({"rows": {"a": row, "b": floor}}, "a", "b")
        lines.append(f"| {name} | {gain_cells(each.points)} |")
    return "\n".join(lines)


def drawn(results: Results) -> bytes:
    """The figure: each row with a term by its gain, and the rows that these are compared with."""
    rows, found = results["rows"], added(results)
    compared = {*found, *(rows[name]["control"] for name in found)}
    shown = {name: row for name, row in rows.items() if name in compared}
    picture = io.BytesIO()
    figures.ablation(shown, width=11).savefig(picture, format="png", dpi=120, metadata={"Software": None})
    return picture.getvalue()


HEAD = """# What contrast adds to a mean teacher

Made by `python -m benchmarks.contrast_page` from the result files; do not edit. The rows were written down before a reported
seed ran: [MiniStreet](../benchmarks/plans/contrast_ministreet.toml),
[CamVid](../benchmarks/plans/contrast_ministreet_camvid.toml). The weight of each term was chosen on
[other seeds and pictures](../benchmarks/results/contrast_ministreet_design.md).

- **With good labels**, {good}.
- **With poor labels**, {poor}.
- **On photographs**, {photographs}.

![Gain of each term](../notebooks/figures/what_contrast_adds.png)

A gain is paired, seed by seed, with the row without the term that had the same start, pictures, augmentation and compute
(network passes: forward 1, backward 2). With {seeds} seeds a mean gain of {smallest:.1f} points is the smallest whose 95 %
interval would lie above 0; intervals are not corrected for their number.

## Each term on good labels

{good_table}

## Where labels are poor

The published weight, one number for the batch, and one threshold for all classes in place of labels chosen class by class.

{poor_table}

## What the losses do to the features

Change over the control, on the target pictures that are scored, in cells of one class: mean cosine of two features of a class
and of two classes, silhouette, and the accuracy of labels by the nearest class mean of the source for the surest half of the
cells. Correlation over the rows between the change of the silhouette and the gain: {silhouette:+.2f}; of the cosine labels:
{cosine_labels:+.2f}.

{features_table}

## ProCA and BiDA with the teacher's labels

Variants: no label files; labels class by class from the mean teacher, prototypes of the teacher's features, no mixed pictures.
Beside them the published forms, all over source-only with the same start, augmentation and number of steps.

{variants_table}

## Photographs: MiniStreet to CamVid

{photographs_table}
"""


def page(made: Results, features: Features, photographs: Results, published: Results) -> str:
    """The whole page. made: MiniStreet; photographs: MiniStreet to CamVid; published: the table of the mean teacher."""
    bases, camvid = grouped(made), added(photographs)
    good, poor = bases[BASE] | bases[RESOLUTIONS], bases[POOR[0]] | bases[POOR[1]]
    variants = ("ProCA", "BiDA", UNMIXED, *bases[UNMIXED], BASE)
    return HEAD.format(
        good=clear(good),
        poor=clear(poor),
        photographs=clear(camvid),
        seeds=len(next(iter(good.values())).points),
        smallest=smallest(good.values()),
        good_table=gains_table(made, good),
        poor_table=gains_table(made, poor),
        features_table=features_table(made, features),
        silhouette=correlation(made, features, "silhouette"),
        cosine_labels=correlation(made, features, "cosine_labels"),
        variants_table=over_source_only(made, published, variants),
        photographs_table=gains_table(photographs, camvid),
    )


def main() -> None:
    (made, features), (photographs, _) = read("ministreet"), read("ministreet_camvid")
    write_whole(PAGE, page(made, features, photographs, read_json(RESULTS / "mean_teacher_ministreet.json")))
    write_whole(FIGURE, drawn(made))
    print(f"{PAGE}, {FIGURE}")


if __name__ == "__main__":
    main()
