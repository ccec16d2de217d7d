"""A prepared data set: pictures resized once, labels as train ids, and a manifest that says what there is.

    DIR/prepared.json                       the manifest
    DIR/<split>/images/<name>.jpg           pictures of one size; .webp where they are stored without loss
    DIR/<split>/labels/<name>.png           palette PNG of train ids, 255 = ignore

Names and their order are those of the originals, so list files, pseudo-labels and runs fit both. Labels are stored in the
widest space of their layout; narrower ones are read from it. Made by `course_lib.data.preparing`.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import NamedTuple, TypedDict

import numpy as np

from course_lib.data.bits import BITS, depth_note
from course_lib.data.encoding import UNKNOWN
from course_lib.data.names import given_list, names_in, pictures_below
from course_lib.data.pairs import Pair, Problem
from course_lib.data.reading import as_stored_note
from course_lib.data.unfinished import unfinished_preparation
from course_lib.files import digest, read_text
from course_lib.labels import IGNORE, LabelSpace, label_space, table_between
from course_lib.typed import checked

MANIFEST = "prepared.json"
FORMAT = 1  # of the manifest
ENDINGS = {"jpeg": ".jpg", "lossless": ".webp"}  # how pictures can be stored -> their file names


class Entry(NamedTuple):
    """One picture: its name, the SHA-256 of its two files, and the originals' bytes, size ("1914x1052") and time."""

    name: str
    image: str
    label: str | None
    source_bytes: int  # of both files: where it changes, the picture is made again
    source_size: str
    largest: int | None = None  # the original's, see `reading.ReadPair`
    as_stored: bool = False  # likewise
    source_time: int | None = None  # when an original was last changed, ns; likewise made again. None: not known


@dataclass(frozen=True)
class Settings:
    """What decides the content of every file."""

    source: str  # "gta5:/data/GTA5", absolute
    size: str  # "1280x720"
    images: str  # "jpeg" or "lossless"
    space: str  # the label space that is stored
    bits: int = BITS  # of 16-bit pictures
    reading: int = 1  # `reading.READING` of the version that made it; manifests before 2 do not say
    mapping: str = ""  # of own data: a hash of what dataset.toml says of the label files

    @property
    def layout(self) -> str:
        """The layout of the originals: "gta5"."""
        return self.source.partition(":")[0]


@dataclass(frozen=True)
class Split:
    """A prepared split, in the order of the originals; `left_out`: what --skip-bad did without."""

    labelled: bool
    pictures: tuple[Entry, ...]
    left_out: tuple[Problem, ...] = ()


@dataclass(frozen=True)
class Manifest:
    """What a folder of prepared pictures holds."""

    settings: Settings
    splits: dict[str, Split]


class StoredSplit(TypedDict):
    """A split as the manifest has it."""

    labelled: bool
    pictures: tuple[Entry, ...]
    left_out: tuple[Problem, ...]


class Stored(TypedDict):
    """The manifest's own form."""

    settings: Settings
    splits: dict[str, StoredSplit]


def files_of(split: str, name: str, images: str) -> tuple[str, str]:
    """Image and label file of a picture, below the root.

    >>> files_of("train", "aachen/a_leftImg8bit.png", "jpeg")
    ('train/images/aachen/a_leftImg8bit.jpg', 'train/labels/aachen/a_leftImg8bit.png')
    """
    stem = PurePosixPath(name).with_suffix("").as_posix()
    return f"{split}/images/{stem}{ENDINGS[images]}", f"{split}/labels/{stem}.png"


def read_manifest(root: Path | str) -> Manifest:
    """The manifest of a prepared folder; FileNotFoundError without one, ValueError for one that cannot be used."""
    path = Path(root) / MANIFEST
    if not path.is_file():
        raise FileNotFoundError(
            f"No prepared data set in {str(root)!r}: there is no {MANIFEST}. {unfinished_preparation(Path(root))}"
            f"Check the path, or make it with `uda data prepare LAYOUT:PATH --out {root} --size WIDTHxHEIGHT`; if that was "
            "cut off, repeat the command."
        )
    try:
        content = json.loads(read_text(path))
        if checked(dict, content, MANIFEST).get("format") != FORMAT:
            raise ValueError(f"format {content.get('format')!r}, wanted {FORMAT}")
        content = checked(Stored, content, MANIFEST)
        settings = content["settings"]
        splits = {name: Split(part["labelled"], part["pictures"], part["left_out"]) for name, part in content["splits"].items()}
        names = [entry.name for split in splits.values() for entry in split.pictures] + list(splits)
        if foreign := [name for name in names if ".." in PurePosixPath(name).parts or PurePosixPath(name).is_absolute()]:
            raise ValueError(f"a name that leads out of the folder: {foreign[0]!r}")
        if settings.images not in ENDINGS:
            raise ValueError(f"pictures stored as {settings.images!r}, wanted {' or '.join(ENDINGS)}")
        label_space(settings.space)
        return Manifest(settings, splits)
    except (ValueError, RecursionError) as error:
        raise ValueError(
            f"{str(path)!r} cannot be used as the manifest of a prepared data set ({error}). It is "
            "damaged, or of another version: run `uda data prepare` again into another folder."
        ) from error


