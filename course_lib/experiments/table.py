"""The results of a comparison as a Markdown table."""

import statistics
from typing import Any

from course_lib.experiments.rows import ORACLE
from course_lib.recipes import PAIRS
from course_lib.terminal import code, in_markdown

Row = dict[str, Any]


def closed(row: float, floor: float, ceiling: float) -> float:
    """How much of the distance from a control to the oracle a score covers, in %.

    >>> closed(40.0, 30.0, 50.0)
    50.0
    """
    return 100 * (row - floor) / (ceiling - floor)


# of results that were made before rows named their controls
OLD_FOOTNOTE = (
    "- mIoU in % over all classes, mean ± standard deviation over seeds; gain: over source-only; closes: part of the "
    "distance from source-only to the oracle; common: mIoU over the classes above 0.5 % of the labelled pixels; "
    "statistics: of the normalisation layers at test time, as training left them (running) or re-estimated (target)."
)
FOOTNOTE = (
    "- gain: mIoU less that of the control (over), for a method the row with the same start, augmentation and compute; mean ± "
    "standard deviation over seeds; mIoU in % over all classes; closes: part of the distance from the control to the oracle; "
    "common: mIoU over the classes above 0.5 % of the labelled pixels; passes: what training costs, in forward passes of one "
    "batch (a backward pass: 2; the common start, label files and scoring not counted); statistics: of the normalisation "
    "layers at test time, as training left them (running) or re-estimated (target)."
)
SIZES = "- passes are of batches as source-only has them: twice as many pictures, or pixels, count twice."
UNEQUAL = "- *: the control had another compute (passes), so that a part of the gain may be that of longer training."


def table(results: dict[str, Any]) -> str:
    """The results as a Markdown table: one row an arm, its gain over its control, mean and spread over seeds."""
    rows = results["rows"]
    named = any("control" in row for row in rows.values())
    seeds = list(next(iter(rows.values()))["seeds"])
    lines = [table_row(name, rows, named, ceiling=_comparable(name, results)) for name in rows]
    head = ["method", *["gain", "over"] * named, "mIoU", *(f"seed {s}" for s in seeds), *["gain"] * (not named)]
    head += [*["paper"] * _published(rows), "closes", "common", "steps", *["passes"] * named, "statistics", "train s"]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head), *lines, ""]
    lines += [f"- **{name}**: {row['explanation']}." for name, row in rows.items() if row["explanation"]]
    lines += [FOOTNOTE if named else OLD_FOOTNOTE]
    if named and _of_published(results):
        lines.append(SIZES)
    if named and any("*" in gain_over(row, rows) for row in rows.values()):
        lines.append(UNEQUAL)
    if any(row.get("select") == "target-labels" for row in rows.values()):
        lines.append("- Checkpoints were chosen on the labels they are scored on (select=target-labels): optimistic scores.")
    lines += [f"- **{in_markdown(note)}**" for note in results.get("notes", ())]
    if results["command"]:
        lines += ["", f"Made by {code(results['command'])} with torch {results['machine']['torch']}."]
    return "\n".join(lines) + "\n"


def _comparable(name: str, results: dict[str, Any]) -> bool:
    """Whether the oracle is the ceiling of a row: at published size papers have networks of their own, and it has one."""
    constants = results.get("constants", {})
    if not _of_published(results) or not {name, ORACLE} <= constants.keys():
        return True
    return constants[name]["network"] == constants[ORACLE]["network"]


def _of_published(results: dict[str, Any]) -> bool:
    pair = PAIRS.get(results.get("recipe", ""))
    return pair is not None and pair.scale == "published"


def table_row(name: str, rows: dict[str, Row], named: bool = True, ceiling: bool = True) -> str:
    """One line of the table; `named`: rows name their controls, else all gains are over source-only. ceiling: whether it closes
    a part of the distance to the oracle."""
    row, control = rows[name], rows.get(control_name(rows[name], rows))
    floor = control and control["miou_mean"]
    top = rows.get(ORACLE, {}).get("miou_mean") if ceiling else None
    spread = f" ± {row['miou_spread']:.1f}" if row["miou_spread"] is not None else ""
    cells = [name, *[gain_over(row, rows), row.get("control") or ""] * named, f"{row['miou_mean']:.1f}{spread}"]
    cells += [f"{100 * run['miou']:.1f}" for run in row["seeds"].values()]
    if not named:
        cells.append(f"{row['miou_mean'] - floor:+.1f}" if floor is not None else "")
    if _published(rows):
        cells.append(f"{row['published']:.1f}" if row.get("published") is not None else "")
    between = None not in (floor, top) and floor != top
    cells.append(f"{closed(row['miou_mean'], floor, top):.0f} %" if between else "")
    cells.append(f"{row['common_mean']:.1f}")
    seconds = statistics.fmean(run["train_seconds"] for run in row["seeds"].values())
    passes = [_number(row.get("passes", ""))] * named
    cells += [str(row["steps"]), *passes, row["statistics"], f"{seconds:.0f}" if seconds else "-"]
    return "| " + " | ".join(cells) + " |"


def _number(passes: float | str) -> str:
    """Passes, of batches of another size a fraction, without digits that say nothing."""
    return f"{passes:.1f}" if isinstance(passes, float) and not (2 * passes).is_integer() else str(passes)


def gain_over(row: Row, rows: dict[str, Row]) -> str:
    """The mean over seeds of what a row has above its control, with the spread of the differences; a * for unequal compute."""
    control = rows.get(row.get("control"))
    if control is None:
        return ""
    gains = [100 * (run["miou"] - control["seeds"][seed]["miou"]) for seed, run in row["seeds"].items()]
    spread = f" ± {statistics.stdev(gains):.1f}" if len(gains) > 1 else ""
    return f"{statistics.fmean(gains):+.1f}{spread}{'' if equal_compute(row, control) else ' *'}"


def equal_compute(row: Row, control: Row) -> bool:
    """Whether a control has as many passes as the row, to within one of its steps, as it ends with a whole one, or 1 %."""
    step = control["passes"] / max(1, control["steps"])
    return abs(control["passes"] - row["passes"]) <= max(step, 0.01 * row["passes"])


def control_name(row: Row, rows: dict[str, Row]) -> str | None:
    """The row of `rows` that the gain of `row` is taken from; None where it has no control or that was not run.

    In results that were made before rows named their controls it is source-only.

    >>> rows = {"source-only": {"control": None}, "F": {"control": "source-only"}, "O": {"control": "was not run"}}
    >>> [control_name(row, rows) for row in rows.values()]
    [None, 'source-only', None]
    """
    name = row.get("control") if any("control" in other for other in rows.values()) else "source-only"
    return name if name in rows else None


def _published(rows: dict[str, Row]) -> bool:
    return any(row.get("published") is not None for row in rows.values())
