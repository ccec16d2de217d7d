"""Contrastive learning made visible: who is similar to whom, which classes stand together, which pictures are nearest.

Letters: M rows, F pictures, C classes.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from course_lib.classroom.figures.style import styled, to_array, to_picture

CLASS_COLOURS = ("#2b6ca3", "#8c6d46", "#d1602f", "#c2418c", "#111111", "#d9b310", "#4a9b5f", "#8a5fa8", "#5fb3b3", "#888888")


@styled
def similarities(
    matrices: Mapping[str, object],
    names: Sequence[str] = (),
    pairs: Sequence[tuple[int, int]] = (),
    limit: float = 1.0,
    size: float = 3.2,
) -> Figure:
    """Draw matrices of similarities (M, M) side by side, up to 12 rows with their numbers.

    matrices: title -> (M, M); -limit is blue, limit red, NaN (a place that does not count) white. names: one per row.
    pairs: (row, column) places to frame, the positive pairs.
    """
    figure = Figure(figsize=(size * 1.15 * len(matrices), size))
    for axes, (title, matrix) in zip(figure.subplots(1, len(matrices), squeeze=False)[0], matrices.items(), strict=True):
        s = to_array(matrix).astype(float)
        if s.ndim != 2 or s.shape[0] != s.shape[1] or len(names) not in (0, len(s)):
            raise ValueError(f"Got similarities {s.shape} and {len(names)} names; wanted (M, M) and M names, or none.")
        axes.imshow(s, cmap="RdBu_r", vmin=-limit, vmax=limit)
        ticks, words = (range(len(s)), _words(names)) if names else ([], [])
        axes.set_xticks(ticks, words, rotation=45, ha="right")
        axes.set_yticks(ticks, words)
        axes.set(title=title)
        for (row, column), value in np.ndenumerate(s) if len(s) <= 12 else ():
            if np.isfinite(value):
                colour = "white" if abs(value) > 0.6 * limit else "black"
                text = f"{value + 0.0:.2f}".replace("-0.00", "0.00")
                axes.text(column, row, text, ha="center", va="center", fontsize=7, color=colour)
        for row, column in pairs:
            frame = Rectangle((column - 0.47, row - 0.47), 0.94, 0.94, fill=False, edgecolor="black", linewidth=1.8)
            axes.add_patch(frame)
    return figure


@styled
def clusters(points: Mapping[str, np.ndarray], label, classes: Sequence[str], width: float = 9.0) -> Figure:
    """Scatter pictures in the plane, one panel for each entry of `points`, coloured by class.

    points: title -> (F, 2); label (F,) numbers into `classes`, the same for all panels.
    """
    y = to_array(label)
    figure = Figure(figsize=(width, width / max(2, len(points)) + 0.2))
    for axes, (title, xy) in zip(figure.subplots(1, len(points), squeeze=False)[0], points.items(), strict=True):
        xy = to_array(xy)
        if xy.shape != (len(y), 2):
            raise ValueError(f"{title!r} came with points {xy.shape} for {len(y)} labels; wanted ({len(y)}, 2).")
        for c, name in enumerate(_words(classes)):
            colour = CLASS_COLOURS[c % len(CLASS_COLOURS)]
            axes.scatter(*xy[y == c].T, s=9, color=colour, alpha=0.8, linewidths=0, label=name)
        axes.set(title=title, xticks=[], yticks=[])
    handles, names = axes.get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=min(8, len(classes)), fontsize=7, markerscale=2)
    return figure


@styled
def neighbours(queries, columns: Mapping[str, tuple], width: float = 9.0) -> Figure:
    """Beside each query picture its nearest pictures by several features: green frame right class, red frame wrong.

    queries (Q, 3, S, S); columns: title -> (pictures (Q, k, 3, S, S), right (Q, k) truth values).
    """
    queries = to_array(queries)
    counts = [to_array(pictures).shape[1] for pictures, _ in columns.values()]
    widths = [1.0] + [n for count in counts for n in (0.3, *[1.0] * count)]
    figure = Figure(figsize=(width, width / sum(widths) * len(queries) + 0.3))
    figure.get_layout_engine().set(w_pad=0.01, h_pad=0.01, wspace=0, hspace=0, rect=(0, 0, 1, 1 - 0.2 / figure.get_figheight()))
    grid = figure.subplots(len(queries), len(widths), squeeze=False, width_ratios=widths)
    for axes in grid.flat:
        axes.set_axis_off()
    for row, query in enumerate(queries):
        grid[row, 0].imshow(to_picture(query))
        place = 1
        for pictures, right in columns.values():
            for picture, good in zip(to_array(pictures)[row], to_array(right)[row], strict=True):
                place += 1
                grid[row, place].imshow(to_picture(picture))
                frame = {"transform": grid[row, place].transAxes, "fill": False, "linewidth": 3}
                grid[row, place].add_patch(Rectangle((0, 0), 1, 1, edgecolor="#1e7d34" if good else "#d03a2f", **frame))
            place += 1
    for title, place in zip(columns, np.cumsum([2] + [count + 1 for count in counts[:-1]])):
        _title(grid[0, place], title)
    _title(grid[0, 0], "query")
    return figure


def _title(axes, text: str) -> None:
    """A title that may be wider than its picture; the figure's own, for one of the axes would push the pictures apart."""
    axes.figure.text(0, 1.08, text, transform=axes.transAxes)


def _words(names: Sequence[str]) -> list[str]:
    return [name.replace("_", " ") for name in names]
