"""Folder layouts of the data sets: from a root folder and a split to pairs of files.

A picture's *name* is its path below the image folder, as the published list files write it: "00001.png" in GTA5,
"aachen/aachen_000000_000019_leftImg8bit.png" in Cityscapes.

Splits. Where the data set has folders for its splits (Cityscapes, SegNet's CamVid), a split is a folder. Elsewhere:

    a list file      ROOT/<split>.txt or ROOT/<data set>_<split>_list.txt, if there is one, or list_file=...
    "all"            every picture
    "even", "odd"    every second picture in name order, from the first or from the second: two disjoint halves
    "train", "val"   GTA5, SYNTHIA, folder: "train" is "all" (there is no published validation split, so "val" needs a
                     list file or "odd"); CamVid's images/ + labels/ form: "train" is "even" and "val" is "odd"
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

PICTURES = (".png", ".jpg", ".jpeg", ".webp")


@dataclass(frozen=True)
class Pair:
    """One picture of a data set: its name, its image file and, where labels were asked for, its label file."""

    name: str
    image: Path
    label: Path | None


@dataclass(frozen=True)
class Layout:
    """How a data set lies on disk, below its root. `{split}` stands for the split where it is a folder."""

    images: str
    labels: str | None  # None: pictures only
    label_name: Callable[[str], str] = lambda name: str(Path(name).with_suffix(".png").as_posix())
    image_ending: str = ""  # only files with this ending are pictures of the set
    published: str = ""  # "gtav": the published lists are called gtav_train_list.txt
    train_is: str = "all"  # without list or folder ...
    val_is: str | None = None  # ... None: there is no such split
    source: str = ""  # what to unpack, for error messages


_CAMVID_SOURCE = "the SegNet tutorial's CamVid (train/, trainannot/, ...), or any images/ + labels/ of index PNGs"
_LAYOUTS: dict[str, tuple[Layout, ...]] = {  # name -> forms, the first one found counts
    "gta5": (
        Layout("images", "labels", published="gtav",
               source="01_images.zip ... 10_images.zip and 01_labels.zip ... 10_labels.zip of 'Playing for Data'"),
    ),
    "synthia": (
        Layout("RGB", "GT/LABELS", published="synthia", source="SYNTHIA_RAND_CITYSCAPES.rar"),
        Layout("RAND_CITYSCAPES/RGB", "RAND_CITYSCAPES/GT/LABELS", published="synthia"),
    ),
    "cityscapes": (
        Layout("leftImg8bit/{split}", "gtFine/{split}",
               lambda name: name.removesuffix("_leftImg8bit.png") + "_gtFine_labelIds.png", "_leftImg8bit.png",
               published="cityscapes", source="leftImg8bit_trainvaltest.zip and gtFine_trainvaltest.zip"),
    ),
    "camvid": (
        Layout("images", "labels", published="camvid", train_is="even", val_is="odd", source=_CAMVID_SOURCE),
        Layout("{split}", "{split}annot", published="camvid"),
    ),
    "folder": (Layout(".", None, source="a folder of PNG or JPEG pictures"),),
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

    Errors name what is missing and where it comes from: root, image or label folder, split, a listed picture, a label.
    """
    root = Path(root)
    if Path(split).name != split:
        raise ValueError(f"Got split {split!r}, wanted a plain name such as 'train'. Lists are given as list_file=...")
    if not root.is_dir():
        raise FileNotFoundError(
            f"No folder {str(root)!r} (asked for as {name}:{root}). "
            + (f"The nearest that exists is {str(near)!r}. " if (near := _nearest_existing(root)) else "")
            + f"Check the path, or unpack {_forms(name)[0].source} there."
        )
    form, images = _form_on_disk(name, root, split)
    found = _pictures(images, form.image_ending)
    if not found:
        raise FileNotFoundError(
            f"No pictures in {str(images)!r} (wanted *{form.image_ending or ' or *'.join(PICTURES)}). "
            f"Check that {_forms(name)[0].source} was unpacked there."
        )
    listing = _list_file(form, root, split, list_file)
    names = _listed(listing, found, images) if listing else _unlisted(name, form, root, split, found)
    if form.labels is None or not labelled:
        return [Pair(n, images / n, None) for n in names]
    return _with_labels(name, form, root, split, images, names)


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
    beside = sorted(p.name for p in root.iterdir() if p.is_dir())
    message = f"{name} wants the image folder {tried} in {str(root)!r}, which has {_some(beside) or 'no folders'}. "
    splits = [f.name for form in forms for f in _split_folders(root, form)]
    if splits:
        raise ValueError(f"{message}Split {split!r} is not there; choose one of: {_some(splits)}.")
    inner = [p for p in root.glob("*") if any((p / f.images.split("/")[0]).is_dir() for f in forms)]
    hint = f"Did you mean {name}:{inner[0]}?" if inner else f"Unpack {forms[0].source} there."
    raise FileNotFoundError(message + hint)


