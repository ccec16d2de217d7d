"""`dataset.toml`: what a data set consists of, in words that a person can write (docs/own_data.md).

The data sets that the library knows are described in the same words, in `sets/*.toml` beside this file.
"""

from __future__ import annotations

import colorsys
import difflib
import functools
import re
import tomllib
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from course_lib.data.bits import BITS, check_bits
from course_lib.data.encoding import MOST_IDS, Encoding, known_encodings
from course_lib.data.patterns import SPLIT, Pattern
from course_lib.data.reading import JPEG_LABELS
from course_lib.files import open_regular
from course_lib.labels import IGNORE, MOST_CLASSES, LabelSpace, label_space, own_space, same_class
from course_lib.registry import find_named

FILE = "dataset.toml"
OWN = "own"  # the layout: own:PATH
SETS = Path(__file__).parent / "sets"
MOST = 2**20  # bytes of a description
EVERY_SECOND = ("all", "even", "odd")  # what a split may be where it is no part of a path
FORM_KEYS = ("pictures", "labels", "pair_by", "classes", "ignore", "splits", "note")
KEYS = (*FORM_KEYS, "folder", "bits", "colours", "forms", "space", "source", "label_source", "published")
FILE_NAME = "file name"  # of pair_by


@dataclass(frozen=True)
class Form:
    """One way in which a data set lies on disk."""

    pictures: Pattern
    labels: Pattern | None  # None: pictures alone
    encoding: Encoding | None  # likewise
    by_name: bool = False  # a label belongs to the picture of the same file name, whatever the folders
    splits: tuple[tuple[str, str], ...] = ()  # split -> what stands for {split}, or one of EVERY_SECOND, or a list file
    note: str = ""  # printed once, where this form is read
    is_split: bool = False  # {split} has been replaced in the patterns


@dataclass(frozen=True)
class Description:
    """A data set: its forms, of which the first that is on disk counts."""

    name: str
    forms: tuple[Form, ...]
    space: LabelSpace | None  # its classes, or those in which it is looked at; None: pictures alone
    bits: int = BITS
    source: str = "its files"  # what to unpack, for error messages ...
    label_source: str = ""  # ... and for labels, where that is another archive
    published: str = ""  # "gtav": the published lists are called gtav_train_list.txt
    file: Path | None = None  # the user's; None: it came with the library
    root: Path | None = None  # the folder that the user's file describes

    @property
    def archives(self) -> str:
        """What has to be unpacked for pictures and labels, in words."""
        return self.source + (f" and {self.label_source}" if self.label_source else "")

    @property
    def cure(self) -> str:
        """What else helps, as the end of a message."""
        return "" if self.file is None else f" The files are described in {str(self.file)!r}: correct its patterns."


@functools.cache
def shipped() -> dict[str, Description]:
    """The descriptions that the library ships, by layout."""
    return {path.stem: read(path) for path in sorted(SETS.glob("*.toml"))}


def find(name: str, root: Path) -> tuple[Description, Path]:
    """The description of a layout, and the folder with its files: of `own`, what dataset.toml in or beside `root` says."""
    if name != OWN:
        return shipped()[name], root
    description = read(own_file(root))
    return description, description.root


def own_file(path: Path) -> Path:
    """The dataset.toml of own:PATH: PATH itself, in the folder PATH, or beside it with `folder = "NAME"`."""
    if path.is_file() or path.suffix == ".toml":
        return path
    inside, beside = path / FILE, path.absolute().parent / FILE
    if inside.is_file() or inside.is_symlink():
        return inside
    if beside.is_file() and read(beside).root.resolve() == path.resolve():
        return beside
    what = f"Write one with `uda data describe {path}`, then look it through." if path.is_dir() else "There is no such folder."
    raise FileNotFoundError(
        f"No {FILE} in {str(path)!r}, nor one beside it that says folder = {path.name!r} (asked for as {OWN}:{path}). {what}"
    )


