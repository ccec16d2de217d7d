"""A slider for the parameter that matters most. The figure is shown without it, too: in print, in tests, on a page."""

import inspect
from collections.abc import Callable


def slider(function: Callable, **ranges: tuple[float, float, float]) -> None:
    """Show `function(...)` and a slider for each of its arguments that is given as (low, high, step).

        slider(street, gap=(0.0, 1.0, 0.25))

    `function` returns what to show, a Figure for example. It is called once with its own defaults (the middle where it
    has none); this first picture is an ordinary output, which the sliders then redraw in place.
    """
    from IPython.display import display

    values = {name: start_value(function, name, span) for name, span in ranges.items()}
    knobs = build(values, ranges)
    for knob in knobs.values():
        display(knob)
    picture = display(function(**values), display_id=True)

    def redraw(change: dict) -> None:
        picture.update(function(**{name: knob.value for name, knob in knobs.items()}))

    for knob in knobs.values():
        knob.observe(redraw, names="value")


def start_value(function: Callable, name: str, span: tuple[float, float, float]) -> float:
    """The function's own default for `name`, or the step nearest to the middle of (low, high, step).

    >>> start_value(lambda gap: gap, "gap", (0.0, 1.0, 0.25))
    0.5
    """
    parameters = inspect.signature(function).parameters
    if name not in parameters:
        raise ValueError(f"slider got {name}=..., but the function takes {', '.join(parameters) or 'nothing'}.")
    if len(span) != 3 or not span[0] < span[1] or span[2] <= 0:
        raise ValueError(f"slider got {name}={span!r}; it wants (low, high, step) with low < high and step > 0.")
    low, high, step = span
    default = parameters[name].default
    if default is inspect.Parameter.empty:
        return low + step * round((high - low) / 2 / step)
    if not low <= default <= high:
        raise ValueError(f"slider got {name}={span!r}, which leaves out the function's default {default!r}. Widen it.")
    return default


def build(values: dict[str, float], ranges: dict[str, tuple[float, float, float]]) -> dict:
    """The sliders themselves: whole numbers when low, high and step are whole; they act when let go."""
    try:
        import ipywidgets
    except ImportError:
        print("The slider needs ipywidgets (pip install ipywidgets); here is the picture alone.")
        return {}
    knobs = {}
    for name, (low, high, step) in ranges.items():
        whole = all(isinstance(number, int) for number in (low, high, step, values[name]))
        kind = ipywidgets.IntSlider if whole else ipywidgets.FloatSlider
        knobs[name] = kind(
            values[name], min=low, max=high, step=step, description=name.replace("_", " "), continuous_update=False,
            style={"description_width": "initial"},  # else a long name is cut
            layout={"width": "28em", "max_width": "100%"},  # a step of the slider is a few pixels
        )  # fmt: skip
    return knobs
