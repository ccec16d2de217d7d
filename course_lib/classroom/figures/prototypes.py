"""ProCA made visible: features round their prototypes, and which pixels of which class become pseudo-labels.

Letters: P pixels, D channels, C classes.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from torch import Tensor

from course_lib.classroom.figures.features import principal_components
from course_lib.classroom.figures.style import COLOURS, styled, to_array
from course_lib.labels import CITYSCAPES19, LabelSpace, label_space

KEPT, DROPPED = "#cfe8d5", "#eeeeee"


@styled
def prototype_plane(
    panels: Mapping[str, tuple],
    prototypes: Tensor,
    classes: Sequence[int],
    space: str | LabelSpace = CITYSCAPES19,
    points: int = 60,
    width: float = 9.0,
    seed: int = 0,
) -> Figure:
    """Features as dots and prototypes as stars, all of length 1, in the plane in which the prototypes differ most.

    panels: title -> (features (P, D), train ids (P,)) or (features, train ids, prototypes of this panel (C, D)).
    prototypes (C, D) fix the plane, for all panels the same. classes: train ids to draw, up to `points` pixels of each.
    """
    space, draw = label_space(space), np.random.default_rng(seed)
    classes = list(classes)
    mean, directions = principal_components(_unit(prototypes)[classes], 2)
    figure = Figure(figsize=(width, width / max(2, len(panels)) + 0.35))
    grid = figure.subplots(1, len(panels), squeeze=False, sharex=True, sharey=True)[0]
    for axes, (title, (features, labels, *own)) in zip(grid, panels.items(), strict=True):
        z, y = (_unit(features) - mean) @ directions, to_array(labels)
        if len(z) != len(y):
            raise ValueError(f"{title!r} came with {len(z)} features and {len(y)} labels; give each pixel's feature its label.")
        stars = (_unit(own[0] if own else prototypes) - mean) @ directions
        for c in classes:
            colour = np.array(space.palette[c]) / 255
            some = draw.permutation(np.flatnonzero(y == c))[:points]
            axes.scatter(*z[some].T.numpy(), s=9, color=colour, alpha=0.6, linewidths=0)
            axes.scatter(*stars[c].numpy(), s=150, color=colour, marker="*", edgecolors="black", linewidths=0.8, zorder=3)
        axes.set(title=title, xticks=[], yticks=[])
    colours = {c: np.array(space.palette[c]) / 255 for c in classes}
    handles = [Line2D([], [], marker="o", linestyle="", color=colours[c], label=space.classes[c]) for c in classes]
    star = Line2D([], [], marker="*", linestyle="", color="white", markeredgecolor="black", markersize=11, label="prototype")
    figure.legend(handles=[star, *handles], loc="outside lower center", ncols=min(8, len(classes) + 1), fontsize=7)
    return figure


@styled
def kept_table(confidences: Mapping[str, Sequence[float]], thresholds: Mapping[str, float], title: str = "") -> Figure:
    """A row of confidences for each class, surest first; green fields reach the class's threshold and become labels."""
    rows = {name: sorted(to_array(values).tolist(), reverse=True) for name, values in confidences.items()}
    columns = max(len(values) for values in rows.values())
    figure = Figure(figsize=(0.62 * columns + 2.6, 0.3 * len(rows) + 0.35))
    axes = figure.subplots()
    for row, (name, values) in enumerate(rows.items()):
        for column, value in enumerate(values):
            kept = value >= thresholds[name] - 1e-6  # a float32's 0.95 is the table's 0.95
            axes.add_patch(_field(column, row, KEPT if kept else DROPPED))
            axes.text(column, row, f"{value:.2f}", ha="center", va="center", color="black" if kept else "#999999")
        axes.text(columns - 0.2, row, f"from {thresholds[name]:.2f}", va="center", fontsize=8)
    axes.set(xlim=(-0.5, columns + 1), ylim=(len(rows) - 0.5, -0.5), xticks=[], title=title)
    axes.set_yticks(range(len(rows)), rows)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    return figure


@styled
def kept_shares(
    shares: Mapping[str, object],
    classes: Sequence[int],
    space: str | LabelSpace = CITYSCAPES19,
    title: str = "pixels of each predicted class that become labels, %",
    width: float = 9.0,
) -> Figure:
    """Bars: for each class the share of its pixels that each rule keeps. shares: rule -> (C,) fractions, NaN: no pixel."""
    space = label_space(space)
    figure = Figure(figsize=(width, 2.5))
    axes = figure.subplots()
    place, thick = np.arange(len(classes)), 0.8 / len(shares)
    for i, (name, values) in enumerate(shares.items()):
        height = 100 * np.nan_to_num(to_array(values).astype(float)[list(classes)])
        middle = place + (i - (len(shares) - 1) / 2) * thick
        axes.bar(middle, height, thick, color=COLOURS[i % len(COLOURS)], label=name)
    axes.set(title=title, ylim=(0, 105))
    axes.set_xticks(place, [space.classes[c] for c in classes], rotation=35, ha="right")
    axes.legend(ncols=len(shares), loc="lower right", bbox_to_anchor=(1, 1), fontsize=8, borderaxespad=0)
    return figure


def _unit(vectors) -> Tensor:
    return torch.nn.functional.normalize(torch.as_tensor(vectors).detach().cpu().float(), dim=1)


def _field(column: int, row: int, colour: str) -> Rectangle:
    return Rectangle((column - 0.47, row - 0.45), 0.94, 0.9, facecolor=colour, linewidth=0)
