"""The orientation mark of a picture (EXIF, 1 to 8), by which a viewer turns it upright.

Letters: H, W image size.

The mark says where the first row and the first column of the file belong, once it is looked at:

    1 top, left       2 top, right      3 bottom, right    4 bottom, left
    5 left, top       6 right, top      7 right, bottom    8 left, bottom
"""

from __future__ import annotations

from contextlib import suppress

import numpy as np
from PIL import ExifTags, Image

_SIDEWAYS = {5, 6, 7, 8}  # rows of the file are columns of the picture
_UPSIDE_DOWN = {3, 4, 7, 8}
_MIRRORED = {2, 3, 6, 7}
_WHERE = {"exif", "xmp", "XML:com.adobe.xmp", "Raw profile type exif"}  # in Pillow's info, of JPEG, PNG and WebP files
_BACK = {6: 8, 8: 6}  # the mark that undoes a mark; the others undo themselves


def mark_of(image: Image.Image) -> int:
    """The mark of Pillow's picture, 1 to 8; 1 (upright) where there is none, or none that can be read.

    A PNG file may have it behind the pixels, so it is looked at after `load`; of a TIFF file before, as `load` turns it.
    """
    if image.format != "TIFF" and _WHERE.isdisjoint(image.info):  # of most files; parsing nothing takes time, too
        return 1
    with suppress(Exception):  # Pillow's parser on damaged EXIF data, which are no part of the picture
        mark = Image.Image.getexif(image).get(ExifTags.Base.Orientation, 1)  # PngImageFile.getexif would decode it first
        return int(mark) if mark in range(1, 9) else 1
    return 1


def turned(pixels: np.ndarray, mark: int) -> np.ndarray:
    """(H, W, ...) as stored -> upright: (H, W, ...), or (W, H, ...) for marks 5 to 8."""
    if mark == 1:
        return pixels
    upright = pixels.swapaxes(0, 1) if mark in _SIDEWAYS else pixels
    upright = upright[::-1] if mark in _UPSIDE_DOWN else upright
    upright = upright[:, ::-1] if mark in _MIRRORED else upright
    return np.ascontiguousarray(upright)


def turned_back(upright: np.ndarray, mark: int) -> np.ndarray:
    """Upright -> as stored, the inverse of `turned`."""
    return turned(upright, _BACK.get(mark, mark))
