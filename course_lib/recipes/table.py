"""The results of a comparison as a Markdown table."""

import statistics
from typing import Any


def closed(row: float, floor: float, ceiling: float) -> float:
    """How much of the distance from source-only to the oracle a score covers, in %.

    >>> closed(40.0, 30.0, 50.0)
    50.0
    """
    return 100 * (row - floor) / (ceiling - floor) if ceiling != floor else float("nan")


FOOTNOTE = (
    "- mIoU in % over all classes, mean ± standard deviation over seeds; gain: over source-only; closes: part of the "
    "distance from source-only to the oracle; common: mIoU over the classes above 0.5 % of the labelled pixels; "
    "statistics: of the normalisation layers at test time, as training left them (running) or re-estimated (target)."
)


def table(results: dict[str, Any]) -> str:
    """The results as a Markdown table: one row an arm, mean and spread over seeds, gain over source-only, distance closed."""
    rows = results["rows"]
    published = any(row.get("published") is not None for row in rows.values())
    floor = rows.get("source-only", {}).get("miou_mean")
    ceiling = rows.get("target-only (oracle)", {}).get("miou_mean")
    seeds = list(next(iter(rows.values()))["seeds"])
    head = [
        "method",
        "mIoU",
        *(f"seed {s}" for s in seeds),
        "gain",
        *["paper"] * published,
        "closes",
        "common",
        "steps",
        "statistics",
        "train s",
    ]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for name, row in rows.items():
        spread = f" ± {row['miou_spread']:.1f}" if row["miou_spread"] is not None else ""
        cells = [name, f"{row['miou_mean']:.1f}{spread}", *(f"{100 * row['seeds'][s]['miou']:.1f}" for s in seeds)]
        cells.append(f"{row['miou_mean'] - floor:+.1f}" if floor is not None else "")
        if published:
            cells.append(f"{row['published']:.1f}" if row.get("published") is not None else "")
        cells.append(f"{closed(row['miou_mean'], floor, ceiling):.0f} %" if None not in (floor, ceiling) else "")
        cells.append(f"{row['common_mean']:.1f}")
        seconds = statistics.fmean(run["train_seconds"] for run in row["seeds"].values())
        cells += [str(row["steps"]), row["statistics"], f"{seconds:.0f}" if seconds else "-"]
        lines.append("| " + " | ".join(cells) + " |")
    lines += [
        "",
        *(f"- **{name}**: {row['explanation']}." for name, row in rows.items() if row["explanation"]),
        FOOTNOTE,
    ]
    if any(row.get("select") == "target-labels" for row in rows.values()):
        lines.append("- Checkpoints were chosen on the labels they are scored on (select=target-labels): optimistic scores.")
    lines += [f"- **{note}**" for note in results.get("notes", ())]
    if results["command"]:
        lines += ["", f"Made by `{results['command']}` with torch {results['machine']['torch']}."]
    return "\n".join(lines) + "\n"
