"""A data set on disk as a list of samples.

Letters: H, W image size, C classes, F files.
"""

from __future__ import annotations

import hashlib
import json
import os
import struct
import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset
from torchvision import tv_tensors
from tqdm.auto import tqdm

from course_lib.data import layouts
from course_lib.data.cache import cache_folder
from course_lib.data.types import Sample
from course_lib.labels import IGNORE, LabelSpace, label_space, lookup_table

Transform = Callable[[Sample], Sample]


def open_dataset(
    spec: str,
    split: str = "train",
    space: str | LabelSpace = "cityscapes19",
    transform: Transform | None = None,
    labelled: bool = True,
    list_file: Path | str | None = None,
) -> SegmentationDataset:
    """Open "layout:path" (gta5, synthia, cityscapes, camvid, folder) as samples with train ids of `space`.

        dataset = open_dataset("cityscapes:/data/cityscapes", split="val")
        image, label, name = dataset[0]

    `split`: see `course_lib.data.layouts`. `labelled=False` never looks at a label file: every pixel is 255, as for the
    target of an adaptation. `folder:PATH` has pictures only.
    """
    layout, root = layouts.parse(spec)
    table = None if layout == "folder" else lookup_table(layout, space)  # a wrong space is an error before any file
    pairs = layouts.find_pairs(layout, root, split, list_file=list_file, labelled=labelled)
    return SegmentationDataset(pairs, space, table if labelled else None, transform, spec=f"{spec} ({split})")


class SegmentationDataset(Dataset):
    """Pairs of files as samples; labels are train ids from the moment they are read.

    `dataset[i]` is always the same sample; `dataset[i, draw_seed]` draws the transform's random choices from
    `draw_seed`, whatever was drawn before and in whichever process: pictures do not depend on the number of workers.
    """

    def __init__(
        self,
        pairs: Sequence[layouts.Pair],
        space: str | LabelSpace,
        table: np.ndarray | None,
        transform: Transform | None = None,
        spec: str = "",
    ) -> None:
        """`table` (256,): raw id -> train id; None: no labels, all pixels are IGNORE. `spec` is for messages only."""
        self.pairs = list(pairs)
        self.space = label_space(space)
        self.table = None if table is None else np.asarray(table, dtype=np.uint8)
        self.transform = transform
        self.spec = spec
        self._class_counts: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.pairs)

    def __repr__(self) -> str:
        labels = self.space.name if self.labelled else "no labels"
        return f"SegmentationDataset({self.spec or 'pairs'}: {len(self)} pictures, {labels})"

    @property
    def labelled(self) -> bool:
        return self.table is not None

    @property
    def image_paths(self) -> list[Path]:
        return [pair.image for pair in self.pairs]

    def name_of(self, index: int) -> str:
        return self.pairs[index].name

    def __getitem__(self, item: int | tuple[int, int]) -> Sample:
        index, draw_seed = item if isinstance(item, tuple) else (item, item)
        sample = self.read(index)
        if self.transform is None:
            return sample
        with torch.random.fork_rng(devices=[]):           # the caller's random numbers stay as they are
            torch.default_generator.manual_seed(draw_seed)
            return self.transform(sample)

    def read(self, index: int) -> Sample:
        """The sample as it is on disk, before any transform: Image (3, H, W) uint8, Mask (H, W) uint8 train ids."""
        pair = self.pairs[index]
        image = read_image(pair.image)
        if self.table is None or pair.label is None:
            label = torch.full(image.shape[-2:], IGNORE, dtype=torch.uint8)
        else:
            label = torch.from_numpy(np.take(self.table, read_raw_label(pair.label)))
            if label.shape != image.shape[-2:]:
                raise ValueError(
                    f"Image and label differ in size: {str(pair.image)!r} is {_width_x_height(image)}, "
                    f"{str(pair.label)!r} is {_width_x_height(label)}. Resize neither by hand: unpack both files "
                    "again, or leave the pair out with a list file."
                )
        return Sample(tv_tensors.Image(image), tv_tensors.Mask(label), pair.name)

    @property
    def class_counts(self) -> np.ndarray:
        """(F, C) int64: how many pixels of each class each label file has, counted once, then kept in the cache folder.

        The key is the content as the file system tells it: name, size and time of every label file, and the id table.
        """
        if self._class_counts is None:
            self._class_counts = self._read_or_count()
        return self._class_counts

    def _read_or_count(self) -> np.ndarray:
        if self.table is None:
            raise ValueError(f"{self!r} cannot count classes. Open it with labelled=True.")
        stats = [(pair.name, (s := os.stat(pair.label)).st_size, s.st_mtime_ns) for pair in self.pairs]
        key = hashlib.sha256(json.dumps([stats, self.table.tolist(), self.space.num_classes]).encode()).hexdigest()
        path = cache_folder() / "class_counts" / f"{key[:20]}.json"
        with suppress(OSError, ValueError):  # not there, or not readable: count
            counts = np.array(json.loads(path.read_text())["counts"], dtype=np.int64)
            if counts.shape == (len(self), self.space.num_classes):
                return counts
        counts = self._count()
        with suppress(OSError):  # a cache that cannot be written is no reason to stop
            path.parent.mkdir(parents=True, exist_ok=True)
            part = path.with_suffix(f".{os.getpid()}.part")
            part.write_text(json.dumps({"spec": self.spec, "counts": counts.tolist()}))
            os.replace(part, path)
        return counts

    def _count(self) -> np.ndarray:
        def count(pair: layouts.Pair) -> np.ndarray:
            train = np.take(self.table, read_raw_label(pair.label))
            return torch.bincount(torch.from_numpy(train).flatten(), minlength=256)[: self.space.num_classes].numpy()

        with ThreadPoolExecutor(os.cpu_count()) as threads:
            bar = tqdm(threads.map(count, self.pairs), "counting classes", len(self), leave=False, mininterval=0.5)
            return np.stack(list(bar))


