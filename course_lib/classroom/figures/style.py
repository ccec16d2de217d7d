"""How all figures look, and how arrays and tensors become pictures."""

import base64
import functools
from collections.abc import Callable

import matplotlib
import numpy as np
import torch
from matplotlib.figure import Figure

STYLE = {
    "figure.dpi": 80,
    "figure.constrained_layout.use": True,
    "font.size": 9.0,
    "axes.titlesize": 9.0,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": False,
    "axes.formatter.min_exponent": 3,  # of logarithmic axes: 0.3 and 30, not 3 x 10^1
    "image.interpolation": "nearest",  # a pixel of a label map is a pixel
    "legend.frameon": False,
    "lines.linewidth": 1.4,
}
WIDE = 930  # pixels across a figure in a notebook, at least
COLOURS = ("#7f7f7f", "#d1602f", "#2b6ca3", "#4a9b5f", "#8a5fa8", "#b59a2e")  # grey first: the baseline


def styled(function: Callable[..., Figure]) -> Callable[..., Figure]:
    """Draw in the course's style, whatever the settings outside, and leave those as they are."""

    @functools.wraps(function)
    def draw(*args, **kwargs) -> Figure:
        with matplotlib.rc_context(STYLE):
            return function(*args, **kwargs)

    return draw


def use_style() -> None:
    """The course's style for your own plots too; in a notebook, a Figure at the end of a cell becomes a PNG of at least `WIDE`
    pixels across."""
    try:
        from IPython import get_ipython
    except ImportError:
        matplotlib.rcParams.update(STYLE)
        return
    if (shell := get_ipython()) is not None and hasattr(shell, "kernel"):
        shell.enable_matplotlib("inline")  # now: the first figure would do it, and set its own way of showing figures
    matplotlib.rcParams.update(STYLE)
    if shell is not None:
        _show_large()
        if _show_large not in shell.events.callbacks["pre_run_cell"]:
            shell.events.register("pre_run_cell", _show_large)  # the first cell that uses pyplot sets another way


def _show_large(*_) -> None:
    from IPython import get_ipython

    get_ipython().display_formatter.formatters["image/png"].for_type(Figure, as_png)


def as_png(figure: Figure) -> tuple[str, dict[str, str]] | None:
    """What a notebook shows of a figure: the PNG in base64, and metadata with its description; None of one without axes."""
    from IPython.core.pylabtools import print_figure

    dpi = max(figure.dpi, WIDE / figure.get_figwidth())
    png = print_figure(figure, "png", dpi=dpi, base64=True)
    if png is None:
        return None
    width = int.from_bytes(base64.b64decode(png[:40])[16:20], "big")  # of the header; the margins were cut off
    if width < WIDE:
        png = print_figure(figure, "png", dpi=dpi * (WIDE + 1) / width, base64=True)
    return png, {"alt": description(figure)}


def description(figure: Figure) -> str:
    """The words in a figure, for those who cannot see it: of each panel its title and axes, then the legends."""
    panels = []
    for axes in figure.axes:
        titles = [axes.get_title(where) for where in ("left", "center", "right")]
        against = [text for text in (axes.get_ylabel(), axes.get_xlabel()) if text]
        panels.append(", ".join([*filter(None, titles), *([" against ".join(against)] if against else [])]))
    legends = [*figure.legends, *(axes.get_legend() for axes in figure.axes if axes.get_legend())]
    words = [text.get_text() for legend in legends for text in legend.get_texts()]
    said = [f"Figure with {len(panels)} panel{'s' * (len(panels) != 1)}", *dict.fromkeys(filter(None, panels))]
    said += [f"legend: {', '.join(dict.fromkeys(words))}"] * bool(words)
    return " ".join("; ".join(said).split())


def to_array(values) -> np.ndarray:
    """A tensor on any device, an array or a list as a NumPy array."""
    if isinstance(values, torch.Tensor):
        values = values.detach().cpu()
        return values.float().numpy() if values.dtype == torch.bfloat16 else values.numpy()
    return np.asarray(values)


def to_picture(image) -> np.ndarray:
    """(3, H, W) or (H, W, 3), uint8 or float in 0..1 -> (H, W, 3) uint8.

    >>> to_picture(torch.ones(3, 4, 8)).shape
    (4, 8, 3)
    """
    image = to_array(image)
    if image.ndim != 3 or 3 not in (image.shape[0], image.shape[-1]):
        raise ValueError(f"A picture came with shape {image.shape}; wanted (3, H, W) or (H, W, 3). Show one at a time.")
    if image.shape[0] == 3 and image.shape[-1] != 3:
        image = image.transpose(1, 2, 0)
    if image.dtype == np.uint8:
        return image
    low, high = float(image.min()), float(image.max())
    if low < -1e-3 or high > 1 + 1e-3:
        raise ValueError(
            f"A picture came with values from {low:.2f} to {high:.2f}; wanted uint8, or floats from 0 to 1. "
            "It looks normalised for a network: denormalise it first."
        )
    return (image.clip(0, 1) * 255).round().astype(np.uint8)
