"""One prepared picture: read, resize, encode, write, and read back.

Letters: H, W image size. How pictures are stored was chosen by measurement: benchmarks/results/prepared_storage.md.
"""

from __future__ import annotations

import hashlib
import io
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision import tv_tensors

from course_lib.data.encoding import Table
from course_lib.data.pairs import Pair, Problem
from course_lib.data.prepared import Entry, Settings, files_of, stored_table
from course_lib.data.reading import BadPicture, read_pair, width_x_height
from course_lib.data.transforms import resize, resize_image
from course_lib.files import write_whole
from course_lib.labels import LabelSpace, label_space

JPEG = {"format": "JPEG", "quality": 95, "subsampling": 0}  # colours at full resolution (4:4:4)
LOSSLESS = {"format": "WEBP", "lossless": True, "quality": 0, "method": 0}  # the fastest to write
OPTIONS = {"jpeg": JPEG, "lossless": LOSSLESS}
LABEL = {"format": "PNG", "compress_level": 1, "bits": 8}  # bits: Pillow packs few colours to 4 bits otherwise


class SmallPair(NamedTuple):
    """Image (3, H, W), label (H, W) uint8 as a training sees them; of the original "WIDTHxHEIGHT", the rest as in `Entry`."""

    image: Tensor
    label: Tensor | None
    original: str
    largest: int | None
    as_stored: bool


def small_pair(pair: Pair, settings: Settings, table: Table | None) -> SmallPair:
    """Read and resize a pair; `table`: of its labels (`layouts.label_table`). Raises BadPicture for one that cannot be used."""
    read = read_pair(pair.image, pair.label, table, settings.bits)
    width, height = map(int, settings.size.split("x"))
    image, label = tv_tensors.Image(read.image), None  # wrapped as a data set does: the same code resizes
    if pair.label is None:
        image = resize_image(image, (height, width))
    else:
        image, label = resize(image, tv_tensors.Mask(read.label), (height, width))
    return SmallPair(image, label, width_x_height(read.image), read.largest, read.as_stored)


def encode_image(image: Tensor, images: str) -> bytes:
    """(3, H, W) uint8 as the bytes of a file."""
    return _encoded(Image.fromarray(image.permute(1, 2, 0).contiguous().numpy()), OPTIONS[images])


def encode_label(label: Tensor, space: str | LabelSpace) -> bytes:
    """Train ids (H, W) uint8 as a PNG with a palette, in the colours of the space; 255 is black."""
    picture = Image.fromarray(label.contiguous().numpy())
    colours = np.zeros((256, 3), dtype=np.uint8)
    colours[: label_space(space).num_classes] = label_space(space).palette
    picture.putpalette(colours.ravel().tolist())
    return _encoded(picture, LABEL)


def _encoded(picture: Image.Image, options: dict) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, **options)
    return buffer.getvalue()


def bytes_of(pair: Pair) -> int:
    """The bytes of the originals."""
    return sum(path.stat().st_size for path in (pair.image, pair.label) if path is not None)


def time_of(pair: Pair) -> int:
    """When one of the originals was last changed, in ns."""
    return max(path.stat().st_mtime_ns for path in (pair.image, pair.label) if path is not None)


def store(pair: Pair, out: Path, split: str, settings: Settings, table: Table | None) -> Entry | Problem:
    """Write both files of one picture and read them back; its entry, or what keeps it out.

    Files take their names when they are whole. Raises OSError where they cannot be written,
    or are not read back as they were written.
    """
    try:
        source_bytes, source_time = bytes_of(pair), time_of(pair)  # before they are read: a change meanwhile is found next time
        image, label, original, largest, as_stored = small_pair(pair, settings, table)
    except BadPicture as error:
        return Problem(error.kind, pair.blamed(str(error)), str(error))
    files = [out / file for file in files_of(split, pair.name, settings.images)]
    contents = [encode_image(image, settings.images)] + ([] if label is None else [encode_label(label, settings.space)])
    for path, content in zip(files, contents):
        write_whole(path, content, sync=False)  # a crash of the machine is found by the checksums, a file at a time
    _read_back(files, image, label, settings)
    digests = [hashlib.sha256(content).hexdigest() for content in contents]
    rest = source_bytes, original, largest, as_stored, source_time
    return Entry(pair.name, digests[0], None if label is None else digests[1], *rest)


def _read_back(files: list[Path], image: Tensor, label: Tensor | None, settings: Settings) -> None:
    """The files as training will read them: the label exactly, the picture exactly if it was stored without loss."""
    table = None if label is None else stored_table(settings.space, settings.space)
    try:
        picture, ids, *_ = read_pair(files[0], None if label is None else files[1], table)
        same = picture.shape == image.shape and (label is None or torch.equal(ids, label.as_subclass(Tensor)))
        if same and settings.images == "lossless":
            same = torch.equal(picture, image.as_subclass(Tensor))
    except BadPicture:
        same = False
    if not same:
        for path in files:
            path.unlink(missing_ok=True)
        raise OSError(
            f"{str(files[0])!r} or its label was not read back as it was written, so both were removed. Check the disk and "
            "the memory of this machine, then run the same command again."
        )