def read(path: Path) -> Description:
    """The description in a file; ValueError or OSError that names the file, what came, what was wanted."""
    try:
        return _description(path, _content(path))
    except FileNotFoundError as error:
        raise FileNotFoundError(f"No file {str(path)!r}. Write one with `uda data describe FOLDER`.") from error
    except OSError as error:
        raise OSError(
            f"Cannot read {str(path)!r} ({error.strerror or error}). Check its permissions; a link has to end at a file."
        ) from error
    except (ValueError, RecursionError) as error:
        message = "it is nested too deeply." if isinstance(error, RecursionError) else " ".join(str(error).split())
        raise ValueError(f"{str(path)!r} cannot be used as the description of a data set: {message}") from error


def _content(path: Path) -> dict[str, Any]:
    with open_regular(path) as file:
        data = file.read(MOST + 1)
    if len(data) > MOST:
        raise ValueError(f"it has more than {MOST // 1024} kB. Is it another file?")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"it is no UTF-8 text ({error}). Save it as UTF-8 in your editor.") from error
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        twice = " (a name is there twice)" if "overwrite" in str(error) else ""
        raise ValueError(f"it is no TOML ({error}){twice}. See docs/own_data.md for an example.") from error


def _description(path: Path, content: dict[str, Any]) -> Description:
    _check_keys(content, KEYS, "")
    own = path.parent != SETS
    forms = _typed(content, "forms", list, [{}])
    if not forms:
        raise ValueError("`forms` is empty. Leave it out, or write one or more [[forms]].")
    merged = []
    for number, form in enumerate(forms, start=1):
        if not isinstance(form, dict):
            raise ValueError(f"`forms` number {number} is {form!r:.60}, wanted a table: [[forms]].")
        _check_keys(form, FORM_KEYS, f" in `forms` number {number}")
        merged.append({key: content[key] for key in FORM_KEYS if key in content} | form)
    colours = _typed(content, "colours", dict, {})
    spaces, read_forms = [], []
    for form in merged:
        encoding, space = _classes(form, colours)
        read_forms.append(_form(form, encoding))
        spaces += [space] if space is not None else []
    if len(set(spaces)) > 1 and "space" not in content:
        raise ValueError("its forms have different classes. Write one [classes], or `space`: the classes that all are read as.")
    if "space" in content:
        spaces = [label_space(_typed(content, "space", str, ""))]
    folder = _typed(content, "folder", str, ".")
    if PurePosixPath(folder).is_absolute() or ".." in PurePosixPath(folder).parts or "\\" in folder or ":" in folder:
        raise ValueError(f"`folder` is {folder[:80]!r}, wanted the name of a folder beside {path.name}, without '..'.")
    bits = check_bits(_typed(content, "bits", int, BITS))
    texts = {key: _typed(content, key, str, "") for key in ("source", "label_source", "published")}
    return Description(
        OWN if own else path.stem,
        tuple(read_forms),
        spaces[0] if spaces else None,
        bits,
        texts["source"] or "its files",
        texts["label_source"],
        texts["published"],
        path if own else None,
        path.parent / folder if own else None,
    )


def _check_keys(content: dict[str, Any], known: tuple[str, ...], where: str) -> None:
    for key in content:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            mean = f"Did you mean `{near[0]}`? " if near else ""
            raise ValueError(f"there is no key `{key[:60]}`{where}. {mean}Known: {', '.join(known)}.")


_WORDS = {list: "a list", dict: "a table", str: "a text in quotes", int: "a whole number"}


def _typed(content: dict[str, Any], key: str, kind: type, default: Any) -> Any:
    value = content.get(key, default)
    if not isinstance(value, kind) or isinstance(value, bool):
        raise ValueError(f"`{key}` is {value!r:.60}, wanted {_WORDS[kind]}.")
    return value


