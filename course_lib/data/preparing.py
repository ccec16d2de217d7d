"""`prepare`: a data set resized once, so that a long training does not decode and resize large originals again and again.

The originals are only read. Files take their names when they are whole; a journal notes what is done, so a run that was killed
goes on where it stopped; the manifest, written last, makes the folder a data set. The same originals and settings give the same
files and the same manifest, whatever the number of processes.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import PIL
import torch
import torchvision
from tqdm.auto import tqdm

from course_lib.data import layouts
from course_lib.data.bits import BITS, check_bits
from course_lib.data.encoding import Table
from course_lib.data.few_labels import separate
from course_lib.data.journal import Journal
from course_lib.data.names import shared_file
from course_lib.data.pairs import Pair, Problem
from course_lib.data.prepared import (
    ENDINGS,
    FORMAT,
    MANIFEST,
    Entry,
    Manifest,
    Settings,
    Split,
    files_of,
    read_manifest,
)
from course_lib.data.processes import cores, in_processes
from course_lib.data.reading import MAX_PIXELS, READING, BadPicture
from course_lib.data.storing import encode_image, encode_label, small_pair, store
from course_lib.data.transforms import Size
from course_lib.files import refuse_data, write_whole

SAMPLED = 4  # pictures that are encoded to know how much room is needed
MARGIN = 1.25  # of the estimate, as pictures differ


def prepare(
    spec: str,
    out: Path | str,
    size: Size,
    *,
    splits: Sequence[str] = ("train",),
    images: str = "jpeg",
    labelled: bool = True,
    bits: int = BITS,
    skip_bad: bool = False,
    workers: int | None = None,
    progress: bool = True,
) -> Manifest:
    """Write the pictures of "layout:path" at `size` (height, width) and their labels as train ids to the folder `out`.

        prepare("gta5:/data/GTA5", "/fast/gta5_1280x720", (720, 1280))
        open_dataset("prepared:/fast/gta5_1280x720")

    Resized as `train_transform(size)` resizes, which then leaves them as they are. `images`: "jpeg" (quality 95, 4:4:4) or
    "lossless" (WebP: larger and slower to read, benchmarks/results/prepared_storage.md). `labelled=False`: pictures alone.
    `bits`: as in `open_dataset`; what is written has 8 bits. `workers` processes, by default one a core. The same call goes on
    after a kill; other `splits` may be added later.

    Raises ValueError for arguments that make no sense and for an `out` that holds something else or lies in the originals,
    OSError where there is too little room, BadPicture for the first pair that cannot be used (`skip_bad`: left out, recorded).
    """
    layout, root = layouts.parse(spec)
    out = Path(out).expanduser().absolute()
    _check_arguments(layout, size, splits, images, workers)
    space = layouts.default_space(layout, root)
    labelled = labelled and space is not None
    bits = layouts.bits_of(layout, root, bits)
    settings = Settings(
        f"{layout}:{root.resolve()}", f"{size[1]}x{size[0]}", images,
        space.name if space is not None else "cityscapes19", check_bits(bits), READING,
        layouts.mapping_of(layout, root),
    )  # fmt: skip
    tables = {split: layouts.label_table(layout, root, split, settings.space) if labelled else None for split in splits}
    found = {split: _pairs(layout, root, split, labelled, skip_bad) for split in splits}
    files = (path for pairs, _ in found.values() for pair in pairs for path in (pair.image, pair.label) if path is not None)
    refuse_data(out, [root, *sorted({path.parent for path in files})])
    for split, (pairs, _) in found.items():
        _refuse_collisions(split, pairs, images)

    journal = Journal(out).begin(settings, {split: pairs for split, (pairs, _) in found.items()})
    try:
        done = {split: journal.done(split, pairs, images, progress) for split, (pairs, _) in found.items()}
        todo = [(split, pair) for split, (pairs, _) in found.items() for pair in pairs if pair.name not in done[split]]
        todo = list(dict.fromkeys(todo))  # a list file may name a picture twice
        _check_room(out, settings, tables, todo)
        bad = _store_all(out, settings, tables, todo, done, journal, skip_bad, workers or cores(), progress)
        parts = {}
        for split, (pairs, lost) in found.items():
            entries = tuple(done[split][pair.name] for pair in pairs if pair.name in done[split])
            left_out = (*lost, *(bad[split, pair.name] for pair in dict.fromkeys(pairs) if (split, pair.name) in bad))
            if not entries:
                raise ValueError(f"Nothing of {spec} ({split}) can be used. The first problem: {left_out[0].message}")
            parts[split] = Split(labelled, entries, left_out)
        manifest = _write_manifest(out, settings, parts)
    except BaseException:
        journal.close()
        raise
    journal.forget()
    return manifest


def _check_arguments(layout: str, size: Size, splits: Sequence[str], images: str, workers: int | None) -> None:
    if layout == "prepared":
        raise ValueError("A prepared data set cannot be prepared again: it has lost what was resized away. Name the originals.")
    if len(size) != 2 or not all(isinstance(n, int) and n > 0 for n in size) or size[0] * size[1] > MAX_PIXELS:
        most = f"at most {MAX_PIXELS / 1e6:.0f} megapixels"
        raise ValueError(f"Got size={size!r}, wanted (height, width) in whole pixels, {most}.")
    if images not in ENDINGS:
        raise ValueError(f"Got images={images!r}, wanted one of: {', '.join(ENDINGS)}.")
    if parts := [split for split in splits if separate(split)[1] is not None]:
        raise ValueError(f"{parts[0]!r} is a part of a split. Prepare the whole: its parts are those of the originals.")
    if not splits or len(set(splits)) != len(splits):
        raise ValueError(f"Got splits={list(splits)!r}, wanted one or more different names, such as 'train' and 'val'.")
    if workers is not None and workers < 1:
        raise ValueError(f"Got workers={workers}, wanted 1 or more processes.")


def _pairs(layout: str, root: Path, split: str, labelled: bool, skip_bad: bool) -> tuple[list[Pair], list[Problem]]:
    if skip_bad:
        return layouts.survey(layout, root, split, labelled=labelled)
    return layouts.find_pairs(layout, root, split, labelled=labelled), []


def _refuse_collisions(split: str, pairs: Sequence[Pair], images: str) -> None:
    """a.png and a.jpg would be one file."""
    if problem := shared_file((pair.name, files_of(split, pair.name, images)[0]) for pair in pairs):
        raise ValueError(problem)


def _check_room(out: Path, settings: Settings, tables: dict[str, Table | None], todo: Sequence[tuple[str, Pair]]) -> None:
    """Encode a few pictures in memory; OSError if all of them will not fit on the disk."""
    encoded = []
    for split, pair in todo[:: max(1, len(todo) // SAMPLED)][:SAMPLED]:
        with suppress(BadPicture):  # met again, and said, when its turn comes
            image, label, *_ = small_pair(pair, settings, tables[split])
            contents = [encode_image(image, settings.images)] + ([] if label is None else [encode_label(label, settings.space)])
            encoded.append(sum(len(content) // 4096 + 1 for content in contents) * 4096)  # in blocks of the file system
    if not encoded:
        return
    each = sum(encoded) / len(encoded)
    needed, free = MARGIN * each * len(todo), shutil.disk_usage(out).free
    if needed > free:
        raise OSError(
            f"{str(out)!r} needs about {needed / 1e9:.2f} GB ({len(todo)} pictures of {each / 1e6:.2f} MB, measured on "
            f"{len(encoded)} of them, and {MARGIN - 1:.0%} to spare), and its disk has {free / 1e9:.2f} GB free. Make room, "
            "choose --out on another disk, or a smaller --size; --images jpeg takes the least."
        )


def _store_all(
    out: Path,
    settings: Settings,
    tables: dict[str, Table | None],
    todo: Sequence[tuple[str, Pair]],
    done: dict[str, dict[str, Entry]],
    journal: Journal,
    skip_bad: bool,
    workers: int,
    progress: bool,
) -> dict[tuple[str, str], Problem]:
    """Make what is missing, note it in the journal and in `done`; the problems of what was left out."""
    bad = {}
    before = sum(map(len, done.values()))
    work = partial(_store, out=out, settings=settings, tables=tables)
    with tqdm(
        total=before + len(todo), initial=before, desc=f"{settings.layout} {settings.size}", unit="img", disable=not progress
    ) as bar:
        for split, name, result in in_processes(work, todo, workers):
            if isinstance(result, Entry):
                done[split][name] = result
                journal.note(split, result)
            elif skip_bad:
                bad[split, name] = result
            else:
                raise BadPicture(f"{result.message} (What is done is kept: repeat the command to continue.)", result.kind)
            bar.update()
    return bad


def _store(
    job: tuple[str, Pair], out: Path, settings: Settings, tables: dict[str, Table | None]
) -> tuple[str, str, Entry | Problem]:
    split, pair = job
    return split, pair.name, store(pair, out, split, settings, tables[split])


def _write_manifest(out: Path, settings: Settings, parts: dict[str, Split]) -> Manifest:
    """Splits of earlier runs stay."""
    there = read_manifest(out).splits if (out / MANIFEST).is_file() else {}
    splits = dict(sorted((there | parts).items()))
    content: dict[str, Any] = {
        "made_by": "uda data prepare",
        "format": FORMAT,
        "versions": {
            "course-lib": version("course-lib"), "torch": torch.__version__,
            "torchvision": torchvision.__version__, "pillow": PIL.__version__,
        },
        "settings": asdict(settings),
        "splits": {
            name: {"count": len(part.pictures), "labelled": part.labelled,
                   "left_out": [asdict(problem) for problem in part.left_out], "pictures": part.pictures}
            for name, part in splits.items()
        },
    }  # fmt: skip
    write_whole(out / MANIFEST, json.dumps(content, indent=0) + "\n")
    return Manifest(settings, splits)
