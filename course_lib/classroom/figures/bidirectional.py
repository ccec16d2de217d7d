"""BiDA made visible: the domain bias as arrows, and how many pseudo-labels there are and how many of them are right.

Letters: D channels, C classes; mu_S, mu_T moving averages of the prototypes.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from course_lib.classroom.figures.features import principal_components
from course_lib.classroom.figures.style import COLOURS, styled, to_array
from course_lib.labels import CITYSCAPES19, LabelSpace, label_space


@styled
def bias_arrows(
    panels: Mapping[str, tuple], classes: Sequence[int], space: str | LabelSpace = CITYSCAPES19, width: float = 9.0
) -> Figure:
    """The domain bias xi(c) = mu_T(c) - mu_S(c): an arrow from each source prototype (dot) to the target's (star).

    panels: title -> (mu_S (C, D), mu_T (C, D)), vectors as they are, each panel in the plane in which its own prototypes
    of both domains differ most. classes: train ids to draw.
    """
    space, classes = label_space(space), list(classes)
    figure = Figure(figsize=(width, width / max(2, len(panels)) * 0.8 + 0.35))
    for axes, (title, means) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True):
        S, T = (torch.as_tensor(to_array(mean)).float()[classes] for mean in means)
        middle, directions = principal_components(torch.cat([S, T]), 2)
        for c, begin, end in zip(classes, (S - middle) @ directions, (T - middle) @ directions, strict=True):
            colour, begin, end = np.array(space.palette[c]) / 255, begin.numpy(), end.numpy()
            axes.annotate("", end, begin, arrowprops={"arrowstyle": "->", "color": colour, "linewidth": 1.6})
            axes.plot(*begin, "o", color=colour, markersize=7, markeredgecolor="black", markeredgewidth=0.6)
            axes.plot(*end, "*", color=colour, markersize=13, markeredgecolor="black", markeredgewidth=0.6)
        axes.set(title=title, xticks=[], yticks=[])
        axes.set_aspect("equal", adjustable="datalim")
        axes.margins(0.1)
    shapes = {"o": "source, mu_S", "*": "target, mu_T"}
    handles = [Line2D([], [], marker=shape, linestyle="", color="white", markeredgecolor="black", markersize=8, label=name)
               for shape, name in shapes.items()]  # fmt: skip
    handles += [Line2D([], [], color=np.array(space.palette[c]) / 255, label=space.classes[c]) for c in classes]
    figure.legend(handles=handles, loc="outside lower center", ncols=min(9, len(handles)), fontsize=7)
    return figure


@styled
def label_curves(curves: Mapping[str, tuple], threshold: float | None = None, width: float = 9.0) -> Figure:
    """Density over T, accuracy over T, and accuracy over density, of several ways to label.

    curves: name -> (thresholds, densities, accuracies), shares from 0 to 1, NaN where nothing is labelled. threshold: a dashed
    line there, and a dot on each curve at its nearest T.
    """
    figure = Figure(figsize=(width, 2.6))
    panels = figure.subplots(1, 3)
    for i, (name, curve) in enumerate(curves.items()):
        T, density, accuracy = (to_array(values).astype(float) for values in curve)
        colour = COLOURS[i % len(COLOURS)]
        lines = (T, 100 * density), (T, 100 * accuracy), (100 * density, 100 * accuracy)
        for axes, (x, y) in zip(panels, lines, strict=True):
            axes.plot(x, y, color=colour, label=name)
            if threshold is not None:
                place = np.abs(T - threshold).argmin()
                axes.plot(x[place], y[place], "o", color=colour, markersize=5)
    for axes, title, name in zip(
        panels, ("density, %", "accuracy, %", "accuracy at a density, %"), ("T", "T", "density, %"), strict=True
    ):
        axes.set(title=title, xlabel=name)
        if threshold is not None and name == "T":
            axes.axvline(threshold, color="black", linestyle="--", linewidth=0.8)
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=len(curves), fontsize=8)
    return figure


@styled
def label_history(history: Mapping[str, Sequence[tuple]], width: float = 9.0) -> Figure:
    """Density and accuracy of pseudo-labels while a network learns. history: name -> [(step, density, accuracy)], shares."""
    figure = Figure(figsize=(width, 2.4))
    panels = figure.subplots(1, 2)
    for i, (name, records) in enumerate(history.items()):
        step, *shares = np.array(records, dtype=float).T
        for axes, share in zip(panels, shares, strict=True):
            axes.plot(step, 100 * share, marker="o", markersize=3, color=COLOURS[i % len(COLOURS)], label=name)
    for axes, title in zip(panels, ("density, %", "accuracy, %"), strict=True):
        axes.set(title=title, xlabel="step")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside right center", fontsize=8)
    return figure
