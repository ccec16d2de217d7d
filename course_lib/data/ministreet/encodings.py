"""A scene as files: the names, folders and pixel encodings of GTA5, SYNTHIA and Cityscapes.

    gta5        images/00001.png (RGB)   labels/00001.png (palette PNG of raw ids)           depth/00001.png
    synthia     RGB/0000000.png          GT/LABELS/0000000.png (16 bit: class, instance, 0)  Depth/0000000.png
    cityscapes  leftImg8bit/<split>/ministreet/ministreet_000000_000019_leftImg8bit.png
                gtFine/<split>/ministreet/..._gtFine_labelIds.png, ..._gtFine_instanceIds.png
                depth/<split>/ministreet/..._depth.png

Depth is 16 bit in centimetres, 0 for the sky.
"""

import io
from functools import cache

import numpy as np
from PIL import Image

from course_lib import labels
from course_lib.data.png16 import encode_png16

from .rendering import Scene

CITY, FRAME = "ministreet", "000019"  # Cityscapes names: city, sequence, frame; the labelled frame is the twentieth
FIRST_THING, LAST_THING = 24, 33  # raw ids of Cityscapes' classes with instances: person ... bicycle
FARTHEST = 65535  # centimetres


_CITYSCAPES = f"{{split}}/{CITY}/{CITY}_{{index:06d}}_{FRAME}"
FILES = {  # layout -> the files of one picture; number = index + 1
    "gta5": ("images/{number:05d}.png", "labels/{number:05d}.png", "depth/{number:05d}.png"),
    "synthia": ("RGB/{index:07d}.png", "GT/LABELS/{index:07d}.png", "Depth/{index:07d}.png"),
    "cityscapes": (
        f"leftImg8bit/{_CITYSCAPES}_leftImg8bit.png",
        f"gtFine/{_CITYSCAPES}_gtFine_labelIds.png",
        f"depth/{_CITYSCAPES}_depth.png",
        f"gtFine/{_CITYSCAPES}_gtFine_instanceIds.png",
    ),
}


def names(layout: str, split: str, index: int) -> tuple[str, ...]:
    """The files of picture `index` below the root: image, label, depth, and for Cityscapes instances.

    >>> names("gta5", "train", 0)
    ('images/00001.png', 'labels/00001.png', 'depth/00001.png')
    """
    return tuple(file.format(split=split, index=index, number=index + 1) for file in FILES[layout])


def encode(scene: Scene, layout: str, split: str, index: int) -> dict[str, bytes]:
    """The files of picture `index`: path below the root -> content."""
    raw = _raw_table(layout)[scene.label]
    contents = [_png(scene.image), _label(scene, layout, raw), encode_png16(centimetres(scene.depth))]
    if layout == "cityscapes":
        contents.append(encode_png16(instance_ids(raw, scene.instance)))
    return dict(zip(names(layout, split, index), contents, strict=True))


def _label(scene: Scene, layout: str, raw: np.ndarray) -> bytes:
    if layout == "gta5":
        return _png(raw, palette=_palette())
    if layout == "synthia":
        return encode_png16(np.stack([raw, scene.instance, np.zeros_like(raw)], -1))
    return _png(raw)


def centimetres(depth: np.ndarray) -> np.ndarray:
    """Metres to whole centimetres, at least 1, at most 655.35 m; the sky (infinite) becomes 0.

    >>> centimetres(np.array([1.234, 0.001, 9999.0, np.inf])).tolist()
    [123, 1, 65535, 0]
    """
    finite = np.isfinite(depth)
    return np.where(finite, np.clip(np.rint(np.where(finite, depth, 0) * 100.0), 1, FARTHEST), 0).astype(np.uint16)


def instance_ids(raw: np.ndarray, instance: np.ndarray) -> np.ndarray:
    """Cityscapes' instance ids: 1000 id + n for the n-th thing (from 0) of a class with instances, else the id itself.

    >>> instance_ids(np.array([7, 26, 26, 24]), np.array([0, 5, 9, 3])).tolist()
    [7, 26000, 26001, 24000]
    """
    ids = raw.astype(np.uint16)
    for thing in range(FIRST_THING, LAST_THING + 1):
        mask = raw == thing
        _, nth = np.unique(instance[mask], return_inverse=True)
        ids[mask] = 1000 * thing + nth
    return ids


def _png(pixels: np.ndarray, palette: list[int] | None = None) -> bytes:
    image = Image.fromarray(pixels)
    if palette:
        image.putpalette(palette)  # a grey image with a palette is a palette image (mode P)
    content = io.BytesIO()
    image.save(content, "PNG", compress_level=4)
    return content.getvalue()


@cache
def _raw_table(layout: str) -> np.ndarray:
    return np.array(labels.raw_ids(layout), np.uint8)


@cache
def _palette() -> list[int]:
    """GTA5's label files show Cityscapes' colours."""
    colours = {label.id: label.colour for label in labels.CITYSCAPES_LABELS}
    return [channel for i in range(256) for channel in colours.get(i, (0, 0, 0))]
