"""`uda data describe`: look at a folder and write a first dataset.toml with what is in it, to be edited.

Letters: F files. A *role* is picture or label: a file is taken for a label if it is no JPEG and has few values.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np

from course_lib.data.description import FILE, FILE_NAME, read
from course_lib.data.examine import in_parallel
from course_lib.data.names import pictures_below
from course_lib.data.patterns import SPLIT, Pattern
from course_lib.data.reading import JPEG_LABELS, open_picture, read_colours, read_raw_label
from course_lib.files import mark, read_text, write_whole
from course_lib.labels import IGNORE, MOST_CLASSES

KIND = "uda data describe"
FEW = 64  # values that a label map of one picture has at most, where its form does not tell
SAMPLED = 3  # files of a folder that are opened to see whether they are labels
SPLITS = {
    "training": "train",
    "train": "train",
    "validation": "val",
    "valid": "val",
    "val": "val",
    "testing": "test",
    "test": "test",
}
_SPLIT = re.compile(rf"^({'|'.join(SPLITS)})(?=$|[^a-z]|annot|label|mask)")
_LIKE_LABELS = re.compile(r"label|mask|annot|^gt|segm", re.IGNORECASE)


@dataclass(frozen=True)
class Found:
    """What `describe` saw: the file it wrote, and what is in the folder."""

    file: Path
    pictures: int
    labels: int
    values: tuple[tuple[int, float, int], ...]  # id or colour, share of the pixels, in how many files
    colours: bool
    splits: tuple[str, ...]

    def summary(self) -> str:
        """One line for a terminal."""
        kind = "colours" if self.colours else "ids"
        labels = f"{self.labels} labels with {len(self.values)} {kind}" if self.labels else "no labels"
        return f"{self.pictures} pictures, {labels}, splits {', '.join(self.splits)}."


def describe(folder: Path | str, *, beside: bool = False, workers: int | None = None, progress: bool = True) -> Found:
    """Write FOLDER/dataset.toml (`beside`: next to FOLDER) with the patterns, values and splits that are found.

    Every label file is read, by `workers` threads. An earlier file is replaced only if this function wrote it and nobody has
    edited it. Raises FileExistsError for another one, FileNotFoundError for no folder or no pictures, ValueError for labels
    saved as JPEG, more than 255 values, and label files that cannot be read.
    """
    folder = Path(folder).expanduser()
    if not folder.is_dir():
        raise FileNotFoundError(f"No folder {str(folder)!r}. Give the folder that has the pictures and their labels.")
    out = (folder.absolute().parent if beside else folder) / FILE
    refuse_edited(out)
    names = pictures_below(folder, "")
    if not names:
        raise FileNotFoundError(f"No pictures in {str(folder)!r}. Give the folder that has the pictures and their labels.")
    pictures, labels = _roles(folder, names)
    if not pictures:
        raise FileNotFoundError(
            f"{str(folder)!r} has labels alone ({labels[0]!r}, ...). Give the folder with their pictures, too."
        )
    if not labels and (jpegs := _jpeg_labels(pictures)):
        raise ValueError(f"{str(folder / jpegs[0])!r} seems to be a label, and it is a JPEG file: {JPEG_LABELS}.")
    picture_pattern, label_pattern, by_name = _patterns(folder, pictures, labels)
    chosen = _matching(label_pattern, labels) if label_pattern else []
    colours = bool(chosen) and not _has_ids(folder / chosen[0])
    values = _count(folder, chosen, colours, workers, progress)
    used = _matching(picture_pattern, pictures)
    found = _splits(picture_pattern, used)
    splits = tuple(found) or (("train", "val") if len(used) > 1 else ("train",))
    text = _text(
        folder, beside, picture_pattern, label_pattern, by_name, len(used), chosen, values, colours, found, len(used) > 1
    )
    write_whole(out, signed(text))
    read(out)  # what was written can be read
    return Found(out, len(used), len(chosen), tuple(values), colours, splits)


def signed(text: str) -> str:
    """The text behind a first line that says who wrote it, and by which `refuse_edited` sees an edit."""
    return f"# {mark(KIND)} {hashlib.sha256(text.encode()).hexdigest()[:16]}\n{text}"


def refuse_edited(path: Path) -> None:
    """Raise FileExistsError where there is a file that `describe` did not write, or that was edited since."""
    if not os.path.lexists(path):
        return
    try:
        first, _, text = read_text(path).partition("\n")
    except (OSError, ValueError):
        first, text = "", ""
    if not first.startswith(f"# {mark(KIND)} "):
        raise FileExistsError(f"{path} exists and `{KIND}` did not write it, so it is not overwritten. Move it away.")
    if signed(text) != f"{first}\n{text}":
        raise FileExistsError(
            f"{path} was edited since `{KIND}` wrote it, so it is not overwritten. Move it away to write another."
        )


# ---- which files are what


def _roles(folder: Path, names: Sequence[str]) -> tuple[list[str], list[str]]:
    """Pictures and labels; files of one folder, kind and ending have one role."""
    groups: dict[tuple[str, str, str], list[str]] = defaultdict(list)
    for name in names:
        path = PurePosixPath(name)
        groups[path.parent.as_posix(), path.suffix.lower(), _token(path.stem)].append(name)
    merged: dict[tuple[str, str, str], list[str]] = defaultdict(list)
    for (parent, suffix, token), group in groups.items():  # an ending that one file has is a part of its name
        merged[parent, suffix, token if len(group) > 1 else ""] += group
    pictures, labels = [], []
    for group in merged.values():
        step = max(1, len(group) // SAMPLED)
        few = all(_few_values(folder / name) for name in group[::step][:SAMPLED])
        (labels if few else pictures).extend(group)
    return sorted(pictures), sorted(labels)


def _token(stem: str) -> str:
    """The last part of a file's stem, if it is a word: "_labelIds"."""
    found = re.search(r"[_.-][A-Za-z][A-Za-z0-9]*$", stem)
    return found[0] if found else ""


