"""How all figures look, and how arrays and tensors become pictures."""

import functools
from collections.abc import Callable

import matplotlib
import numpy as np
import torch
from matplotlib.figure import Figure

STYLE = {
    "figure.dpi": 80,  # a notebook with twenty figures stays under 1 MB
    "figure.constrained_layout.use": True,
    "font.size": 9.0,
    "axes.titlesize": 9.0,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": False,
    "image.interpolation": "nearest",  # a pixel of a label map is a pixel
    "legend.frameon": False,
    "lines.linewidth": 1.4,
}
COLOURS = ("#7f7f7f", "#d1602f", "#2b6ca3", "#4a9b5f", "#8a5fa8", "#b59a2e")  # grey first: the baseline


def styled(function: Callable[..., Figure]) -> Callable[..., Figure]:
    """Draw in the course's style, whatever the settings outside, and leave those as they are."""

    @functools.wraps(function)
    def draw(*args, **kwargs) -> Figure:
        with matplotlib.rc_context(STYLE):
            return function(*args, **kwargs)

    return draw


def use_style() -> None:
    """The course's style for your own plots too; in a notebook, a Figure at the end of a cell becomes a PNG."""
    matplotlib.rcParams.update(STYLE)
    try:
        from IPython import get_ipython
        from IPython.core.pylabtools import select_figure_formats
    except ImportError:
        return
    if get_ipython() is not None:
        select_figure_formats(get_ipython(), {"png"})


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
