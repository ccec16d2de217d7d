"""Folder layouts of the data sets: from a root folder and a split to pairs of files.

A picture's *name* is its path below the image folder, as the published list files write it: "00001.png" in GTA5,
"aachen/aachen_000000_000019_leftImg8bit.png" in Cityscapes.

Splits. Where the data set has folders for its splits (Cityscapes, SegNet's CamVid), a split is a folder. Elsewhere:

    a list file      ROOT/<split>.txt or ROOT/<data set>_<split>_list.txt, if there is one, or list_file=...
    "all"            every picture
    "even", "odd"    every second picture in name order, from the first or from the second: two disjoint halves
    a prepared set   has the splits that were prepared
    "train", "val"   GTA5, SYNTHIA, folder: "train" is "all" (there is no published validation split, so "val" needs a
                     list file or "odd"); CamVid's images/ + labels/ form: "train" is "even" and "val" is "odd"
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from course_lib.data import prepared
from course_lib.data.names import PICTURES, given_list, names_in, other_case, pictures_below
from course_lib.data.pairs import Pair, Problem
from course_lib.data.unfinished import refuse_unfinished

__all__ = ["LAYOUTS", "Layout", "Pair", "Problem", "find_pairs", "parse", "survey"]

SHARED = "labels of several pictures"  # kind of problem


@dataclass(frozen=True)
class Layout:
    """How a data set lies on disk, below its root. `{split}` stands for the split where it is a folder."""

    images: str
    labels: str | None  # None: pictures only
    label_name: Callable[[str], str] = lambda name: str(Path(name).with_suffix(".png").as_posix())
    image_ending: str = ""  # only files with this ending are pictures of the set
    label_ending: str = ".png"  # likewise
    published: str = ""  # "gtav": the published lists are called gtav_train_list.txt
    train_is: str = "all"  # without list or folder ...
    val_is: str | None = None  # ... None: there is no such split
    source: str = ""  # what to unpack, for error messages ...
    label_source: str = ""  # ... and for labels, where that is another archive


_CAMVID_SOURCE = "the SegNet tutorial's CamVid (train/, trainannot/, ...), or any images/ + labels/ of index PNGs"
_LAYOUTS: dict[str, tuple[Layout, ...]] = {  # name -> forms, the first one found counts
    "gta5": (
        Layout("images", "labels", published="gtav",
               source="01_images.zip ... 10_images.zip of 'Playing for Data'",
               label_source="01_labels.zip ... 10_labels.zip of 'Playing for Data'"),
    ),
    "synthia": (
        Layout("RGB", "GT/LABELS", published="synthia", source="SYNTHIA_RAND_CITYSCAPES.rar"),
        Layout("RAND_CITYSCAPES/RGB", "RAND_CITYSCAPES/GT/LABELS", published="synthia"),
    ),
    "cityscapes": (
        Layout("leftImg8bit/{split}", "gtFine/{split}",
               lambda name: name.removesuffix("_leftImg8bit.png") + "_gtFine_labelIds.png",
               "_leftImg8bit.png", "_gtFine_labelIds.png", published="cityscapes",
               source="leftImg8bit_trainvaltest.zip", label_source="gtFine_trainvaltest.zip"),
    ),
    "camvid": (
        Layout("images", "labels", published="camvid", train_is="even", val_is="odd", source=_CAMVID_SOURCE),
        Layout("{split}", "{split}annot", published="camvid"),
    ),
    "folder": (Layout(".", None, source="a folder of PNG or JPEG pictures"),),
    "prepared": (Layout("{split}/images", "{split}/labels", source="what `uda data prepare` made"),),  # see prepared.py
}  # fmt: skip
LAYOUTS = tuple(_LAYOUTS)


def parse(spec: str) -> tuple[str, Path]:
    """Split "name:path" into a layout's name and a root folder (~ is the home folder).

    >>> name, root = parse("gta5:data/GTA5"); name, root.as_posix()
    ('gta5', 'data/GTA5')
    """
    name, colon, path = str(spec).partition(":")
    if not colon or not path:
        raise ValueError(
            f"Got data set {spec!r}, wanted LAYOUT:PATH, for example 'cityscapes:/data/cityscapes'. "
            f"Layouts: {', '.join(LAYOUTS)}."
        )
    _forms(name)
    return name, Path(path).expanduser()


def find_pairs(
    name: str, root: Path | str, split: str = "train", *, list_file: Path | str | None = None, labelled: bool = True
) -> list[Pair]:
    """The pictures of a split, in the order of its list file if it has one, else in name order.

    `list_file`: one name per line (a second column is not looked at; leading folders that are no part of a name are
    dropped), read relative to the root if it is not found as it stands. `labelled=False` does not look at labels.

    Errors name what is missing and where it comes from: root, image or label folder, split, a listed picture, a label, and
    the picture of a label.
    """
    pairs, problems = survey(name, root, split, list_file=list_file, labelled=labelled)
    if problems:
        first = problems[0]
        alike = sum(p.kind == first.kind for p in problems)
        error = ValueError if first.kind == SHARED else FileNotFoundError
        raise error(f"{alike} {first.kind}, the first: {first.message}" if alike > 1 else first.message)
    return pairs


def survey(
    name: str, root: Path | str, split: str = "train", *, list_file: Path | str | None = None, labelled: bool = True
) -> tuple[list[Pair], list[Problem]]:
    """The whole pairs of a split, as `find_pairs`, and what has no counterpart: listed names, pictures, label files."""
    root = Path(root).expanduser()
    if Path(split).name != split or split in ("", ".."):
        raise ValueError(f"Got split {split!r}, wanted a plain name such as 'train'. Lists are given as list_file=...")
    if name == "prepared":
        return prepared.survey(root, split, list_file=list_file, labelled=labelled)
    if not root.is_dir():
        what = "is no folder" if root.exists() else "is not there"
        raise FileNotFoundError(
            f"No folder {str(root)!r} (asked for as {name}:{root}): it {what}. "
            + (f"There is {str(other)!r}: upper and lower case differ. " if (other := _other_root(root)) else "")
            + (f"The nearest that exists is {str(near)!r}. " if (near := _nearest_existing(root)) else "")
            + f"Check the path, or unpack {_archives(name)} there."
        )
    refuse_unfinished(name, root, split)
    form, images = _form_on_disk(name, root, split)
    found = pictures_below(images, form.image_ending)
    if not found:
        ending = form.image_ending.lower()
        if alike := [each for each in pictures_below(images, "") if ending and each.lower().endswith(ending)]:
            raise _case_differs(name, f"ending {form.image_ending!r} of pictures", images, images / alike[0])
        raise FileNotFoundError(
            f"No pictures in {str(images)!r} (wanted *{form.image_ending or ' or *'.join(PICTURES)}). "
            f"Check that {_forms(name)[0].source} was unpacked there."
        )
    listing = _list_file(form, root, split, list_file)
    names, unknown = names_in(listing, found, images) if listing else (_unlisted(name, form, root, split, found), [])
    in_lower = {each.lower(): each for each in found} if unknown else {}
    problems = [
        Problem(
            "listed names without picture",
            str(listing),
            f"{str(listing)!r}, line {number}: no picture {line!r} in {str(images)!r}, which has {len(found)} such as "
            f"{in_lower.get(line.lower(), found[0])!r}{' (upper and lower case differ)' * (line.lower() in in_lower)}. "
            f"Unpack the rest of {_forms(name)[0].source}, or correct the list (one name a line, as below the image folder).",
        )
        for number, line in unknown
    ]
    if form.labels is None or not labelled:
        return [Pair(n, images / n, None) for n in names], problems
    labels = root / form.labels.format(split=split)
    if not labels.is_dir() and (other := other_case(root, form.labels.format(split=split))):
        raise _case_differs(name, "label folder", labels, other)
    pairs, more = _match_labels(name, form, images, labels, names, () if listing else found)
    return pairs, problems + more


def _forms(name: str) -> tuple[Layout, ...]:
    if name not in _LAYOUTS:
        near = difflib.get_close_matches(name.lower(), LAYOUTS, n=1, cutoff=0.4)
        raise ValueError(
            f"Unknown layout {name!r}. "
            + (f"Did you mean {near[0]!r}? " if near else "")
            + f"Known: {', '.join(LAYOUTS)}."
        )
    return _LAYOUTS[name]


def _form_on_disk(name: str, root: Path, split: str) -> tuple[Layout, Path]:
    """Which form of the layout lies there, and its image folder."""
    forms = _forms(name)
    for form in forms:
        images = root / form.images.format(split=split)
        if images.is_dir():
            return form, images
    tried = " or ".join(repr(form.images.format(split=split) + "/") for form in forms)
    for form in forms:
        if other := other_case(root, form.images.format(split=split)):
            raise _case_differs(name, "image folder", root / form.images.format(split=split), other)
    beside = sorted(p.name for p in root.iterdir() if p.is_dir())
    message = f"{name} wants the image folder {tried} in {str(root)!r}, which has {_some(beside) or 'no folders'}. "
    splits = [f.name for form in forms for f in _split_folders(root, form)]
    if splits:
        raise ValueError(
            f"{message}Split {split!r} is not there; choose one of: {_some(splits)}; or unpack {forms[0].source}."
        )
    inner = [p for p in root.glob("*") if any((p / f.images.split("/")[0]).is_dir() for f in forms)]
    hint = f"Did you mean {name}:{inner[0]}?" if inner else f"Unpack {forms[0].source} there."
    raise FileNotFoundError(message + hint)


def _case_differs(name: str, what: str, wanted: Path, there: Path) -> FileNotFoundError:
    return FileNotFoundError(
        f"{name} wants the {what} {str(wanted)!r}, and there is {str(there)!r}: upper and lower case differ. Rename it."
    )


def _split_folders(root: Path, form: Layout) -> list[Path]:
    if "{split}" not in form.images:
        return []
    above = root / form.images.replace("{split}", "")
    labels = str(form.labels)
    return [
        p for p in (sorted(above.iterdir()) if above.is_dir() else [])
        if p.is_dir() and (form.images != "{split}" or (root / labels.format(split=p.name)).is_dir())
    ]  # fmt: skip


def _unlisted(name: str, form: Layout, root: Path, split: str, found: list[str]) -> list[str]:
    """The pictures of a split that no list file describes."""
    if "{split}" in form.images:
        return found  # the folder is the split
    rule = {"train": form.train_is, "val": form.val_is}.get(split, split)
    chosen = {"all": found, "even": found[::2], "odd": found[1::2]}.get(str(rule))
    if chosen is None:
        lists = " or ".join(repr(n) for n in _list_names(form, split))
        raise ValueError(
            f"{name}:{root} has no split {split!r}. Write its names to {lists} there, or give a list file, or choose "
            "'all', or one of the halves 'even' and 'odd' (every second picture in name order)."
        )
    if not chosen:
        raise ValueError(f"Split {split!r} of {name}:{root} is empty: {len(found)} picture in all. Choose 'all'.")
    return chosen


def _list_names(form: Layout, split: str) -> list[str]:
    return [f"{split}.txt"] + [f"{form.published}_{split}_list.txt"] * bool(form.published)


def _list_file(form: Layout, root: Path, split: str, asked: Path | str | None) -> Path | None:
    if asked is None:
        return next((root / n for n in _list_names(form, split) if (root / n).is_file()), None)
    return given_list(asked, root)


def _match_labels(
    name: str, form: Layout, images: Path, labels: Path, names: list[str], found: Sequence[str]
) -> tuple[list[Pair], list[Problem]]:
    """Pairs of `names`; a label file that belongs to none of the pictures `found` is a problem too, if any are given."""
    source = _forms(name)[0].label_source or _forms(name)[0].source
    if not labels.is_dir():
        raise FileNotFoundError(
            f"{name}: images are in {str(images)!r}, but there is no label folder {str(labels)!r}. Unpack {source}. "
            "Without labels it can be the target of a training (labelled=False), not its source, and cannot be scored on."
        )
    have = set(pictures_below(labels, form.label_ending))
    in_lower = {each.lower(): each for each in pictures_below(labels, "")}
    pairs = [Pair(n, images / n, labels / form.label_name(n)) for n in names]
    problems = [
        Problem(
            "pictures without label",
            str(p.image),
            f"Picture {str(p.image)!r} has no label: wanted {str(p.label)!r}. {_alike(p.label, labels, in_lower)}"
            f"Unpack {source}, name the labelled pictures in a list file, leave such pictures out (--skip-bad), or open the "
            "data set with labelled=False.",
        )
        for p in pairs
        if form.label_name(p.name) not in have
    ]
    alone = sorted(have - {form.label_name(n) for n in found}) if found else []
    problems += [
        Problem(
            "labels without picture",
            str(labels / n),
            f"Label {str(labels / n)!r} has no picture in {str(images)!r}, so a part of the pictures is not there. Unpack "
            f"{_forms(name)[0].source}, name the pictures that you want in a list file, or leave such labels out (--skip-bad).",
        )
        for n in alone
    ]
    pictures_of: dict[str, set[str]] = {}
    for p in pairs:
        pictures_of.setdefault(form.label_name(p.name), set()).add(p.name)
    shared = {name: sorted(others) for name, others in pictures_of.items() if len(others) > 1 and name in have}
    problems += [
        Problem(
            SHARED,
            str(labels / n),
            f"The pictures {' and '.join(map(repr, others))} share the label {str(labels / n)!r}, which can be right for one "
            "of them alone. Rename the others, name the wanted ones in a list file, or leave all out (--skip-bad).",
        )
        for n, others in shared.items()
    ]
    return [p for p in pairs if form.label_name(p.name) in have and form.label_name(p.name) not in shared], problems


def _alike(wanted: Path, labels: Path, in_lower: dict[str, str]) -> str:
    other = in_lower.get(wanted.relative_to(labels).as_posix().lower())
    return "" if other is None else f"There is {str(labels / other)!r}: upper and lower case differ; rename it. Or: "


def _archives(name: str) -> str:
    """What to unpack, for error messages."""
    form = _forms(name)[0]
    return form.source + (f" and {form.label_source}" if form.label_source else "")


def _other_root(root: Path) -> Path | None:
    near = _nearest_existing(root)
    return None if near is None else other_case(near, root.absolute().relative_to(near).as_posix())


def _nearest_existing(path: Path) -> Path | None:
    near = next((p for p in path.absolute().parents if p.is_dir()), None)
    return None if near is None or near == near.parent else near


def _some(names: Iterable[str], most: int = 6) -> str:
    names = list(names)
    return ", ".join(repr(n) for n in names[:most]) + (", ..." if len(names) > most else "")