def _few_values(path: Path) -> bool:
    """Whether a file is a label by its kind, its values and the names of its folders."""
    with open_picture(path) as image:
        if image.format != "PNG":
            return False
        if image.mode in ("1", "P"):
            return True
        deep, pixels = image.mode.startswith("I"), np.asarray(image)
    if pixels.ndim == 2:
        called = image.mode == "L" and any(map(_LIKE_LABELS.search, path.parent.parts[-2:]))
        return called or len(np.unique(pixels)) <= (MOST_CLASSES + 1 if deep else FEW)
    colours = pixels[..., :3].reshape(-1, pixels[..., :3].shape[2])
    return len(np.unique(colours, axis=0)) <= FEW


def _has_ids(path: Path) -> bool:
    with open_picture(path, formats=("PNG",)) as image:
        return image.mode not in ("RGB", "RGBA")


def _jpeg_labels(pictures: Iterable[str]) -> list[str]:
    """JPEG files in a folder that is called like one of labels, beside another folder of pictures."""
    jpegs = [n for n in pictures if n.lower().endswith((".jpg", ".jpeg"))]
    found = [n for n in jpegs if any(map(_LIKE_LABELS.search, PurePosixPath(n).parent.parts))]
    return found if len(found) < len(list(pictures)) else []


# ---- their patterns


def _patterns(folder: Path, pictures: list[str], labels: list[str]) -> tuple[Pattern, Pattern | None, bool]:
    """The patterns of pictures and labels, and whether labels are found by the file's name alone."""
    tokens = {_token(PurePosixPath(n).stem) for n in pictures}
    shared = tokens.pop() if len(tokens) == 1 and len(pictures) > 1 else ""
    best: tuple[int, str, str] = (0, shared, "")
    for ending in dict.fromkeys((shared, "")):
        stems = {PurePosixPath(n).stem.removesuffix(ending) for n in pictures}
        endings = Counter(found for n in labels if (found := _rest(PurePosixPath(n).stem, stems)) is not None)
        for found, count in endings.items():
            count += 10**9 * _of_ids(folder, labels, found)  # label ids before their pictures in colours
            best = max(best, (count, ending, found))
    count, ending, label_ending = best
    if not count:
        return _pattern(pictures, "", None), None, False
    kinds = {PurePosixPath(n).suffix for n in pictures}
    picture = _pattern(pictures, ending, kinds.pop() if len(kinds) == 1 else None)
    label = _pattern([n for n in labels if PurePosixPath(n).stem.endswith(label_ending)], label_ending, ".png")
    keys = {picture.of(word).key(_below(picture.of(word), n)) for n in pictures for word in _words(picture, n)}
    of_labels = [label.of(word).key(_below(label.of(word), n)) for n in labels for word in _words(label, n)]
    if picture.wildcards == label.wildcards and 2 * sum(key in keys for key in of_labels) >= min(len(pictures), len(of_labels)):
        return picture, label, False
    return picture, label, True


def _of_ids(folder: Path, labels: list[str], ending: str) -> bool:
    """Whether the labels of an ending are ids of classes: no colours, and not those of single objects."""
    some = next(n for n in labels if PurePosixPath(n).stem.endswith(ending))
    return _has_ids(folder / some) and "instance" not in ending.lower()


def _rest(stem: str, stems: set[str]) -> str | None:
    """What a label's stem has behind that of its picture."""
    for end in range(len(stem), 0, -1):
        if stem[:end] in stems and (end == len(stem) or not stem[end].isalnum()):
            return stem[end:]
    return None


def _pattern(names: Sequence[str], ending: str, kind: str | None) -> Pattern:
    """A pattern that fits all names: folders that differ become wildcards, words for a split {split}."""
    parents = [_templated(PurePosixPath(n).parent.parts) for n in names]
    if len({len(parts) for parts in parents}) == 1:
        folders = [_component({parts[i] for parts in parents}) for i in range(len(parents[0]))]
    else:
        same = os.path.commonprefix(parents)
        folders = [*same, "**"]
    return Pattern("/".join([*folders, f"*{ending}{kind or ''}" if kind else "*"]))


