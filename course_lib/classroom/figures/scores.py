"""What a score is made of: the IoU of each class, and which class is taken for which.

Letters: C classes.
"""

from collections.abc import Collection, Mapping, Sequence
from statistics import fmean

import numpy as np
from matplotlib.figure import Figure

from course_lib.classroom.figures.style import COLOURS, styled, to_array
from course_lib.experiments.paired import differences, half_interval
from course_lib.labels import CITYSCAPES19, LabelSpace, label_space


@styled
def iou_bars(
    scores: Mapping[str, Sequence[float]],
    space: str | LabelSpace = CITYSCAPES19,
    classes: Sequence[int] | None = None,
    width: float = 9.0,
) -> Figure:
    """Bars of each class's IoU for several networks: `iou_bars({"before": b, "after": a, "oracle": o})`.

    scores: name -> (C,) IoU from 0 to 1, NaN for a class that did not occur (no bar, a dash). classes: train ids to
    draw and to average, all when None. The legend gives each mean over the classes that occur.
    """
    space = label_space(space)
    classes = list(range(space.num_classes) if classes is None else classes)
    figure = Figure(figsize=(width, 2.8))
    axes = figure.subplots()
    thickness = 0.8 / len(scores)
    for i, (name, values) in enumerate(scores.items()):
        iou = _percent(name, values, space)[classes]
        x = np.arange(len(classes)) + (i - (len(scores) - 1) / 2) * thickness
        axes.bar(x, np.nan_to_num(iou), thickness, color=COLOURS[i % len(COLOURS)], label=_with_mean(name, iou))
        for place in x[np.isnan(iou)]:
            axes.text(place, 1, "-", ha="center", fontsize=7)
    axes.set_xticks(np.arange(len(classes)), [space.classes[c] for c in classes], rotation=40, ha="right")
    axes.set(ylabel="IoU, %", ylim=(0, 100))
    figure.legend(loc="outside upper center", ncols=len(scores))
    return figure


MARKERS = ("o", "s", "^", "D", "v", "P", "X")  # one more than colours: 42 rows differ


@styled
def iou_dots(
    scores: Mapping[str, Sequence[float]], space: str | LabelSpace = CITYSCAPES19, by: str | None = None, width: float = 9.0
) -> Figure:
    """Each class's IoU as a line of dots, one per network, for many networks: `iou_dots({"start": s, ..., "oracle": o})`.

    scores: name -> (C,) IoU from 0 to 1, NaN for a class that did not occur (no dot). Classes are sorted by the IoU of the
    network `by`, the last one when None, the best first. The legend beside gives each mean over the classes that occur.
    """
    space = label_space(space)
    ious = {name: _percent(name, values, space) for name, values in scores.items()}
    order = np.argsort(-np.nan_to_num(ious[by or list(ious)[-1]], nan=-1), kind="stable")
    figure = Figure(figsize=(width, 1.0 + max(0.3 * len(order), 0.22 * len(ious))))
    axes = figure.subplots()
    places = np.arange(len(order))
    for i, (name, iou) in enumerate(ious.items()):
        shift = 0.7 * ((i + 0.5) / len(ious) - 0.5)  # dots of one class beside each other, none hidden
        look = {"color": COLOURS[i % len(COLOURS)], "marker": MARKERS[i % len(MARKERS)], "markersize": 4.5}
        axes.plot(iou[order], places + shift, linestyle="", label=_with_mean(name, iou), **look)
    for place in places[::2]:
        axes.axhspan(place - 0.5, place + 0.5, color="0.95", zorder=0)
    axes.set_yticks(places, [space.classes[c] for c in order])
    axes.set(xlabel="IoU, %", xlim=(-1, 100), ylim=(len(order) - 0.5, -0.5))
    figure.legend(loc="outside right upper")
    return figure


def _percent(name: str, values: Sequence[float], space: LabelSpace) -> np.ndarray:
    iou = 100 * to_array(values).astype(float)
    if iou.shape != (space.num_classes,):
        raise ValueError(
            f"{name!r} came with {iou.shape} IoUs, {space.name} has {space.num_classes} classes. "
            "Pass one value per class, NaN where the class did not occur, and the scores' own label space."
        )
    return iou


def _with_mean(name: str, iou: np.ndarray) -> str:
    """The words of a legend: the mean over the classes that occur."""
    return f"{name} (mean {np.nanmean(iou) if np.isfinite(iou).any() else np.nan:.1f})"


@styled
def confusion(matrix, space: str | LabelSpace = CITYSCAPES19, width: float = 5.5) -> Figure:
    """Which class is taken for which: row = truth, column = prediction, each row as shares of the class's pixels.

    matrix (C, C) counts. Classes that occur nowhere are left out.
    """
    space, counts = label_space(space), to_array(matrix).astype(float)
    if counts.shape != (space.num_classes, space.num_classes):
        raise ValueError(f"Got a matrix of shape {counts.shape}; {space.name} wants {(space.num_classes,) * 2}.")
    present = np.flatnonzero(counts.sum(0) + counts.sum(1))
    counts = counts[np.ix_(present, present)]
    share = counts / counts.sum(axis=1, keepdims=True).clip(min=1)
    names = [space.classes[c] for c in present]
    figure = Figure(figsize=(width, width * 0.92))
    axes = figure.subplots()
    axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    axes.set_xticks(range(len(names)), names, rotation=60, ha="right")
    axes.set_yticks(range(len(names)), names)
    axes.set(xlabel="prediction", ylabel="truth")
    for row, column in zip(*np.nonzero(share >= 0.05), strict=True):
        colour = "white" if share[row, column] > 0.5 else "black"
        axes.text(column, row, f"{100 * share[row, column]:.0f}", ha="center", va="center", fontsize=6, color=colour)
    return figure