def _form(content: dict[str, Any], encoding: Encoding | None) -> Form:
    if "pictures" not in content:
        raise ValueError("`pictures` is missing: the pattern of the picture files, such as 'images/**/*.png'.")
    pictures = Pattern(_typed(content, "pictures", str, ""))
    labels = Pattern(content["labels"]) if _typed(content, "labels", str, "") else None
    pair_by = _typed(content, "pair_by", str, "wildcards")
    if pair_by not in ("wildcards", FILE_NAME):
        raise ValueError(f"`pair_by` is {pair_by[:60]!r}, wanted 'wildcards' or {FILE_NAME!r}.")
    if labels is not None:
        if labels.ending.lower().endswith((".jpg", ".jpeg")):
            raise ValueError(f"`labels` is {labels.text!r}. {JPEG_LABELS}, and give their pattern.")
        if encoding is None:
            raise ValueError("there are `labels`, but no `classes`: say which id or colour is which class.")
        if pair_by == "wildcards" and pictures.wildcards != labels.wildcards:
            raise ValueError(
                f"`pictures` has {pictures.wildcards} wildcards and `labels` has {labels.wildcards}. What they stand for says "
                f"which label belongs to which picture: write as many in both, or pair_by = {FILE_NAME!r}."
            )
        if pair_by == FILE_NAME and any(pattern.text.rpartition("/")[2].count("*") != 1 for pattern in (pictures, labels)):
            raise ValueError(f"with pair_by = {FILE_NAME!r} the name of the file has one *, in `pictures` and in `labels`.")
        if pictures.has_split and not labels.has_split:
            raise ValueError(f"`pictures` has {SPLIT} and `labels` has not. Write it in both.")
    splits = []
    for split, word in _typed(content, "splits", dict, {}).items():
        if not isinstance(word, str) or not word or ".." in word.split("/") or word.startswith(("/", "~")) or "\\" in word:
            wanted = f"what stands for {SPLIT}" if pictures.has_split else "'all', 'even', 'odd' or a list file"
            raise ValueError(f"`splits.{split}` is {word!r:.60}, wanted {wanted}, below the folder of the data set.")
        if PurePosixPath(split).name != split or "@" in split:
            raise ValueError(f"the split {split[:60]!r} is no plain name, such as 'train'.")
        for pattern in (pictures, labels) if pictures.has_split and labels is not None else (pictures,):
            pattern.of(word)
        splits.append((split, word))
    return Form(pictures, labels, encoding, pair_by == FILE_NAME, tuple(splits), _typed(content, "note", str, ""))


def _classes(content: dict[str, Any], colours: dict[str, Any]) -> tuple[Encoding | None, LabelSpace | None]:
    """How the labels of a form are written, and the classes they hold; None, None: there are none."""
    classes = content.get("classes")
    if classes is None:
        return None, None
    if isinstance(classes, str):
        known = known_encodings()
        find_named("`classes`", classes, known)
        ignore, ignored_kind = _values("ignore", content.get("ignore", []))
        kind = "colours" if known[classes].kind == "colours" else "ids"
        if ignore and ignored_kind != kind:
            raise ValueError(f"`ignore` has {ignored_kind}, and the labels are {classes!r}: write {kind} there.")
        encoding = Encoding(known[classes].kind, known[classes].known, (), (*known[classes].ignore, *ignore))
        return encoding, label_space(encoding.space)
    if not isinstance(classes, dict) or not classes:
        raise ValueError(f"`classes` is {classes!r:.60}, wanted a table of lines `name = id` or `name = '#rrggbb'`.")
    if len(classes) > MOST_CLASSES:
        raise ValueError(
            f"`classes` has {len(classes)} classes, wanted at most {MOST_CLASSES}: a train id is one byte, and 255 is ignored."
        )
    found: dict[int, str] = {}
    kinds = set()
    for name, given in classes.items():
        values, kind = _values(f"classes.{name}", given)
        kinds.add(kind)
        for value in values:
            if value in found:
                what = f"the colour #{value:06x}" if kind == "colours" else f"the id {value}"
                raise ValueError(f"{what} is there twice: as {found[value]!r} and as {name!r}.")
            found[value] = name
    if len(kinds) > 1:
        raise ValueError("`classes` has ids and colours. A label file holds either: write one kind.")
    (kind,) = kinds
    default = [IGNORE] if kind == "ids" and IGNORE not in found else []
    ignore, ignored_kind = _values("ignore", content.get("ignore", default))
    if ignore and ignored_kind != kind:
        raise ValueError(f"`ignore` has {ignored_kind} and `classes` has {kind}. A label file holds either: write one kind.")
    if both := [found[value] for value in ignore if value in found]:
        raise ValueError(f"the class {both[0]!r} is ignored, too. Take it out of `classes` or of `ignore`.")
    return Encoding(kind, "", tuple(found.items()), ignore), own_space(_drawn(classes, colours, found, kind))


