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

DASHES = ("-", "--", "-.", ":")  # lines and points can be told apart without their colours
SHAPES = ("o", "s", "^", "D", "v", "P")


@styled
def bias_arrows(
    panels: Mapping[str, tuple], classes: Sequence[int], space: str | LabelSpace = CITYSCAPES19, width: float = 9.0
) -> Figure:
    """The domain bias xi(c) = mu_T(c) - mu_S(c): an arrow from each source prototype (dot) to the target's (star).

    panels: title -> (mu_S (C, D), mu_T (C, D)), vectors as they are, of one network or of networks that began alike. All lie
    in one plane, that in which the first panel's prototypes of both domains differ most, round their mean, and have one
    scale, so that arrows can be compared. classes: train ids to draw.
    """
    space, classes = label_space(space), list(classes)
    drawn = {title: [torch.as_tensor(to_array(mean)).float()[classes] for mean in means] for title, means in panels.items()}
    if len(channels := {mean.shape[1] for means in drawn.values() for mean in means}) != 1:
        raise ValueError(f"bias_arrows got prototypes of {sorted(channels)} channels; one plane for all wants equal ones.")
    middle, directions = principal_components(torch.cat(next(iter(drawn.values()))), 2)
    flat = {title: [((mean - middle) @ directions).numpy() for mean in means] for title, means in drawn.items()}
    everything = np.concatenate([points for ends in flat.values() for points in ends])
    figure = Figure(figsize=(width, width / len(panels) * 0.8 + 0.35))
    for axes, (title, ends) in zip(figure.subplots(1, len(panels), squeeze=False)[0], flat.items(), strict=True):
        for c, begin, end in zip(classes, *ends, strict=True):
            colour = np.array(space.palette[c]) / 255
            axes.plot(*begin, "o", color=colour, markersize=7, markeredgecolor="black", markeredgewidth=0.6)
            axes.plot(*end, "*", color=colour, markersize=11, markeredgecolor="black", markeredgewidth=0.6)
            arrow = {"arrowstyle": "->", "color": "black", "linewidth": 1.1, "shrinkA": 0, "shrinkB": 0}
            axes.annotate("", end, begin, arrowprops=arrow, zorder=4)  # over the marks: short ones would vanish below a star
        axes.set(title=title, xticks=[], yticks=[], xlabel="direction of most difference", ylabel="of the next most")
        axes.update_datalim(everything)  # one scale for all panels
        axes.set_aspect("equal", adjustable="datalim")
        axes.margins(0.1)
    shapes = {"o": "source, mu_S", "*": "target, mu_T"}
    handles = [Line2D([], [], marker=shape, linestyle="", color="white", markeredgecolor="black", markersize=8, label=name)
               for shape, name in shapes.items()]  # fmt: skip
    handles += [Line2D([], [], marker="s", linestyle="", color=np.array(space.palette[c]) / 255, label=space.classes[c])
                for c in classes]  # fmt: skip
    figure.legend(handles=handles, loc="outside lower center", ncols=min(int(width), len(handles)), fontsize=7)
    return figure


@styled
def accuracy_at_density(
    curves: Mapping[str, tuple],
    points: Mapping[str, tuple[float, float]] | None = None,
    published: Mapping[str, tuple[float, float]] | None = None,
    lowest: float = 60.0,
    width: float = 11.0,
) -> Figure:
    """One large panel: how many pseudo-labels are right, over how many there are. A higher line is the better way to label.

    curves: name -> (densities, accuracies), shares from 0 to 1, such as `pseudo_labels.accuracy_by_density` gives; points: name
    -> (density, accuracy) of labels as they are used; published: such points of a paper, hollow, in the shapes of `points` by
    the same name. lowest: the accuracy in % at the bottom.
    """
    figure = Figure(figsize=(width, 0.5 * width))
    axes = figure.subplots()
    for i, (name, (density, accuracy)) in enumerate(curves.items()):
        x, y = (100 * to_array(values).astype(float) for values in (density, accuracy))
        axes.plot(x, y, color=COLOURS[i % len(COLOURS)], linestyle=DASHES[i % len(DASHES)], linewidth=2, label=name)
    names = list(dict.fromkeys([*(points or {}), *(published or {})]))
    shapes = {name: SHAPES[i % len(SHAPES)] for i, name in enumerate(names)}
    for where, face, words in ((points, "black", ""), (published, "white", " (paper)")):
        for name, (density, accuracy) in (where or {}).items():
            axes.plot(100 * density, 100 * accuracy, shapes[name], color="black", markerfacecolor=face, markersize=9,
                      label=name + words)  # fmt: skip
    axes.set(xlim=(0, 100), ylim=(lowest, 100.6), xlabel="density: pixels with a label, %", ylabel="accuracy: right ones, %",
             title="accuracy at equal density")  # fmt: skip
    axes.grid(alpha=0.3)
    axes.legend(loc="lower left", fontsize=9)
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
