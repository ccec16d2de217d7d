"""Picture files -> arrays; and of a file that is none, its name, what is wrong and what to do.

Letters: H, W image size. Nothing here trusts a file: it may be cut off, empty, a folder, a pipe, a web page called .png, or a
few kilobytes that decompress to gigabytes.

What a picture is, whatever its file (docs/pictures.md): RGB, one byte a channel, upright as a viewer shows it (`orientation`),
more than 8 bits scaled (`bits`), without alpha: the colours are those that are stored, also under transparent pixels.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from course_lib.data.bits import BITS, deep_values, to_bytes
from course_lib.data.encoding import UNKNOWN, ColourTable, Table, channels
from course_lib.data.orientation import mark_of, turned, turned_back
from course_lib.data.png16 import read_png16
from course_lib.labels import IGNORE

MAX_PIXELS = 2**26  # 67 megapixels: the largest street pictures have 20; refused from the header, whatever Pillow is set to
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF")  # of pictures; of several frames the first
READING = 2  # other whenever some file is read as other pixels than before: part of the keys of what is kept


class BadPicture(ValueError):
    """A file that cannot be used; the message names it, says what is wrong and what to do. `kind` is for counting."""

    DAMAGED = "damaged files"
    UNREADABLE = "files that cannot be read"
    GONE = "files that are gone"

    def __init__(self, message: str, kind: str = DAMAGED) -> None:
        super().__init__(message)
        self.kind = kind


PASSING = (BadPicture.UNREADABLE, BadPicture.GONE)  # kinds of problems that may be over the next time: never kept


class MissingPicture(BadPicture, FileNotFoundError):
    """A file that was there when the data set was opened."""


class ReadPair(NamedTuple):
    """A picture with its label: image (3, H, W) uint8 RGB, label (H, W) uint8 train ids."""

    image: Tensor
    label: Tensor
    as_stored: bool = False  # not turned upright, because the label fits the picture only as it is stored
    largest: int | None = None  # the largest value of a 16-bit picture, before scaling


def read_image(path: Path, bits: int = BITS) -> Tensor:
    """A picture file of any mode as (3, H, W) uint8 RGB, upright; `bits`: how many of a 16-bit picture's hold data."""
    return _tensor(_upright(path, bits)[0])


def _upright(path: Path, bits: int) -> tuple[np.ndarray, int, int | None]:
    """The picture upright, (H, W, 3) uint8; the mark that it was turned by; the largest value if it has more than 8 bits."""
    with open_picture(path) as image:
        tiff_mark = mark_of(image) if image.format == "TIFF" else 1
        image.info.pop("transparency", None)  # has no influence on RGB, but Pillow warns of it
        deep = deep_values(image, path)
        if deep is None:
            pixels = np.array(image if image.mode == "RGB" else image.convert("RGB"))
        mark = mark_of(image)
    if deep is not None:
        values, mode = deep
        pixels = _scaled(path, values, bits)
        if mode != "RGB":
            pixels = np.array(Image.frombytes(mode, pixels.shape[1::-1], pixels.tobytes()).convert("RGB"))
    largest = int(deep[0].max()) if deep is not None and deep[0].dtype.kind != "f" else None
    return turned(pixels, mark), max(mark, tiff_mark), largest


def _scaled(path: Path, values: np.ndarray, bits: int) -> np.ndarray:
    try:
        return to_bytes(values, bits)
    except ValueError as error:
        raise BadPicture(f"Picture {str(path)!r} {error}", "pictures with values beyond their range") from None


def _tensor(pixels: np.ndarray) -> Tensor:
    return torch.from_numpy(pixels).permute(2, 0, 1)


