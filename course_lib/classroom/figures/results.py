"""What a comparison has found, made visible: confusions that are gone, pixels corrected and newly wrong, stages, scores.

Letters: C classes.
"""

from collections.abc import Collection, Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from course_lib.classroom.figures.style import COLOURS, styled, to_array
from course_lib.labels import CITYSCAPES19, LabelSpace, label_space

CORRECTED, NEWLY_WRONG = "#4a9b5f", "#d1602f"
# Okabe and Ito, grey for their yellow: told apart by colour-blind readers, too
EIGHT = ("#D55E00", "#0072B2", "#009E73", "#CC79A7", "#000000", "#E69F00", "#56B4E9", "#999999")
# of lines: colour, marker and dashes; a colour that comes again is dashed
LOOKS = tuple(zip((*EIGHT, *EIGHT[2:5:2]), "osD^vP*X<>", ("-",) * 8 + ("--",) * 2))


@styled
def confusion_change(
    before, after, space: str | LabelSpace = CITYSCAPES19, names: tuple[str, str] = ("before", "after"), width: float = 9.0
) -> Figure:
    """Two confusion matrices as shares of each true class, in %, and what the second has more (green) or less (purple).

    before, after (C, C) counts on the same pictures: row = truth, column = prediction. Classes that occur in neither are left
    out. On the diagonal more is better, beside it less. Changes of 8 points and more have their number.
    """
    space = label_space(space)
    counts = [to_array(matrix).astype(float) for matrix in (before, after)]
    for matrix in counts:
        if matrix.shape != (space.num_classes, space.num_classes):
            raise ValueError(f"Got a matrix of shape {matrix.shape}; {space.name} wants {(space.num_classes,) * 2}.")
    present = np.flatnonzero(sum(matrix.sum(0) + matrix.sum(1) for matrix in counts))
    shares = [100 * matrix / matrix.sum(axis=1, keepdims=True).clip(min=1) for matrix in counts]
    first, second = (share[np.ix_(present, present)] for share in shares)
    words = [space.classes[c] for c in present]
    figure = Figure(figsize=(width, width * 1.3))
    axes_of = list(figure.subplot_mosaic("AB;CC", height_ratios=(1, 1.5)).values())
    titles = (*names, f"{names[1]} less {names[0]}")
    for i, (axes, title, values) in enumerate(zip(axes_of, titles, (first, second, second - first))):
        colours = ("PRGn", -50, 50) if i == 2 else ("Blues", 0, 100)
        image = axes.imshow(values, cmap=colours[0], vmin=colours[1], vmax=colours[2])
        axes.set_xticks(range(len(words)), words if i == 2 else [""] * len(words), rotation=90, fontsize=6)
        axes.set_yticks(range(len(words)), words if i != 1 else [""] * len(words), fontsize=6)
        axes.set(title=title, xlabel="prediction" + ", in the same order" * (i < 2), ylabel="truth" if i != 1 else "")
        if i > 0:
            bar = figure.colorbar(image, ax=axes_of[:2] if i == 1 else axes, location="bottom", shrink=0.5, aspect=30)
            bar.set_label("points" if i == 2 else "% of the true class", fontsize=7)
            bar.ax.tick_params(labelsize=6)
        for row, column in zip(*np.nonzero(np.abs(values) >= 8)) if i == 2 else ():
            value = values[row, column]
            axes.text(column, row, f"{value:+.0f}", ha="center", va="center", fontsize=6.5,
                      color="white" if abs(value) > 35 else "black")  # fmt: skip
    return figure


@styled
def corrected_and_newly_wrong(
    corrected, newly_wrong, pixels, space: str | LabelSpace = CITYSCAPES19, title: str = "", width: float = 9.0
) -> Figure:
    """For each class the share of its pixels that became right (up) and that became wrong (down), in %; a tick at the net.

    corrected, newly_wrong, pixels: (C,) counts of pixels by their true class. Classes without pixels are left out.
    """
    space, pixels = label_space(space), to_array(pixels).astype(float)
    present = np.flatnonzero(pixels)
    up, down = (100 * to_array(counts).astype(float)[present] / pixels[present] for counts in (corrected, newly_wrong))
    figure = Figure(figsize=(width, 2.6))
    axes, places = figure.subplots(), np.arange(len(present))
    axes.bar(places, up, 0.7, color=CORRECTED)
    axes.bar(places, -down, 0.7, color=NEWLY_WRONG)
    axes.plot(places, up - down, "k_", markersize=10)
    axes.axhline(0, color="black", linewidth=0.7)
    axes.set_xticks(places, [space.classes[c] for c in present], rotation=35, ha="right")
    axes.set(ylabel="% of the class's pixels", title=title)
    keys = [Patch(color=CORRECTED, label="corrected"), Patch(color=NEWLY_WRONG, label="newly wrong")]
    keys.append(Line2D([], [], color="black", marker="_", markersize=10, linestyle="", label="net"))
    figure.legend(handles=keys, loc="outside right upper", fontsize=8)
    return figure


