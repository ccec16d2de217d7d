"""Photographs, label maps and number maps side by side.

Letters: N pictures, (H, W) their size.
"""

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from course_lib.classroom.figures.style import styled, to_array, to_picture
from course_lib.labels import CITYSCAPES19, IGNORE, LabelSpace, colourise, label_space


@styled
def show(
    image=None,
    label=None,
    prediction=None,
    *,
    space: str | LabelSpace = CITYSCAPES19,
    rows: int = 4,
    legend: bool = True,
    width: float = 12.0,
    across: int | None = None,
    **more,
) -> Figure:
    """Put pictures side by side, one panel each, titled by their names: `show(image, label, before=p0, after=p1)`.

    What a panel is follows from its shape: (3, H, W) is a picture, (H, W) of whole numbers a label map in the colours of
    `space`, (H, W) of floats a map of numbers (depth, entropy) with its range, that of all such maps of the call, in the title.
    With a batch dimension in front, up to `rows` pictures are drawn below each other. `legend` names the classes that occur.
    Underscores in names become spaces. `width` is in inches. More panels than `across` continue below, so that each is large
    enough to look into: by default 3, of four panels 2, which are at least 300 pixels wide in a notebook.
    """
    named = {"image": image, "label": label, "prediction": prediction} | more
    columns = {name.replace("_", " "): _batch(panel) for name, panel in named.items() if panel is not None}
    if not columns:
        raise ValueError("show() came with nothing to draw. Give it an image, a label map or named panels.")
    counts = {name: len(column) for name, column in columns.items()}
    if len(set(counts.values())) > 1:
        raise ValueError(f"show() came with different numbers of pictures: {counts}. Give each column as many.")
    space = label_space(space)
    pictures, across = min(rows, *counts.values()), min(across or (2 if len(columns) == 4 else 3), len(columns))
    blocks = -(-len(columns) // across)  # rows of panels for each picture
    picture_height, picture_width = _size(next(iter(columns.values()))[0])
    used = _classes_in(columns.values(), space) if legend else []
    legend_columns = max(1, min(8, len(used), int(width / 1.15)))  # a class's name and its patch take about 1.15 inches
    legend_height = 0.2 * -(-len(used) // legend_columns) if used else 0.0
    titles = 0.22 * (pictures * blocks if blocks > 1 else 1)
    height = pictures * blocks * (width / across * picture_height / picture_width) + titles + 0.05 + legend_height
    figure = Figure(figsize=(width, height))
    figure.get_layout_engine().set(w_pad=0.02, h_pad=0.02, wspace=0.01, hspace=0.02)
    grid = figure.subplots(pictures * blocks, across, squeeze=False)
    for axes in grid.flat:
        axes.set_axis_off()
    maps = [panels[:pictures].ravel() for panels in columns.values() if panels.ndim == 3 and not _is_label(panels[0])]
    scale = _range(np.concatenate(maps)) if maps else (0.0, 1.0)  # one for all, so that they can be compared
    for place, (name, panels) in enumerate(columns.items()):
        block, column = divmod(place, across)
        for picture in range(pictures):
            axes = grid[picture * blocks + block, column]
            note = _draw(axes, panels[picture], space, scale)
            axes.set_title((name if picture == 0 or blocks > 1 else "") + note * (picture == 0))
    if used:
        figure.legend(handles=_patches(used, space), loc="outside lower center", ncols=legend_columns, fontsize=8)
    return figure


def overlay(image, label, space: str | LabelSpace = CITYSCAPES19, strength: float = 0.5) -> np.ndarray:
    """Lay a label map over its picture: (H, W, 3) uint8; ignored pixels stay as they are.

    >>> overlay(np.full((1, 2, 3), 100, np.uint8), np.array([[0, 255]])).tolist()
    [[[114, 82, 114], [100, 100, 100]]]
    """
    picture, label = to_picture(image), to_array(label)
    if picture.shape[:2] != label.shape:
        raise ValueError(
            f"The picture is {picture.shape[:2]}, its label {label.shape} (height, width). Resize one first."
        )
    mixed = (1 - strength) * picture + strength * colourise(label, space)
    return np.where((label == IGNORE)[..., None], picture, mixed.round()).astype(np.uint8)


@styled
def legend(space: str | LabelSpace = CITYSCAPES19, width: float = 9.0) -> Figure:
    """The colours of all classes of a label space."""
    space = label_space(space)
    figure = Figure(figsize=(width, 0.22 * -(-space.num_classes // 7) + 0.1))
    figure.subplots().set_axis_off()  # a notebook shows no figure without axes
    figure.legend(handles=_patches(range(space.num_classes), space), loc="center", ncols=7)
    return figure


def _batch(panel) -> np.ndarray:
    """With the batch dimension in front: (N, 3, H, W) or (N, H, W).

    Three of something is a colour picture, unless its whole numbers are wider than a picture's byte: then three labels.
    """
    panel = to_array(panel)
    is_picture = panel.ndim == 3 and 3 in (panel.shape[0], panel.shape[-1])
    is_labels = np.issubdtype(panel.dtype, np.integer) and panel.dtype != np.uint8
    return panel[None] if panel.ndim == 2 or (is_picture and not is_labels) else panel


def _size(panel: np.ndarray) -> tuple[int, int]:
    return panel.shape if panel.ndim == 2 else to_picture(panel).shape[:2]


def _is_label(panel: np.ndarray) -> bool:
    return panel.ndim == 2 and np.issubdtype(panel.dtype, np.integer)


def _range(panels: np.ndarray) -> tuple[float, float]:
    """The least and the largest finite number."""
    finite = panels[np.isfinite(panels)]
    return (float(finite.min()), float(finite.max())) if finite.size else (0.0, 1.0)


def _draw(axes, panel: np.ndarray, space: LabelSpace, scale: tuple[float, float]) -> str:
    """Draw one panel, a map of numbers in the colours of `scale`; returns what its title must add."""
    if panel.ndim == 3:
        axes.imshow(to_picture(panel))
        return ""
    if _is_label(panel):
        axes.imshow(colourise(panel, space))
        return ""
    axes.imshow(panel, cmap="viridis", vmin=scale[0], vmax=scale[1])
    return f" ({scale[0]:.3g} to {scale[1]:.3g})"


def _classes_in(columns, space: LabelSpace) -> list[int]:
    found = {int(c) for column in columns if _is_label(column[0]) for c in np.unique(column)}
    return sorted(c for c in found if c < space.num_classes)


def _patches(classes, space: LabelSpace) -> list[Patch]:
    return [Patch(facecolor=np.array(space.palette[c]) / 255, label=space.classes[c]) for c in classes]