def read_raw_label(path: Path) -> np.ndarray:
    """A label file as (H, W) raw ids, uint8 or uint16: indices, never palette colours; channel 0 of SYNTHIA's 16-bit RGB files.

    Grey of 1, 2, 4, 8 or 16 bits, or a palette. Upright, if the file has an orientation mark of its own.
    """
    with open_picture(path, formats=("PNG",)) as image:
        depth, colour_type = _head(path)[24:26]
        if (depth, colour_type) == (16, 2):  # RGB
            return turned(_first_channel(path), mark_of(image))
        mode = image.mode
        if mode in ("1", "L", "P", "I", "I;16", "I;16B"):
            ids = np.array(image)
            ids = ids.astype(np.uint16 if mode.startswith("I") else np.uint8)
            if colour_type == 0 and depth in (2, 4):  # Pillow stretches these to 0..255
                ids //= 255 // (2**depth - 1)
            return turned(ids, mark_of(image))
    raise BadPicture(
        f"Label file {str(path)!r} has mode {mode}, wanted one byte a pixel (mode L, or P: palette), or one number of 1 to 16 "
        "bits. Is it a picture of the labels? Use the file of ids (Cityscapes: *_labelIds.png, not *_color.png), or give the "
        "colour of each class in a dataset.toml (docs/own_data.md).",
        WRONG_MODE,
    )


WRONG_MODE = "labels of a wrong mode"  # kind of problem


def read_colours(path: Path) -> np.ndarray:
    """A label file as (H, W) int32 colours 0xRRGGBB, whether they are stored as RGB, by a palette or as grey; without alpha."""
    with open_picture(path, formats=("PNG",)) as image:
        depth = _head(path)[24]
        image.info.pop("transparency", None)  # has no influence on RGB, but Pillow warns of it
        if depth <= 8:
            pixels = np.array(image.convert("RGB")).astype(np.int32)
            return turned(pixels[..., 0] << 16 | pixels[..., 1] << 8 | pixels[..., 2], mark_of(image))
    raise BadPicture(
        f"Label file {str(path)!r} has {depth} bits a channel, wanted colours of 8. Its values are ids, perhaps: then give the "
        "ids of the classes in dataset.toml (docs/own_data.md).",
        WRONG_MODE,
    )


def read_label(path: Path, table: Table) -> np.ndarray:
    """A label file as (H, W) uint8 train ids, by a table of `encoding` in which UNKNOWN marks what may not occur."""
    if isinstance(table, ColourTable):
        raw = read_colours(path)
        train = table.take(raw)
    else:
        raw = read_raw_label(path)
        if raw.dtype == np.uint16 and len(table) < 2**16:
            table = np.pad(table.astype(np.uint16), (0, 2**16 - len(table)), constant_values=UNKNOWN)
        train = np.take(table, raw)
    if (foreign := train == UNKNOWN).any():
        values, pixels = np.unique(raw[foreign], return_counts=True)
        row, column = (int(place) for place in np.argwhere(raw == values[0])[0])
        raise BadPicture(
            f"Label file {str(path)!r} {_unknown(values, pixels, table)} The first pixel of {_value(values[0], table)} is in "
            f"column {column}, row {row}, counted from 0. Is it the right layout? If so the file is damaged: unpack it again. "
            f"In a data set of your own, add {'the colour' if isinstance(table, ColourTable) else 'the id'} to `classes` or "
            "`ignore` in dataset.toml.",
            "labels with unknown colours" if isinstance(table, ColourTable) else "labels with unknown ids",
        )
    return train.astype(np.uint8)


def _unknown(values: np.ndarray, pixels: np.ndarray, table: Table) -> str:
    more = ", ..." if len(values) > 4 else ""
    if not isinstance(table, ColourTable):
        found = ", ".join(f"{i} ({n} pixels)" for i, n in zip(values[:4], pixels[:4])) + more
        return f"has ids that this layout does not: {found}; it has {_ranges(table)}."
    found = []
    for colour, n in zip(values[:4].tolist(), pixels[:4]):
        near, name = table.nearest(colour)
        found.append(f"{_value(colour, table)} ({n} pixels; the nearest known colour is {_value(near, table)}, {name})")
    return f"has colours that this data set does not: {', '.join(found)}{more}."


