"""A data set on disk as a list of samples.

Letters: H, W image size, C classes, F files.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset
from torchvision import tv_tensors

from course_lib.data import layouts
from course_lib.data.bits import BITS, check_bits
from course_lib.data.class_counts import class_counts
from course_lib.data.description import OWN
from course_lib.data.disparity import read_disparity, with_depth
from course_lib.data.encoding import ColourTable, Table
from course_lib.data.examine import without_bad
from course_lib.data.few_labels import Part, separate, with_few_pixels
from course_lib.data.names import shared_file
from course_lib.data.prepared import stored_table
from course_lib.data.reading import as_stored_note, no_class_message, read_label, read_pair
from course_lib.data.types import ExtendedSample, Sample, Unfinished
from course_lib.labels import LabelSpace, label_space
from course_lib.terminal import print

LOOKED_AT = 16  # label files, before a set is taken for one without any class
# a transform of plain samples is one, too: samples are extended where `depth` is asked for
Transform = Callable[[Sample], Any] | Callable[[Sample | ExtendedSample], Sample | ExtendedSample | Unfinished]


def open_dataset(
    spec: str,
    split: str = "train",
    space: str | LabelSpace = "cityscapes19",
    transform: Transform | None = None,
    labelled: bool = True,
    list_file: Path | str | None = None,
    skip_bad: bool = False,
    bits: int = BITS,
    depth: bool = False,
    depth_noise: float = 0.0,
) -> SegmentationDataset:
    """Open "layout:path" (gta5, synthia, cityscapes, camvid, ..., own, folder, prepared) as samples with train ids of `space`.

        dataset = open_dataset("cityscapes:/data/cityscapes", split="val")
        image, label, name = dataset[0]

    `split`: see `course_lib.data.layouts`; a part of it: `course_lib.data.few_labels`. `labelled=False` never looks at a label
    file: every pixel is 255, as for the target of an adaptation. `folder:PATH` has pictures only. `bits`: how many of the 16
    bits of a 16-bit picture hold data; with 12, the value 4095 is white and a larger one is an error (docs/pictures.md); 16 is
    what dataset.toml says, if it does. `depth`: samples have a `disparity` (`data.disparity`), with the noise `depth_noise`; a
    picture without is unusable.

    An unusable file is an error that names it: one without its counterpart here, a broken one when it is read. With
    `skip_bad=True` every file is read here first (once, then the answer is in the cache), and such pairs are left out:
    `dataset.skipped` lists them. What `course_lib.data.check` finds is what this leaves out.
    """
    check_bits(bits)
    layout, root = layouts.parse(spec)
    bits = layouts.bits_of(layout, root, bits)
    table = layouts.label_table(layout, root, split, space) if labelled else None  # a wrong space: an error before any picture
    text, part = f"{spec} ({split})", separate(split)[1]
    if not skip_bad:
        pairs = layouts.find_pairs(layout, root, split, list_file=list_file, labelled=labelled)
        if depth:
            pairs, lost = with_depth(pairs, layout, root)
            if lost:
                raise FileNotFoundError(f"{len(lost)} of {len(pairs) + len(lost)} {lost[0].kind}, the first: {lost[0].message}")
        return SegmentationDataset(pairs, space, table, transform, text, bits=bits, part=part, depth_noise=depth_noise)
    pairs, lost = layouts.survey(layout, root, split, list_file=list_file, labelled=labelled)
    if depth:
        pairs, more = with_depth(pairs, layout, root)
        lost = [*lost, *more]
    good, bad = without_bad(pairs, table, text, bits=bits)
    if not good:
        raise ValueError(f"Nothing of {text} can be used. The first problem: {(lost + bad)[0].message}")
    return SegmentationDataset(good, space, table, transform, text, (*lost, *bad), bits, part, depth_noise)


class SegmentationDataset(Dataset):
    """Pairs of files as samples; labels are train ids from the moment they are read.

    `dataset[i]` is always the same sample; `dataset[i, draw_seed]` draws the transform's random choices from
    `draw_seed`, whatever was drawn before and in whichever process: pictures do not depend on the number of workers.
    `dataset[i, draw_seed, c]` gives the transform the class c that its crop should show.
    """

    def __init__(
        self,
        pairs: Sequence[layouts.Pair],
        space: str | LabelSpace,
        table: Table | None,
        transform: Transform | None = None,
        spec: str = "",
        skipped: Sequence[layouts.Problem] = (),
        bits: int = BITS,
        part: Part | None = None,
        depth_noise: float = 0.0,
    ) -> None:
        """`table` (256,): raw id -> train id, or a colour table (`data.encoding`), in which `UNKNOWN` marks what is an error;
        None: no labels, all pixels are IGNORE. `spec` is for messages only; `skipped`: what was left out; `bits` and
        `depth_noise`: see `open_dataset`; `part`: which part of a split it is, for how many of its pixels keep their label.
        """
        self.pairs = list(pairs)
        self.space = label_space(space)
        self.table = table if table is None or isinstance(table, ColourTable) else np.asarray(table)
        self.transform = transform
        self.spec = spec
        self.skipped = tuple(skipped)
        self.bits, self.part, self.depth_noise = check_bits(bits), part, depth_noise
        self._noted = _shared_flag()
        self._class_counts: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.pairs)

    def __repr__(self) -> str:
        labels = self.space.title if self.labelled else "no labels"
        skipped = f", {len(self.skipped)} left out" if self.skipped else ""
        return f"SegmentationDataset({self.spec or 'pairs'}: {len(self)} pictures, {labels}{skipped})"

    @property
    def labelled(self) -> bool:
        """Whether its pictures have labels."""
        return self.table is not None

    @property
    def mapping(self) -> str:
        """A short hash of what is read from the files, where it is not the whole of what the layout says: what a user's
        dataset.toml says of labels, which of their pixels are left, `bits`. "" for other sets."""
        text = "" if self.bits == BITS else f"{self.bits} bits"
        if self.table is not None and self.spec.startswith(f"{OWN}:"):
            text += json.dumps(self.table.tolist())
        if self.table is not None and self.part is not None and self.part.pixels != "all":
            text += f"{self.part.pixels} {self.part.seed}, resized first"
        return hashlib.sha256(text.encode()).hexdigest()[:12] if text else ""

    @property
    def label_size(self) -> tuple[int, int] | None:
        """(H, W) to which its transform resizes every label, before it draws anything; None: labels stay as they are."""
        size = getattr(self.transform, "size", None)
        return size if getattr(self.transform, "resize_label", True) else None

    @property
    def image_paths(self) -> list[Path]:
        """The pictures' files, in order."""
        return [pair.image for pair in self.pairs]

    def name_of(self, index: int) -> str:
        """The name of a picture, below the folder of its split."""
        return self.pairs[index].name

    def __getitem__(self, item: int | tuple[int, int] | tuple[int, int, int]) -> Sample | ExtendedSample | Unfinished:
        index, draw_seed, *shown = item if isinstance(item, tuple) else (item, item)
        sample = self.read(index)
        if self.transform is None:
            return sample
        with torch.random.fork_rng(devices=[]):           # the caller's random numbers stay as they are
            torch.default_generator.manual_seed(draw_seed)
            return self.transform(sample, *shown)

    def read(self, index: int) -> Sample | ExtendedSample:
        """The sample as it is on disk, before any transform: Image (3, H, W) uint8, Mask (H, W) uint8 train ids, and disparity
        where it was asked for."""
        pair = self.pairs[index]
        read = read_pair(pair.image, pair.label, self.table, self.bits)
        label = read.label
        if self.part is not None and self.table is not None:
            few = with_few_pixels(label.numpy(), self.part.pixels, self.part.seed, pair.name, self.label_size)
            label = torch.from_numpy(few)
        if read.as_stored and not self._noted:
            self._noted.fill_(True)
            print(f"note: {as_stored_note(pair.image)} (Printed once; `uda data check` counts them.)", file=sys.stderr)
        image, label = tv_tensors.Image(read.image), tv_tensors.Mask(label)
        if pair.depth is None:
            return Sample(image, label, pair.name)
        disparity = read_disparity(pair.depth, tuple(label.shape), pair.name, self.depth_noise)
        return ExtendedSample(image, label, pair.name, disparity=disparity)

    def with_labels(self, folder: Path | str) -> SegmentationDataset:
        """The same pictures with labels from `folder`: FOLDER/<name>.png of train ids, what `write_pseudo_labels` makes.

        Raises ValueError that names the first picture without one, or two pictures that share one.
        """
        folder = Path(folder).expanduser()
        names = [pair.name for pair in self.pairs]
        if problem := shared_file((name, Path(name).with_suffix(".png").as_posix()) for name in names):
            raise ValueError(problem)
        pairs = [replace(pair, label=folder / Path(pair.name).with_suffix(".png")) for pair in self.pairs]
        if missing := [pair for pair in pairs if not pair.label.is_file()]:
            raise ValueError(
                f"{len(missing)} of {len(pairs)} pictures of {self.spec} have no pseudo-label in {str(folder)!r}, the first: "
                f"{missing[0].name!r}. Were they made for other pictures, or cut off? Make them again (the stage `labels`)."
            )
        table, spec = stored_table(self.space.name, self.space), f"{self.spec}, labels of {folder}"
        rest = self.transform, spec, self.skipped, self.bits
        return SegmentationDataset(pairs, self.space, table, *rest, depth_noise=self.depth_noise)

    def with_truth(self, labelled: SegmentationDataset) -> SegmentationDataset:
        """The same pictures with the labels that `labelled` has for them; the others stay without, all pixels IGNORE.

        For counting alone: which pictures there are does not depend on their labels. (How a picture is turned may: where its
        label fits it only as it is stored, it is read so.)
        """
        if labelled.table is None:
            return self
        labels = {pair.name: pair.label for pair in labelled.pairs}
        pairs = [replace(pair, label=labels.get(pair.name)) for pair in self.pairs]
        rest = self.transform, self.spec, self.skipped, self.bits
        return SegmentationDataset(pairs, self.space, labelled.table, *rest, depth_noise=self.depth_noise)

    def require_labels(self, purpose: str) -> SegmentationDataset:
        """Itself, or ValueError where there is nothing but pictures, or no class in any label: before work that would be for
        nothing. Label files are read until one has a class, at most `LOOKED_AT`, evenly spread.
        """
        if not self.labelled:
            raise ValueError(
                f"{purpose} needs labels, and {self.spec or 'this data set'} was opened without. A target for training is "
                "fine without labels; give a labelled data set here (gta5, cityscapes, own, ..., not folder)."
            )
        some = self.pairs[:: len(self) // LOOKED_AT + 1]
        if not any((read_label(pair.label, self.table) < self.space.num_classes).any() for pair in some):
            of_what = f"{purpose}: {self.spec}"
            raise ValueError(no_class_message(self.spec, of_what, len(some), some[0].label, self.space.title))
        return self

    @property
    def class_counts(self) -> np.ndarray:
        """(F, C) int64: how many pixels of each class each label file has (`data.class_counts`); of few label pixels, those."""
        if self._class_counts is None:
            if self.table is None:
                raise ValueError(f"{self!r} cannot count classes. Open it with labelled=True.")
            labels = self.pairs, self.table, self.space.num_classes
            self._class_counts = class_counts(*labels, self.spec, self.part, self.label_size)
        return self._class_counts


def _shared_flag() -> torch.Tensor:
    """A flag that loader workers, forked or spawned, have in common with this process."""
    flag = torch.zeros((), dtype=torch.bool)
    with suppress(RuntimeError, OSError):  # without shared memory on this machine each process has its own
        flag.share_memory_()
    return flag