def _templated(parts: Sequence[str]) -> list[str]:
    """A path with the first word for a split replaced."""
    found = next((i for i, part in enumerate(parts) if _SPLIT.match(part)), None)
    return [_SPLIT.sub(SPLIT, part) if i == found else part for i, part in enumerate(parts)]


def _component(names: set[str]) -> str:
    """A folder's name, or a wildcard with what several have in common at their ends."""
    if len(names) == 1:
        return names.pop()
    end = re.search(r"[_-]\w*$", os.path.commonprefix([name[::-1] for name in names])[::-1])
    return "*" + (end[0] if end else "")


def _words(pattern: Pattern, name: str) -> list[str]:
    """What {split} stands for in a name, if the name fits; [""] for a pattern without."""
    words = [word for part in PurePosixPath(name).parent.parts if (m := _SPLIT.match(part)) for word in (m[1],)][:1]
    words = words if pattern.has_split else [""]
    return [word for word in words if pattern.of(word).key(_below(pattern.of(word), name)) is not None]


def _below(pattern: Pattern, name: str) -> str:
    """The name below the pattern's folder; "" for one that does not lie there."""
    if pattern.folder == ".":
        return name
    return name.removeprefix(f"{pattern.folder}/") if name.startswith(f"{pattern.folder}/") else ""


def _matching(pattern: Pattern, names: Iterable[str]) -> list[str]:
    return [name for name in names if _words(pattern, name)]


def _splits(pattern: Pattern, names: Iterable[str]) -> dict[str, str]:
    """{split: what stands for {split}}, train first."""
    if not pattern.has_split:
        return {}
    words = {word for name in names for word in _words(pattern, name)}
    return {SPLITS[word]: word for word in sorted(words, key=list(SPLITS).index)}


# ---- their values


def _count(
    folder: Path, labels: Sequence[str], colours: bool, workers: int | None, progress: bool
) -> list[tuple[int, float, int]]:
    """(value, share of all pixels, number of files) of every id or colour."""
    pixels, files = Counter(), Counter()

    def look(name: str) -> tuple[np.ndarray, np.ndarray]:
        path = folder / name
        return np.unique(read_colours(path) if colours else read_raw_label(path), return_counts=True)

    for values, counts in in_parallel(look, labels, "reading labels", workers, progress, delay=2):
        pixels.update(dict(zip(values.tolist(), counts.tolist())))
        files.update(values.tolist())
        if len(pixels) > MOST_CLASSES + 1:
            raise ValueError(
                f"The label files of {str(folder)!r} have more than {MOST_CLASSES} {'colours' if colours else 'ids'}, such as "
                f"{labels[0]!r}. Are they maps of single objects, or were they saved with a loss? Give the folder with maps of "
                "classes alone."
            )
    total = sum(pixels.values())
    return [(value, pixels[value] / total, files[value]) for value in sorted(pixels)]


def _text(
    folder: Path,
    beside: bool,
    pictures: Pattern,
    labels: Pattern | None,
    by_name: bool,
    count: int,
    chosen: Sequence[str],
    values: Sequence[tuple[int, float, int]],
    colours: bool,
    splits: dict[str, str],
    halves: bool,
) -> str:
    lines = ["# Read it through: give the classes their names, then look at the data with `uda data check own:FOLDER`.",
             "# docs/own_data.md explains every key."]  # fmt: skip
    lines += [f"folder = {_quoted(folder.absolute().name)}"] if beside else []
    lines += [f"pictures = {_quoted(pictures.text)}  # {count} files"]
    if labels is not None:
        lines += [f"labels = {_quoted(labels.text)}  # {len(chosen)} files"]
        lines += [f"pair_by = {_quoted(FILE_NAME)}"] if by_name else []
        ignored = not colours and len(values) > 2 and any(value == IGNORE for value, *_ in values)
        lines += [f"ignore = [{IGNORE}]"] if ignored else []
        lines += ["", "[classes]  # share of the pixels, and in how many label files"]
        for value, share, files in values:
            if ignored and value == IGNORE:
                continue
            name, what = (f"colour_{value:06x}", f'"#{value:06x}"') if colours else (f"class_{value}", str(value))
            lines += [f"{name} = {what}  # {share:.2%}, {files} of {len(chosen)}"]
    if splits:
        lines += ["", f"[splits]  # what stands for {SPLIT}", *(f"{name} = {_quoted(word)}" for name, word in splits.items())]
    elif halves:
        lines += ["", "[splits]  # all, even or odd (every second picture in name order), or a list file",
                  'train = "even"', 'val = "odd"']  # fmt: skip
    return "\n".join(lines) + "\n"


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