@styled
def stage_seconds(plans: Mapping[str, Mapping[str, float]], width: float = 9.0) -> Figure:
    """A bar for each plan, cut into its stages by the seconds that they took. plans: name -> {stage: seconds}.

    A stage has its name inside; short ones have theirs above the left edge of the first of them.
    """
    figure = Figure(figsize=(width, 0.7 + 0.5 * len(plans)))
    axes, longest = figure.subplots(), max(sum(stages.values()) for stages in plans.values())
    for place, stages in enumerate(plans.values()):
        left, edge, above = 0.0, None, {}  # above: left edge -> words of the short stages that follow each other there
        for i, (stage, seconds) in enumerate(stages.items()):
            axes.barh(place, seconds, 0.62, left=left, color=COLOURS[i % len(COLOURS)], alpha=0.55)
            if seconds < 0.09 * longest:
                edge = left if edge is None else edge
                above.setdefault(edge, []).append(f"{stage} {seconds:.0f} s")
            else:
                edge = None
                axes.text(left + seconds / 2, place, f"{stage}\n{seconds:.0f} s", ha="center", va="center", fontsize=6.5)
            left += seconds
        for edge, words in above.items():
            axes.text(edge, place - 0.33, ", ".join(words), va="bottom", fontsize=6.5)
    axes.set_yticks(range(len(plans)), plans)
    axes.set_ylim(len(plans) - 0.5, -0.75)
    axes.set(xlabel="seconds")
    return figure


@styled
def leaderboard(rows: Sequence[tuple[str, float, str]], title: str = "", width: float = 9.0) -> Figure:
    """Systems as dots on one axis, the best above. rows: (name, score in %, group); a colour for each group, in their order."""
    rows = sorted(rows, key=lambda row: -row[1])
    groups = list(dict.fromkeys(group for *_, group in rows))
    colours = {group: COLOURS[1:][k % (len(COLOURS) - 1)] for k, group in enumerate(groups)}
    figure = Figure(figsize=(width, 0.8 + 0.21 * len(rows)))
    axes = figure.subplots()
    for place, (_, score, group) in enumerate(rows):
        axes.plot(score, place, "o", color=colours[group], markersize=6)
        axes.annotate(f"{score:.1f}", (score, place), (7, 0), textcoords="offset points", va="center", fontsize=7)
    for group in groups:
        axes.plot([], [], "o", color=colours[group], label=group)
    axes.set_yticks(range(len(rows)), [name for name, *_ in rows], fontsize=8)
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.grid(axis="x", color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.margins(x=0.08)
    axes.set(xlabel="mIoU, %", title=title)
    figure.legend(loc="outside upper center", ncols=max(1, len(groups)), fontsize=8)
    return figure


@styled
def labels_curve(
    rows: Mapping[str, Mapping[int, Sequence[float]]], hours: float = 1.5, title: str = "", width: float = 9.0,
    bold: Collection[str] = (),
) -> Figure:  # fmt: skip
    """mIoU against the number of labelled pictures. rows: name -> {labels: mIoU in %, of each seed}, ten at most; 0 labels have
    a place of their own. Line: mean; bar: the least and the most of the seeds. hours: to label a picture, for the axis above
    (1.5: Cordts et al., Cityscapes, CVPR 2016). bold: names of rows whose lines are thick and above the others.
    """
    if len(rows) > len(LOOKS):
        raise ValueError(f"labels_curve got {len(rows)} rows; it wants {len(LOOKS)} at most, so that each has its own look.")
    counts = sorted({labels for points in rows.values() for labels in points})
    place = {labels: k for k, labels in enumerate(counts)}
    figure = Figure(figsize=(width, 4.2))
    axes = figure.subplots()
    shift = 0.5 / max(1, len(rows))
    for k, ((name, points), (colour, marker, dashes)) in enumerate(zip(rows.items(), LOOKS)):
        labels, scores = list(points), [list(points[n]) for n in points]
        x = [place[n] + shift * (k - (len(rows) - 1) / 2) for n in labels]
        means = [sum(each) / len(each) for each in scores]
        below = [mean - min(each) for mean, each in zip(means, scores)]
        over = [max(each) - mean for mean, each in zip(means, scores)]
        style = {"marker": marker, "color": colour, "linestyle": dashes, "markersize": 6, "capsize": 2}
        style |= {"linewidth": 2.6, "zorder": 3} if name in bold else {"linewidth": 1.2}
        axes.errorbar(x, means, yerr=[below, over], elinewidth=0.8, label=name, **style)
    axes.set_xticks(list(place.values()), [str(n) for n in counts])
    axes.set(xlabel="labelled pictures of the target", ylabel="mIoU, %", title=title)
    axes.grid(axis="y", color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)
    above = axes.secondary_xaxis("top")
    above.set_xticks(list(place.values()), [f"{n * hours:g} h" for n in counts])
    above.set_xlabel(f"hours of labelling, {hours:g} each")
    figure.legend(loc="outside right upper", fontsize=8)
    return figure
