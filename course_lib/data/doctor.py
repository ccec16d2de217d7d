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

from course_lib.data import layouts, prepared
from course_lib.data.bits import BITS, check_bits, depth_note
from course_lib.data.encoding import Table
from course_lib.data.examine import Facts, examine, in_parallel
from course_lib.data.few_labels import plain
from course_lib.data.layouts import Pair, Problem
from course_lib.data.published import count_note
from course_lib.data.reading import READING, as_stored_note, no_class_message
from course_lib.labels import LabelSpace, label_space
from course_lib.terminal import shown

NO_CLASS = "sets without a labelled pixel"  # kind of problem


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
        """Whether every file can be used, and some pixel is labelled."""
        return not self.problems

    def to_dict(self) -> dict:
        """Plain numbers, names and lists: what `json.dump` writes."""
        return asdict(self) | {"ok": self.ok}

    def table(self, most: int = 3) -> str:
        """For a terminal: counts, sizes, classes, notes, and the first problems of each kind with their cures."""
        lines = [f"{shown(self.spec)} ({self.split}): {self.pictures} pictures can be used, read in {self.seconds:.1f} s"]
        lines.append("sizes: " + (", ".join(f"{n} x {size}" for size, n in list(self.sizes.items())[:6]) or "none"))
        lines += self._class_lines()
        lines += [note if note.startswith("Warning") else f"note: {note}" for note in self.notes]
        for kind, count in Counter(p.kind for p in self.problems).most_common():
            lines.append(f"\n{count} {kind}")
            lines += [f"  {shown(p.message)}" for p in self.problems if p.kind == kind][:most]
            lines += [f"  ... and {count - most} more"] * (count > most)
        lines.append(f"\n{len(self.problems)} problems. {self._cure()}" if self.problems else "\nEverything can be read.")
        return "\n".join(lines)

    def _cure(self) -> str:
        if any(problem.kind == NO_CLASS for problem in self.problems):
            return "It cannot be trained on or scored with."
        return "--skip-bad trains without."

    def _class_lines(self) -> list[str]:
        if not self.pixels:
            return ["no labels"]
        title = label_space(self.space).title
        total, width = max(1, sum(self.pixels) + self.ignored), max(map(len, (*self.classes, title, "of no class")))
        rows = zip(self.classes, self.pixels, self.pictures_with)
        lines = [f"{title:<{width}}  % of pixels  pictures"]
        lines += [f"{name:<{width}}  {100 * n / total:11.3f}  {pictures:8d}" for name, n, pictures in rows]
        return [*lines, f"{'of no class':<{width}}  {100 * self.ignored / total:11.3f}"]


def check(
    spec: str,
    split: str = "train",
    space: str | LabelSpace | None = None,
    *,
    labelled: bool = True,
    list_file: Path | str | None = None,
    bits: int = BITS,
    workers: int | None = None,
    progress: bool = True,
) -> Report:
    """Decode every file of a split, compare sizes and ids, and count; nothing is written.

        report = check("gta5:/data/GTA5")
        print(report.table()); report.ok

    `space`: by default the layout's own (camvid11 for CamVid, what a prepared set stores, those of dataset.toml, else
    cityscapes19). Files of a prepared set are also compared with the checksums of its manifest. `labelled=False` reads
    pictures alone. `bits`: as in `open_dataset`; a note says so where all 16-bit pictures hold fewer.
    `workers` threads, by default one a core. A root, folder, split or list file that is not there is an error, as in
    `open_dataset`; what is wrong with single files is in the report.
    """
    began = time.perf_counter()
    layout, root = layouts.parse(spec)
    check_bits(bits)
    bits = layouts.bits_of(layout, root, bits)
    space = label_space(space or layouts.default_space(layout, root) or "cityscapes19")
    table = layouts.label_table(layout, root, split, space) if labelled else None
    if workers is not None and workers < 1:
        raise ValueError(f"Got workers={workers}, wanted 1 or more threads.")
    pairs, problems = layouts.survey(layout, root, split, list_file=list_file, labelled=labelled)
    sums = prepared.checksums(root, plain(split)) if layout == "prepared" else None
    facts = list(in_parallel(partial(_look, table=table, sums=sums, bits=bits), pairs, f"checking {layout}", workers, progress))
    good = [fact for fact in facts if fact.problem is None]
    pixels = np.stack([fact.pixels for fact in good]) if good and table is not None else np.zeros((0, 256), dtype=np.int64)
    if good and table is not None and not pixels[:, : space.num_classes].any():
        first = next(pair.label for pair, fact in zip(pairs, facts) if fact.problem is None)
        message = no_class_message(spec, f"{spec} ({split})", len(good), first, space.title)
        problems = [*problems, Problem(NO_CLASS, str(root), message)]
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
        notes=(
            *_picture_notes(good, bits),
            *_count_notes(layout, root, split, len(good), len(facts) - len(good), list_file is None),
            *_class_notes(layout, space, counts, float(ignored / max(1, pixels.sum()))),
        ),
        seconds=round(time.perf_counter() - began, 3),
    )


def _look(pair: Pair, table: Table | None, sums: dict[Path, str] | None, bits: int) -> Facts:
    """Checksums first: a file that was changed may still be a picture."""
    problem = prepared.changed(pair, sums) if sums is not None else None
    return Facts(problem) if problem else examine(pair, table, bits)


def _picture_notes(good: list[Facts], bits: int) -> list[str]:
    notes = []
    if note := depth_note(max((fact.largest for fact in good if fact.largest is not None), default=None), bits):
        notes.append(f"Warning: {note}")
    if stored := sum(fact.as_stored for fact in good):
        notes.append(as_stored_note(stored))
    return notes


def _count_notes(layout: str, root: Path, split: str, pictures: int, bad: int, whole: bool) -> list[str]:
    notes = []
    if layout == "prepared":
        manifest, part = prepared.find_split(root, plain(split))
        settings, layout = manifest.settings, manifest.settings.layout
        notes.append(f"Prepared from {settings.source} at {settings.size}: {settings.images}, labels in {settings.space}.")
        if settings.reading < READING:
            notes.append(
                "Prepared by an earlier version, which did not turn pictures upright (EXIF) and took the upper byte of 16. "
                "If the originals have such pictures, prepare them again, into another folder."
            )
        notes += prepared.notes_on(settings, part)
        if part.left_out:
            notes.append(f"{len(part.left_out)} pictures of the original were left out when it was prepared (--skip-bad).")
            bad += len(part.left_out)
    if whole and (note := count_note(layout, split, pictures, bad)):
        notes.append(note)
    return notes


def _class_notes(layout: str, space: LabelSpace, counts: np.ndarray, ignored: float) -> list[str]:
    notes = []
    if len(counts):
        if empty := int((counts.sum(1) == 0).sum()):
            notes.append(f"{empty} pictures have no pixel of any class: they teach a source nothing and cannot be scored on.")
        if ignored > 0.5:
            notes.append(f"{100 * ignored:.0f} % of the pixels are of no class: is {layout!r} the right layout?")
        if absent := [name for name, n in zip(space.classes, counts.sum(0)) if not n]:
            cure = "Class-balanced sampling leaves them out; their IoU is a dash, or 0 where they are predicted."
            notes.append(f"Never there: {', '.join(absent)}. {cure}")
    return notes