def _value(value: int, table: Table) -> str:
    if not isinstance(table, ColourTable):
        return str(value)
    return f"#{value:06x} {channels(value)}".replace(", ", ",")


def read_pair(image_path: Path, label_path: Path | None, table: Table | None, bits: int = BITS) -> ReadPair:
    """Image and train ids of one size, both upright; without label or table, every pixel is IGNORE.

    A label that fits only the picture as it is stored was drawn on it so: then neither is turned.
    """
    pixels, mark, largest = _upright(image_path, bits)
    if table is None or label_path is None:
        return ReadPair(_tensor(pixels), torch.full(pixels.shape[:2], IGNORE, dtype=torch.uint8), False, largest)
    label = read_label(label_path, table)
    if label.shape == pixels.shape[:2]:
        return ReadPair(_tensor(pixels), torch.from_numpy(label), False, largest)
    stored, stored_label = turned_back(pixels, mark), turned_back(label, _mark_in(label_path))
    if stored_label.shape == stored.shape[:2]:
        return ReadPair(_tensor(stored), torch.from_numpy(stored_label), True, largest)
    as_stored = f" ({_size(stored)} as it is stored: its orientation mark is {mark})" if mark != 1 else ""
    raise BadPicture(
        f"Image and label differ in size: {str(image_path)!r} is {_size(pixels)}{as_stored}, {str(label_path)!r} is "
        f"{_size(label)}. Resize neither by hand: unpack both files again, or leave the pair out with a list file or "
        "--skip-bad.",
        "pairs that differ in size",
    )


NO_CLASS_BECAUSE = {  # layout -> why its labels may have no class, and what to do
    "synthia": " SYNTHIA's class is in the first of three channels: is it in the third here, because the files were saved "
    "again with channels in reverse order? Then unpack the originals again.",
    "cityscapes": " The labels of Cityscapes' test split are not published: score on val.",
}


def no_class_message(spec: str, of_what: str, files: int, first: Path, space: str) -> str:
    """What to say where no pixel of so many label files of a data set is of a class."""
    return (
        f"{of_what}: none of the {files} label files that were read has a pixel of a class of {space}, for example "
        f"{str(first)!r}. Is it the right layout?{NO_CLASS_BECAUSE.get(spec.partition(':')[0], '')}"
    )


def as_stored_note(which: Path | int) -> str:
    """What to say about a picture, or so many of them, that is read as it is stored."""
    some = f"Picture {str(which)!r} has" if isinstance(which, Path) else f"{which} pictures have"
    return (
        f"{some} an orientation mark (EXIF) and a label that fits only without turning: neither is turned. To have them "
        "upright, turn their label files."
    )


def _mark_in(path: Path) -> int:
    with open_picture(path, formats=("PNG",)) as image:
        image.load()
        return mark_of(image)


@contextmanager
def open_picture(path: Path, formats: tuple[str, ...] = FORMATS) -> Iterator[Image.Image]:
    """Pillow's picture, with a size in its header that may be decoded; whatever goes wrong inside names the file."""
    try:
        _check_size(path, _png_size(_head(path)))
        # by its name, Pillow would map an uncompressed TIFF file into memory, and then turns it wrongly
        with open(path, "rb") as file, Image.open(file, formats=formats) as image:
            _check_size(path, image.size)
            yield image
    except BadPicture:
        raise
    except FileNotFoundError as error:
        raise MissingPicture(f"File {str(path)!r} has gone since the data set was opened.", BadPicture.GONE) from error
    except _BROKEN as error:
        if getattr(error, "errno", None):
            raise BadPicture(
                f"The system cannot read {str(path)!r} ({error.strerror}). Check the file's permissions and its disk.",
                BadPicture.UNREADABLE,
            ) from error
        raise BadPicture(
            f"Cannot read {str(path)!r} ({Path(path).stat().st_size} bytes) as a picture ({_kind(path, formats) or error}). "
            "It is damaged or of another kind: unpack or download it again, or leave it out with a list file or --skip-bad."
        ) from error