@styled
def ablation(rows: Mapping[str, Mapping], width: float = 12.0, shown: Collection[str] | None = None) -> Figure:
    """The rows of a comparison by what each gains, in points of mIoU: a large dot for the mean, a small one for every seed, a
    line for the 95 % t-interval of three seeds or more; the mean mIoU at the right edge. A cross is as far from the mean of the
    first row that the paper has a number of, as the paper's number of its row is from that.

    rows: name -> {"miou_mean" in %, "seeds": {seed: {"miou" 0 to 1}}, "published" in % or None, "control": the row that a gain
    is over, or None}. Rows without a control that is there are compared with the first row. A paper's numbers belong to other
    data: what can be compared is the order of the rows, not their distance. shown: the rows that are drawn, in this order; by
    default all.
    """
    every, first = rows, next(iter(rows))
    rows = every if shown is None else {name: every[name] for name in shown}
    figure = Figure(figsize=(width, 0.9 + 0.3 * len(rows)))
    axes = figure.subplots()
    published = {name: row.get("published") for name, row in rows.items()}
    published = {name: number for name, number in published.items() if number is not None}
    paper, begin = next(iter(published), None), 0.0  # the paper's first row, and our gain there
    for place, (name, row) in enumerate(rows.items()):
        control = row.get("control") if row.get("control") in every else first
        floor = every[control]["seeds"]
        gains = [100 * (run["miou"] - floor[seed]["miou"]) for seed, run in row["seeds"].items() if seed in floor]
        mean, colour = fmean(gains), COLOURS[0] if control == name else COLOURS[2]
        begin = mean if name == paper else begin
        if len(gains) > 2 and control != name:
            half = half_interval(gains)
            axes.plot((mean - half, mean + half), (place, place), color=colour)
        axes.plot(gains, [place] * len(gains), "o", color=colour, markersize=3.5, markerfacecolor="white")
        axes.plot(mean, place, "o", color=colour, markersize=7)
        axes.text(1.02, place, f"{row['miou_mean']:.1f}", transform=axes.get_yaxis_transform(), va="center", fontsize=9)
        if name in published and name != paper:
            axes.plot(begin + published[name] - published[paper], place, "x", color=COLOURS[1])
    axes.plot([], [], "o", color=COLOURS[2], markersize=7, label="mean gain, 95 % interval")
    axes.plot([], [], "o", color=COLOURS[2], markersize=3.5, markerfacecolor="white", label="a seed")
    if len(published) > 1:
        axes.plot([], [], "x", color=COLOURS[1], label=f"the paper's gain over {paper!r}, GTA5 to Cityscapes")
    axes.axvline(0, color="black", linewidth=0.8)
    axes.set_yticks(range(len(rows)), rows)
    axes.invert_yaxis()
    axes.text(1.02, 1, "mIoU", transform=axes.transAxes, va="bottom", fontsize=9)
    axes.set(xlabel="gain over the row's control, points of mIoU")
    axes.grid(axis="x", color="#dddddd", linewidth=0.6)
    figure.legend(loc="outside upper center", ncols=3)
    return figure


@styled
def class_gains(rows: Mapping[str, Mapping], width: float = 12.0, shown: Collection[str] | None = None) -> Figure:
    """What each class gains in the rows of a comparison, in points of IoU, over the row's control: green more, purple less.

    A number is the mean over the seeds; it is bold where the 95 % t-interval of the paired differences leaves out 0 (two seeds
    or more). The last column is mIoU. Colours end at 15 points.

    rows: name -> {"seeds": {seed: {"iou": {class: 0 to 1 or None}, "miou" 0 to 1}}, "control": the row that a gain is over}.
    shown: the rows that are drawn, in this order; by default all that have a control. Raises ValueError for a row without
    one, and for one whose seeds are not those of its control.
    """
    names = [name for name, row in rows.items() if row.get("control")] if shown is None else list(shown)
    for name in names:
        if not rows[name].get("control"):
            raise ValueError(f"Row {name!r} has no control; a gain needs one. Give shown= the rows that have a control.")
    found = [{each.name: each for each in differences({"rows": rows}, name, rows[name]["control"])} for name in names]
    classes = list(dict.fromkeys(c for row in found for c in row if c != "mIoU")) + ["mIoU"]
    means = np.array([[row[c].mean if c in row else np.nan for c in classes] for row in found])
    figure = Figure(figsize=(width, 1.4 + 0.28 * len(names)))
    axes = figure.subplots()
    axes.imshow(means, cmap="PRGn", vmin=-15, vmax=15, aspect="auto")
    axes.set_xticks(range(len(classes)), classes, rotation=40, ha="right")
    axes.set_yticks(range(len(names)), names)
    for (i, j), mean in np.ndenumerate(means):
        if not np.isnan(mean):
            weight = "bold" if abs(mean) > found[i][classes[j]].half else "normal"
            axes.text(j, i, f"{mean:+.1f}", ha="center", va="center", fontsize=7, fontweight=weight,
                      color="white" if abs(mean) > 11 else "black")  # fmt: skip
    axes.axvline(len(classes) - 1.5, color="black", linewidth=0.8)
    axes.set_title("points of IoU over the row's control; bold: the 95 % interval leaves out 0", fontsize=9)
    return figure