def _split_folders(root: Path, form: Layout) -> list[Path]:
    if "{split}" not in form.images:
        return []
    above = root / form.images.replace("{split}", "")
    labels = str(form.labels)
    return [
        p for p in (sorted(above.iterdir()) if above.is_dir() else [])
        if p.is_dir() and (form.images != "{split}" or (root / labels.format(split=p.name)).is_dir())
    ]  # fmt: skip


def _pictures(folder: Path, ending: str) -> list[str]:
    """Names of all pictures below `folder`, sorted."""
    found: list[str] = []
    for here, folders, files in os.walk(folder, followlinks=True):
        folders[:] = [f for f in folders if not f.startswith(".")]
        inside = "" if here == str(folder) else Path(here).relative_to(folder).as_posix() + "/"
        found += [inside + f for f in files
                  if f.endswith(ending) and f.lower().endswith(PICTURES) and not f.startswith(".")]  # fmt: skip
    return sorted(found)


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
    for path in (Path(asked).expanduser(), root / asked):
        if path.is_file():
            return path
    raise FileNotFoundError(f"No list file {str(asked)!r}, neither as it stands nor in {str(root)!r}. Check its path.")


def _listed(listing: Path, found: list[str], images: Path) -> list[str]:
    """The names in a list file, each of which must be a picture that was found."""
    known = set(found)
    names, unknown = [], []
    for number, line in enumerate(listing.read_text(encoding="utf-8-sig").splitlines(), 1):
        if not line.strip():
            continue
        name = _resolve(line.strip(), known)
        names.append(name)
        if name is None:
            unknown.append((number, line.strip()))
    if unknown:
        number, line = unknown[0]
        raise FileNotFoundError(
            f"{str(listing)!r}, line {number}: no picture {line!r} in {str(images)!r}, which has {len(found)} such as "
            f"{found[0]!r}. {len(unknown)} of {len(names)} listed names are missing: unpack the rest of the data set, "
            "or correct the list (one name a line, as below the image folder)."
        )
    if not names:
        raise ValueError(f"List file {str(listing)!r} is empty. Write one name a line, such as {found[0]!r}.")
    return names


def _resolve(line: str, known: set[str]) -> str | None:
    """The picture a line means: the line itself, or its first column, less leading folders.

    >>> _resolve("/SegNet/CamVid/train/a.png /SegNet/CamVid/trainannot/a.png", {"a.png"})
    'a.png'
    """
    for entry in dict.fromkeys((line, line.split()[0])):
        parts = [p for p in entry.replace("\\", "/").split("/") if p not in ("", ".")]
        if ".." in parts:
            return None
        for start in range(len(parts)):
            tail = "/".join(parts[start:])
            if tail in known:
                return tail
            if tail + ".png" in known:
                return tail + ".png"
    return None


def _with_labels(name: str, form: Layout, root: Path, split: str, images: Path, names: list[str]) -> list[Pair]:
    labels = root / str(form.labels).format(split=split)
    if not labels.is_dir():
        raise FileNotFoundError(
            f"{name}: images are in {str(images)!r}, but there is no label folder {str(labels)!r}. "
            f"Unpack {_forms(name)[0].source}, or open the data set with labelled=False."
        )
    have = set(_pictures(labels, ".png"))
    pairs = [Pair(n, images / n, labels / form.label_name(n)) for n in names]
    missing = [p for p in pairs if form.label_name(p.name) not in have]
    if missing:
        raise FileNotFoundError(
            f"{len(missing)} of {len(pairs)} pictures have no label, the first is {str(missing[0].image)!r}: wanted "
            f"{str(missing[0].label)!r}. Unpack {_forms(name)[0].source}, name the labelled pictures in a list file, "
            "or open the data set with labelled=False."
        )
    return pairs


def _nearest_existing(path: Path) -> Path | None:
    near = next((p for p in path.absolute().parents if p.is_dir()), None)
    return None if near is None or near == near.parent else near


def _some(names: Iterable[str], most: int = 6) -> str:
    names = list(names)
    return ", ".join(repr(n) for n in names[:most]) + (", ..." if len(names) > most else "")