_BROKEN = (
    OSError, SyntaxError, ValueError, EOFError, IndexError, KeyError, TypeError, struct.error, zlib.error,
    Image.DecompressionBombError, Image.DecompressionBombWarning,
)  # fmt: skip  # what Pillow's decoders raise on bytes that are wrong


def _head(path: Path) -> bytes:
    """The first bytes of a file that is a file: opening a pipe would wait for ever."""
    path = Path(path)
    if path.exists() and not path.is_file():
        what = "a folder" if path.is_dir() else "no regular file"
        raise BadPicture(f"{str(path)!r} is {what}. Remove it, or leave it out with a list file.", "names that are no file")
    if path.is_symlink() and not path.exists():
        raise MissingPicture(
            f"{str(path)!r} is a link to {str(path.readlink())!r}, which is not there. Mount or link it again.",
            BadPicture.GONE,
        )
    with open(path, "rb") as file:
        return file.read(32)


def _png_size(head: bytes) -> tuple[int, int]:
    return struct.unpack(">II", head[16:24]) if head[:8] == b"\x89PNG\r\n\x1a\n" and len(head) >= 24 else (0, 0)


def _check_size(path: Path, size: tuple[int, int]) -> None:
    if size[0] * size[1] > MAX_PIXELS:
        raise BadPicture(
            f"{str(path)!r} is {size[0]}x{size[1]} by its header: {size[0] * size[1] / 1e6:.0f} megapixels, and at most "
            f"{MAX_PIXELS / 1e6:.0f} are decoded. Make it smaller, or leave it out.",
            "pictures that are too large",
        )


_KINDS = {
    b"\xff\xd8\xff": "a JPEG file", b"RIFF": "a WebP file", b"BM": "a BMP file", b"GIF8": "a GIF file",
    b"II*\0": "a TIFF file", b"MM\0*": "a TIFF file", b"PK\x03\x04": "a ZIP archive", b"Rar!": "a RAR archive",
    b"\x1f\x8b": "a gzip archive", b"<": "a web page: the download failed", b"version https://git-lfs": "a pointer of git lfs",
}  # fmt: skip


def _kind(path: Path, formats: tuple[str, ...]) -> str:
    """What a file is that is not a picture of `formats`, by its first bytes; "" if they do not tell."""
    head = _head(path)
    if not head:
        return "it is empty"
    kind = next((kind for start, kind in _KINDS.items() if head.startswith(start)), "")
    if not kind or any(name in kind.upper() for name in formats):
        return ""
    if formats != ("PNG",) or not kind.endswith("file"):
        return f"it is {kind}"
    return f"it is {kind}, wanted PNG: other kinds change ids" + (f". {JPEG_LABELS}" if "JPEG" in kind else "")


JPEG_LABELS = (
    "JPEG stores an approximation, so at every edge there are ids or colours that no class has; a label that was saved so "
    "cannot be repaired. Export the labels again as PNG files from where they were drawn"
)


def _first_channel(path: Path) -> np.ndarray:
    raw = read_png16(path)[..., 0]
    if raw.max() > 255:
        raise ValueError(f"class {raw.max()} in channel 0, wanted 0..255")  # the caller names the file
    return raw.astype(np.uint8)


def _ranges(table: np.ndarray) -> str:
    """The ids that may occur: "0..34 and 255"."""
    known = np.flatnonzero(table != UNKNOWN)
    runs = np.split(known, np.flatnonzero(np.diff(known) > 1) + 1)
    texts = [f"{run[0]}..{run[-1]}" if len(run) > 1 else str(run[0]) for run in runs]
    return " and ".join(texts[:20]) + (" and more" if len(texts) > 20 else "")


def width_x_height(image: Tensor) -> str:
    """The size of an image (..., H, W) as a message shows it: "1280x720"."""
    return f"{image.shape[-1]}x{image.shape[-2]}"


def _size(pixels: np.ndarray) -> str:
    return f"{pixels.shape[1]}x{pixels.shape[0]}"
