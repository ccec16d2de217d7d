"""The data doctor: read every file of a data set once, say what is there, what is wrong and what to do about it.

Letters: C classes.
"""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np

from course_lib.data import layouts
from course_lib.data.examine import examine, in_parallel
from course_lib.data.layouts import Problem
from course_lib.data.reading import raw_table
from course_lib.labels import LabelSpace, label_space

_PUBLISHED = {  # pictures in the published data sets
    "gta5": {"all": 24966, "train": 24966},
    "synthia": {"all": 9400, "train": 9400},
    "cityscapes": {"train": 2975, "val": 500, "test": 1525},
}


@dataclass(frozen=True)
class Report:
    """What `check` found. Sizes are "WIDTHxHEIGHT"; `pixels`, `pictures_with`: one number a class, () without labels."""

    spec: str
    split: str
    space: str
    pictures: int  # that can be used
    sizes: dict[str, int]  # size -> how many pictures
    classes: tuple[str, ...]
    pixels: tuple[int, ...]
    pictures_with: tuple[int, ...]
    ignored: int  # pixels of no class
    problems: tuple[Problem, ...]
    notes: tuple[str, ...]  # worth knowing, not wrong
    seconds: float

    @property
    def ok(self) -> bool:
        """Whether every file can be used."""
        return not self.problems

    def to_dict(self) -> dict:
        """Plain numbers, names and lists: what `json.dump` writes."""
        return asdict(self) | {"ok": self.ok}

    def table(self, most: int = 3) -> str:
        """For a terminal: counts, sizes, classes, notes, and the first problems of each kind with their cures."""
        lines = [f"{self.spec} ({self.split}): {self.pictures} pictures can be used, read in {self.seconds:.1f} s"]
        lines.append("sizes: " + (", ".join(f"{n} x {size}" for size, n in list(self.sizes.items())[:6]) or "none"))
        lines += self._class_lines()
        lines += [f"note: {note}" for note in self.notes]
        for kind, count in Counter(p.kind for p in self.problems).most_common():
            lines.append(f"\n{count} {kind}")
            lines += [f"  {p.message}" for p in self.problems if p.kind == kind][:most]
            lines += [f"  ... and {count - most} more"] * (count > most)
        lines.append("\nEverything can be read." if self.ok else f"\n{len(self.problems)} problems. --skip-bad trains without.")
        return "\n".join(lines)

    def _class_lines(self) -> list[str]:
        if not self.pixels:
            return ["no labels"]
        total, width = max(1, sum(self.pixels) + self.ignored), max(map(len, (*self.classes, "of no class")))
        rows = zip(self.classes, self.pixels, self.pictures_with)
        lines = [f"{self.space:<{width}}  % of pixels  pictures"]
        lines += [f"{name:<{width}}  {100 * n / total:11.3f}  {pictures:8d}" for name, n, pictures in rows]
        return [*lines, f"{'of no class':<{width}}  {100 * self.ignored / total:11.3f}"]


def check(
    spec: str,
    split: str = "train",
    space: str | LabelSpace | None = None,
    *,
    labelled: bool = True,
    list_file: Path | str | None = None,
    workers: int | None = None,
    progress: bool = True,
) -> Report:
    """Decode every file of a split, compare sizes and ids, and count; nothing is written.

        report = check("gta5:/data/GTA5")
        print(report.table()); report.ok

    `space`: by default the layout's own (camvid11 for CamVid, else cityscapes19). `labelled=False` looks at pictures alone.
    `workers` threads, by default one a core. A root, folder, split or list file that is not there is an error, as in
    `open_dataset`; what is wrong with single files is in the report.
    """
    began = time.perf_counter()
    layout, root = layouts.parse(spec)
    space = label_space(space or ("camvid11" if layout == "camvid" else "cityscapes19"))
    table = raw_table(layout, space) if labelled and layout != "folder" else None
    if workers is not None and workers < 1:
        raise ValueError(f"Got workers={workers}, wanted 1 or more threads.")
    pairs, problems = layouts.survey(layout, root, split, list_file=list_file, labelled=labelled)
    facts = list(in_parallel(partial(examine, table=table), pairs, f"checking {layout}", workers, progress))
    good = [fact for fact in facts if fact.problem is None]
    pixels = np.stack([fact.pixels for fact in good]) if good and table is not None else np.zeros((0, 256), dtype=np.int64)
    counts, ignored = pixels[:, : space.num_classes], int(pixels[:, space.num_classes :].sum())
    return Report(
        spec=spec,
        split=split,
        space=space.name,
        pictures=len(good),
        sizes=dict(Counter(fact.size for fact in good).most_common()),
        classes=space.classes,
        pixels=() if table is None else tuple(counts.sum(0).tolist()),
        pictures_with=() if table is None else tuple((counts > 0).sum(0).tolist()),
        ignored=ignored,
        problems=(*problems, *(fact.problem for fact in facts if fact.problem)),
        notes=tuple(_notes(layout, split, space, counts, len(good), float(ignored / max(1, pixels.sum())), list_file is None)),
        seconds=round(time.perf_counter() - began, 3),
    )


def _notes(
    layout: str, split: str, space: LabelSpace, counts: np.ndarray, pictures: int, ignored: float, whole: bool
) -> list[str]:
    notes = []
    published = _PUBLISHED.get(layout, {}).get(split) if whole else None
    if published and published == pictures:
        notes.append(f"{published} pictures, as published.")
    elif published:
        notes.append(f"The published {layout} has {published} pictures in {split!r}, here are {pictures}: fine for a part.")
    if len(counts):
        if empty := int((counts.sum(1) == 0).sum()):
            notes.append(f"{empty} pictures have no pixel of any class: they teach a source nothing and cannot be scored on.")
        if ignored > 0.5:
            notes.append(f"{100 * ignored:.0f} % of the pixels are of no class: is {layout!r} the right layout?")
        if absent := [name for name, n in zip(space.classes, counts.sum(0)) if not n]:
            cure = "Class-balanced sampling leaves them out; their IoU is a dash, or 0 where they are predicted."
            notes.append(f"Never there: {', '.join(absent)}. {cure}")
    return notes
