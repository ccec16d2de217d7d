"""The course at a glance: which page needs which, and whose exercises are solved."""

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from course_lib.classroom.figures.style import styled

LEVELS = {"fill in": "#56B4E9", "write": "#0072B2", "design": "#D55E00"}  # Okabe and Ito
PLACES = {"01": (0, 1), "03": (0, 0), "02": (1, 1), "04": (2, 0.5), "05": (3, 1), "07": (3, 0), "06": (4, 1), "08": (4, 0)}
ACROSS = 7  # exercises in a row


@styled
def course_map(pages: Sequence[Any], width: float = 11.0) -> Figure:
    """What needs what: a box for each page (`classroom.course.PAGES`), an arrow from each page that it builds on."""
    figure = Figure(figsize=(width, 2.6))
    axes = figure.subplots()
    axes.set(xlim=(-0.5, 4.5), ylim=(-0.5, 1.5))
    axes.set_axis_off()
    for page in pages:
        x, y = PLACES[page.number]
        for needed in page.needs:
            axes.annotate("", (x - 0.38, y), (PLACES[needed][0] + 0.38, PLACES[needed][1]),
                          arrowprops={"arrowstyle": "->", "color": "#555555"})  # fmt: skip
        text = f"{page.number}  {page.name}\n{page.minutes} min, {len(page.exercises)} exercises"
        frame = {"boxstyle": "round,pad=0.5", "fc": "#f3e6d8" if page.needs else "#d8e4f0", "ec": "#555555"}
        axes.text(x, y, text, ha="center", va="center", fontsize=9.5, bbox=frame)
    return figure


@styled
def exercises(pages: Sequence[Any], solved: Mapping[str, str], width: float = 11.0) -> Figure:
    """A square for each exercise, in the colour of its level, filled where it is solved; at most ACROSS in a row."""
    rows = [-(-len(page.exercises) // ACROSS) for page in pages]
    figure = Figure(figsize=(width, 0.5 * sum(rows) + 0.7))
    axes = figure.subplots()
    for page, first in zip(pages, (sum(rows[:k]) for k in range(len(rows)))):
        done = 0
        for place, (name, check) in enumerate(page.exercises.items()):
            row, column = first + place // ACROSS, place % ACROSS
            right, colour = name in solved, LEVELS[check.level]
            done += right
            axes.plot(column, row, "s", markersize=13, color=colour, fillstyle="full" if right else "none", markeredgewidth=1.6)
            axes.text(column + 0.14, row, name.replace("_", "\n"), va="center", fontsize=7, linespacing=1.0)
        title = f"{page.number} {page.name}, {done} of {len(page.exercises)}"
        axes.text(-0.25, first, title, va="center", ha="right", fontsize=9)
    axes.set(xlim=(-2.2, ACROSS), ylim=(sum(rows) - 0.5, -0.5))
    axes.set_axis_off()
    marks = [
        Line2D([], [], linestyle="", marker="s", markersize=9, color=colour, label=level, fillstyle=style)
        for level, colour, style in (*((*pair, "full") for pair in LEVELS.items()), ("not solved yet", "#555555", "none"))
    ]
    figure.legend(handles=marks, loc="outside lower center", ncols=len(marks), fontsize=8)
    return figure