def read_image(path: Path) -> Tensor:
    """A PNG, JPEG or WebP file of any mode as (3, H, W) uint8 RGB."""
    with _naming(path), Image.open(path) as image:
        if image.mode.startswith("I"):
            image = Image.fromarray((np.array(image) >> 8).astype(np.uint8))  # 16-bit grey: keep the high byte
        if image.mode != "RGB":
            image = image.convert("RGB")
        return torch.from_numpy(np.array(image)).permute(2, 0, 1)


def read_raw_label(path: Path) -> np.ndarray:
    """A label file as (H, W) uint8 raw ids: indices, never palette colours; channel 0 of SYNTHIA's 16-bit files."""
    with _naming(path):
        if _is_rgb16(path):
            return _first_channel(path)
        with Image.open(path) as image:
            mode = image.mode
            if mode in ("L", "P"):
                return np.array(image)
    raise ValueError(
        f"Label file {str(path)!r} has mode {mode}, wanted one byte a pixel (mode L, or P: palette). "
        "Is it a picture of the labels? Use the file of ids (Cityscapes: *_labelIds.png, not *_color.png)."
    )


def _is_rgb16(path: Path) -> bool:
    with open(path, "rb") as file:
        head = file.read(26)
    return head[:8] == b"\x89PNG\r\n\x1a\n" and head[24:26] == b"\x10\x02"  # bit depth 16, colour type RGB


def _first_channel(path: Path) -> np.ndarray:
    from course_lib.data.png16 import read_png16

    raw = read_png16(path)[..., 0]
    if raw.max() > 255:
        raise ValueError(f"class {raw.max()} in channel 0, wanted 0..255")  # the caller names the file
    return raw.astype(np.uint8)


_BROKEN = (OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error, Image.DecompressionBombError)


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Whatever a decoder says about a broken file, say which file and what to do."""
    try:
        yield
    except FileNotFoundError as error:
        raise FileNotFoundError(f"File {str(path)!r} has gone since the data set was opened.") from error
    except _BROKEN as error:
        raise ValueError(
            f"Cannot read {str(path)!r} ({Path(path).stat().st_size} bytes) as a picture ({error}). It is damaged or of "
            "another kind: unpack or download it again, or leave it out with a list file."
        ) from error


def _width_x_height(image: Tensor) -> str:
    return f"{image.shape[-1]}x{image.shape[-2]}"