def _values(key: str, given: Any) -> tuple[tuple[int, ...], str]:
    """Ids or colours 0xRRGGBB of one key, and which they are."""
    values = given if isinstance(given, list) else [given]
    found, kinds = [], set()
    for value in values:
        if isinstance(value, str) and re.fullmatch("#[0-9a-fA-F]{6}", value):
            found.append(int(value[1:], 16))
            kinds.add("colours")
        elif isinstance(value, int) and not isinstance(value, bool) and 0 <= value < MOST_IDS:
            found.append(value)
            kinds.add("ids")
        else:
            raise ValueError(
                f"`{key}` is {value!r:.60}, wanted an id from 0 to {MOST_IDS - 1}, a colour such as '#804080', or a list."
            )
    if len(kinds) > 1 or (key.startswith("classes") and not found):
        raise ValueError(f"`{key}` is {given!r:.60}, wanted ids or colours, one or more of one kind.")
    return tuple(dict.fromkeys(found)), next(iter(kinds), "ids")


def _drawn(
    classes: dict[str, Any], colours: dict[str, Any], found: dict[int, str], kind: str
) -> list[tuple[str, tuple[int, int, int]]]:
    """Each class with the colour that it is drawn in: the given one, else that of its labels, else one of a colour circle."""
    wanted = {}
    for name, given in colours.items():
        values, kind_of_colour = _values(f"colours.{name}", given)
        if kind_of_colour != "colours" or len(values) != 1:
            raise ValueError(f'`colours.{name}` is {given!r:.60}, wanted a colour such as "#804080".')
        known = {same_class(each): each for each in classes}
        if same_class(name) not in known:
            near = difflib.get_close_matches(name, list(classes), n=1)
            mean = f" Did you mean {near[0]!r}?" if near else ""
            raise ValueError(f"`colours` has {name[:60]!r}, which is no class.{mean}")
        if (other := wanted.setdefault(values[0], same_class(name))) != same_class(name):
            raise ValueError(f"`colours` has the colour #{values[0]:06x} twice: for {known[other]!r} and for {name!r}.")
    by_name = {name: colour for colour, name in wanted.items()}
    drawn = []
    for number, name in enumerate(classes):
        colour = by_name.get(same_class(name))
        if colour is None and kind == "colours":
            colour = next(value for value, of in found.items() if of == name)
        drawn.append((name, tuple(colour.to_bytes(3)) if colour is not None else circle(number)))
    return drawn


def circle(number: int) -> tuple[int, int, int]:
    """A colour for class `number`: hues a golden angle apart, so that neighbours differ.

    >>> circle(0), circle(1) != circle(2)
    ((230, 46, 46), True)
    """
    red, green, blue = colorsys.hsv_to_rgb(number * 0.618034 % 1, 0.8 - 0.3 * (number // 8 % 2), 0.9 - 0.25 * (number // 4 % 2))
    return round(255 * red), round(255 * green), round(255 * blue)