def find_split(root: Path | str, split: str) -> tuple[Manifest, Split]:
    """The manifest and one of its splits; ValueError that offers those that were prepared."""
    manifest = read_manifest(root)
    if split not in manifest.splits:
        there = ", ".join(map(repr, manifest.splits)) or "none"
        raise ValueError(
            f"prepared:{root} has no split {split!r}; prepared were: {there}. Choose one of them, or prepare it too: the same "
            f"`uda data prepare` with --split {split}."
        )
    return manifest, manifest.splits[split]


def survey(
    root: Path | str, split: str = "train", *, list_file: Path | str | None = None, labelled: bool = True
) -> tuple[list[Pair], list[Problem]]:
    """As `layouts.survey`: the pairs of a prepared split in the order of the originals, and what is missing."""
    root = Path(root)
    manifest, part = find_split(root, split)
    if labelled and not part.labelled:
        raise FileNotFoundError(
            f"prepared:{root} holds {split!r} without labels: enough for a target (labelled=False, --no-labels), not for a "
            "source or for scoring. Prepare it with labels into another folder."
        )
    names = [entry.name for entry in part.pictures]
    problems = []
    if list_file is not None:
        listing = given_list(list_file, root)
        names, unknown = names_in(listing, names, root / split / "images")
        problems = [
            Problem("listed names without picture", str(listing),
                    f"{str(listing)!r}, line {number}: no picture {line!r} in prepared:{root}@{split}. Correct the list.")
            for number, line in unknown
        ]  # fmt: skip
    there = set(_files_below(root / split / "images")) | (set(_files_below(root / split / "labels")) if labelled else set())
    pairs = []
    for name in names:
        image, label = (root / file for file in files_of(split, name, manifest.settings.images))
        wanted = [image, label] if labelled else [image]
        gone = [path for path in wanted if path not in there]
        problems += [
            Problem("prepared files that are missing", str(path),
                    f"{str(path)!r} is not there, though the manifest names it. Run the same `uda data prepare` again: "
                    "it makes the missing files alone.")
            for path in gone
        ]  # fmt: skip
        if not gone:
            pairs.append(Pair(name, image, label if labelled else None))
    return pairs, problems


def _files_below(folder: Path) -> list[Path]:
    return [folder / name for name in pictures_below(folder, "")] if folder.is_dir() else []


# ---- labels


def stored_table(stored: str, space: str | LabelSpace) -> np.ndarray:
    """The id table of files of train ids of the space `stored`."""
    table = table_between(stored, space).astype(np.uint16)
    table[label_space(stored).num_classes : IGNORE] = UNKNOWN
    return table


def notes_on(settings: Settings, part: Split) -> list[str]:
    """What is worth knowing about how the originals of a split were read."""
    notes = []
    largest = max((entry.largest for entry in part.pictures if entry.largest is not None), default=None)
    if note := depth_note(largest, settings.bits):
        notes.append(f"Warning: {note} This set was prepared without: prepare it again, into another folder.")
    if stored := sum(entry.as_stored for entry in part.pictures):
        notes.append(as_stored_note(stored))
    return notes


# ---- checksums


def checksums(root: Path | str, split: str) -> dict[Path, str]:
    """The checksum that the manifest has for each file of a split."""
    manifest, part = find_split(root, split)
    sums = {}
    for entry in part.pictures:
        files = files_of(split, entry.name, manifest.settings.images)
        sums |= {Path(root) / file: sha for file, sha in zip(files, (entry.image, entry.label)) if sha is not None}
    return sums


def changed(pair: Pair, sums: dict[Path, str]) -> Problem | None:
    """What is wrong with the first file of a pair that is not as it was made."""
    for path in (pair.image, pair.label):
        if path is not None and sums[path] != digest(path):
            return Problem(
                "files that differ from the manifest", str(path),
                f"{str(path)!r} is not the file that was prepared: its checksum differs from the one in {MANIFEST}. Run the "
                "same `uda data prepare` again: it makes this file again and leaves the others.",
            )  # fmt: skip
    return None
