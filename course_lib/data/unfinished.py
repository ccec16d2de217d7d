"""Data sets that are not finished: their journal is still there.

It is written by `course_lib.data.ministreet.making` and by `course_lib.data.journal`.
"""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import Any, TypedDict

from course_lib.files import read_json, read_text
from course_lib.typed import checked

JOURNALS = ".journal"  # folder below the root, until the manifest says that all is there
SETTINGS = "settings.json"  # in the journal of a preparation
MADE_BY = "course_lib.data.ministreet"  # in a manifest and in a plan of MiniStreet
ABOVE = 3  # folders: pictures may be opened as `folder:ROOT/leftImg8bit/train`


class Record(TypedDict, total=False):
    """What a manifest, a plan or the settings of a preparation hold."""

    made_by: str
    count: int
    arguments: dict[str, Any]
    files: dict[str, str]
    planned: int


def manifest_of(root: Path, split: str) -> Path:
    """What says that a split of a made set is whole."""
    return root / ("manifest.json" if split == "train" else f"manifest_{split}.json")


def read_record(path: Path) -> dict:
    """A `Record`; an unreadable one counts as none."""
    with suppress(OSError, ValueError):
        return read_json(path, Record)
    return {}


def journal_lines(journal: Path, hint: Any = Any) -> list:
    """What was noted of each picture that is whole, of the type `hint`; without the line that a killed run cut off."""
    lines = []
    with suppress(OSError, ValueError):
        for line in read_text(journal).splitlines():
            with suppress(ValueError):  # that line
                lines.append(checked(hint, json.loads(line), journal.name))
    return lines


def refuse_unfinished(layout: str, root: Path, split: str) -> None:
    """Raise ValueError where `root` belongs to a set that is not finished; Cityscapes' splits are finished one by one."""
    for folder in (root, *root.absolute().parents[:ABOVE]):
        for plan in sorted((folder / JOURNALS).glob("*.json")):
            content = read_record(plan)
            if content.get("made_by") != MADE_BY:
                continue
            made, planned = {"layout": None, "split": "train"} | content.get("arguments", {}), content.get("count", 0)
            if layout == made["layout"] == "cityscapes" and split != made["split"]:
                continue
            finished = read_record(manifest_of(folder, made["split"])).get("count", 0)
            if finished < planned:  # else its journal was about to be removed
                journals = (folder / JOURNALS).glob(f"{made['split']}-*.jsonl")
                done = finished + len({str(line) for journal in journals for line in journal_lines(journal)})
                raise ValueError(
                    f"The data set in {str(folder)!r} is unfinished: {min(done, planned)} of {planned} pictures. Repeat the "
                    f"command that makes it (`uda data make ministreet --as {made['layout']} ...`, with the same options): it "
                    "draws what is missing. Or delete the folder."
                )


def unfinished_preparation(root: Path) -> str:
    """How far a preparation in `root` came that has no manifest yet; "" where none was begun."""
    settings = read_record(root / JOURNALS / SETTINGS)
    if not settings:
        return ""
    lines = [line for journal in sorted((root / JOURNALS).glob("*.jsonl")) for line in journal_lines(journal)]
    done, planned = len(set(map(str, lines))), settings.get("planned", "an unknown number of")
    return f"It is unfinished: {done} of {planned} pictures. "
