"""A bar that shows the losses of a loop while it runs."""

from collections.abc import Iterable

import torch
from tqdm.auto import tqdm


class Bar(tqdm):
    """tqdm's bar (a widget in Jupyter, text in a terminal) that takes losses as they come."""

    def show(self, **losses) -> None:
        """Put numbers or one-element tensors behind the bar; they appear at its next redraw."""
        numbers = {name: value.item() if isinstance(value, torch.Tensor) else value for name, value in losses.items()}
        self.set_postfix({name: f"{number:.3f}" for name, number in numbers.items()}, refresh=False)


def progress(steps: Iterable, description: str | None = None, total: int | None = None) -> Bar:
    """A bar over `steps`, redrawn at most twice a second, so that it costs nothing.

    >>> for step in (bar := progress(range(3), "adapt")):
    ...     bar.show(segmentation=1.0 / (step + 1))
    >>> bar.postfix
    'segmentation=0.333'
    """
    return Bar(steps, desc=description, total=total, mininterval=0.5)
