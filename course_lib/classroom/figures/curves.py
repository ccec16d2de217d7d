"""Losses over steps, with the values they have when nothing is learnt."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from course_lib.classroom.figures.style import COLOURS, styled, to_array
from course_lib.classroom.landmarks import Landmark

FAR = 3.0


@styled
def loss_curves(
    losses: Mapping[str, Sequence[float]] | Sequence[Mapping],
    landmarks: Mapping[str, Landmark] | None = None,
    smooth: int = 10,
    width: float = 9.0,
) -> Figure:
    """Draw each loss in a panel of its own, its landmark as a dashed line.

    losses: name -> values, or the records of a training log ({"step": ..., "losses": {...}}). landmarks: name ->
    (value, what it means), see `classroom.landmarks`; one that is more than `FAR` times the largest value is written above the
    curve, which would be flat beside its line. A pale line is the loss itself, the strong one its running mean
    over `smooth` values.
    """
    curves = _curves(losses)
    if not curves:
        raise ValueError("loss_curves() came without a loss. Give it name -> values, or the records of a log.")
    landmarks = landmarks or {}
    figure = Figure(figsize=(width, 2.4))
    panels = figure.subplots(1, len(curves), squeeze=False)[0]
    for i, (axes, (name, (steps, values))) in enumerate(zip(panels, curves.items(), strict=True)):
        colour = COLOURS[(i + 1) % len(COLOURS)]
        axes.plot(steps, values, color=colour, alpha=0.3, linewidth=0.8)
        axes.plot(steps, _running_mean(values, smooth), color=colour)
        level, meaning = landmarks.get(name, (0.0, ""))
        if level > FAR * float(np.nanmax(values)):
            words = f"{meaning.partition(':')[0]} = {level:.2f}: above"
            axes.annotate(words, (1, 1), xycoords="axes fraction", ha="right", va="top", fontsize=7)
        elif name in landmarks:
            axes.axhline(level, color="black", linestyle="--", linewidth=0.8)
            axes.annotate(meaning, (1, level), xycoords=("axes fraction", "data"), xytext=(0, 2),
                          textcoords="offset points", ha="right", fontsize=7,
                          bbox={"facecolor": "white", "alpha": 0.7, "linewidth": 0, "pad": 0.5})
        axes.set(title=name.replace("_", " "), xlabel="step")
        axes.set_ylim(bottom=min(0.0, float(np.nanmin(values))))
    return figure


def _curves(losses) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """name -> (steps, values)."""
    if isinstance(losses, Mapping):
        arrays = {name: to_array(values).astype(float) for name, values in losses.items() if len(values)}
        return {name: (np.arange(1, len(values) + 1), values) for name, values in arrays.items()}
    names = {name: None for record in losses for name in record.get("losses", {})}  # in order of appearance
    points = {
        name: [(r["step"], r["losses"][name]) for r in losses if name in r.get("losses", {})] for name in names
    }
    return {name: tuple(np.array(pairs, dtype=float).T) for name, pairs in points.items()}


def _running_mean(values: np.ndarray, window: int) -> np.ndarray:
    """Mean of the last `window` values at each place, of fewer at the beginning."""
    sums = np.cumsum(np.insert(values, 0, 0.0))
    stops = np.arange(1, len(values) + 1)
    starts = np.maximum(0, stops - window)
    return (sums[stops] - sums[starts]) / (stops - starts)
