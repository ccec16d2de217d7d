"""Folder layouts of the data sets: from a root folder and a split to pairs of files.

A picture's *name* is its path below the image folder, as the published list files write it: "00001.png" in GTA5,
"aachen/aachen_000000_000019_leftImg8bit.png" in Cityscapes.

Splits. Where the data set has folders for its splits (Cityscapes, SegNet's CamVid), a split is a folder. Elsewhere:

    a list file      ROOT/<split>.txt or ROOT/<data set>_<split>_list.txt, if there is one, or list_file=...
    "all"            every picture
    "even", "odd"    every second picture in name order, from the first or from the second: two disjoint halves
    a prepared set   has the splits that were prepared
    SPLIT+labelled=20, SPLIT+unlabelled=20    a part of any split (`few_labels`)
    "train", "val"   GTA5, SYNTHIA, folder: "train" is "all" (there is no published validation split, so "val" needs a
                     list file or "odd"); CamVid's images/ + labels/ form: "train" is "even" and "val" is "odd"
"""

from __future__ import annotations

import difflib
import functools
import hashlib
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from course_lib import ranks
from course_lib.data import few_labels, prepared
from course_lib.data.bits import BITS
from course_lib.data.class_counts import class_counts
from course_lib.data.description import EVERY_SECOND, OWN, Description, Form, find, shipped
from course_lib.data.encoding import Table
from course_lib.data.names import PICTURES, given_list, names_in, other_case, pictures_below
from course_lib.data.pairs import Pair, Problem
from course_lib.data.patterns import SPLIT, Pattern
from course_lib.data.reading import JPEG_LABELS
from course_lib.data.unfinished import refuse_unfinished
from course_lib.labels import LabelSpace, label_space
from course_lib.terminal import print

__all__ = ["LAYOUTS", "Pair", "Problem", "default_space", "find_pairs", "label_table", "parse", "survey"]

SHARED = "labels of several pictures"  # kind of problem
_FIRST = ("gta5", "synthia", "cityscapes", "camvid", "folder", "prepared", OWN)
LAYOUTS = (*_FIRST, *(name for name in shipped() if name not in _FIRST))  # prepared: what `uda data prepare` made


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
    if name not in LAYOUTS:
        near = difflib.get_close_matches(name.lower(), LAYOUTS, n=1, cutoff=0.4)
        raise ValueError(
            f"Unknown layout {name!r}. "
            + (f"Did you mean {near[0]!r}? " if near else "")
            + f"Known: {', '.join(LAYOUTS)}."
        )
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
    split, part = few_labels.separate(split)
    only = None if part is None else _of_part(name, root, split, part, list_file)
    return _survey(name, root, split, list_file, labelled, only)


def _of_part(name: str, root: Path, split: str, part: few_labels.Part, list_file: Path | str | None) -> set[str]:
    """The names of the pictures of a part: chosen among all of the split, whichever have a label and can be read."""
    pairs, problems = _survey(name, root, split, list_file, labelled=False)
    names = [pair.name for pair in pairs]
    if problems and not names:  # a list whose names are all wrong: its own error says more than "there are 0 pictures"
        raise FileNotFoundError(problems[0].message)
    if (listing := few_labels.listed(part)) is not None:
        listing = given_list(listing, root)
        chosen, unknown = names_in(listing, names, root)
        chosen = list(dict.fromkeys(chosen))  # a name that is given twice is one picture: it is held out or not
        if unknown:
            number, line = unknown[0]
            raise ValueError(
                f"{str(listing)!r}, line {number}: no picture {line!r} in {name}:{root}@{split}, which has {len(names)} such "
                f"as {names[0]!r}. Correct the list of labelled pictures (one name a line, as below the image folder)."
            )
    else:
        wanted = few_labels.labels_wanted(part.labels, len(names))
        if part.choice == "class-balanced":
            pairs, _ = _survey(name, root, split, list_file, labelled=True)
            space = default_space(name, root)
            if space is None or not pairs:
                raise ValueError(f"{name}:{root} has no labels to choose pictures by. Leave out the choice class-balanced.")
            counts = class_counts(pairs, label_table(name, root, split, space), space.num_classes, f"{name}:{root} ({split})")
            order = few_labels.balanced_order([pair.name for pair in pairs], counts, part.seed)
            few_labels.labels_wanted(part.labels, len(order))  # of those with labels, too, there have to be enough
        else:
            order = few_labels.random_order(names, part.seed)
        chosen = order[:wanted]
    if part.labelled:
        return set(few_labels.kept_of(part, few_labels.random_order(chosen, 0) if listing else chosen))
    if not (others := set(names) - set(chosen)):
        raise ValueError(
            f"All {len(names)} pictures of {name}:{root}@{split} are labelled: no other is left. Choose fewer; "
            "where some pixels of all pictures have labels, write --labels 1/1 --label-pixels 5%."
        )
    return others


def _survey(
    name: str, root: Path, split: str, list_file: Path | str | None, labelled: bool, only: set[str] | None = None
) -> tuple[list[Pair], list[Problem]]:
    """`survey` of a whole split; only: of these names."""
    if Path(split).name != split or split in ("", ".."):
        raise ValueError(f"Got split {split!r}, wanted a plain name such as 'train'. Lists are given as list_file=...")
    if name == "prepared":
        pairs, problems = prepared.survey(root, split, list_file=list_file, labelled=labelled)
        return [pair for pair in pairs if only is None or pair.name in only], problems
    described, root = _described(name, root)
    refuse_unfinished(name, root, split)
    form = _form_on_disk(described, root, split, labelled)
    pattern, images = form.pictures, root / form.pictures.folder
    keys = _keys(described, pattern, images)
    if form.labels is not None and form.labels.folder == pattern.folder:
        # 0_mask.png beside 0.png fits *.png, too: the label of another picture is no picture
        of_pictures, label_key = set(keys.values()), {name: form.labels.key(name) for name in keys}
        keys = {name: key for name, key in keys.items() if label_key[name] in (None, key) or label_key[name] not in of_pictures}
    if not keys:
        ending = pattern.ending.lower()
        if alike := [each for each in pictures_below(images, "") if ending and each.lower().endswith(ending)]:
            raise _case_differs(name, f"ending {pattern.ending!r} of pictures", images, images / alike[0])
        raise FileNotFoundError(
            f"No pictures in {str(images)!r} (wanted *{pattern.ending or ' or *'.join(PICTURES)}). "
            + (described.cure.strip() or f"Check that {described.source} was unpacked there.")
        )
    files, problems = _named(described, form, images, keys)
    found = list(files)
    listing = _list_file(described, form, root, split, list_file)
    names, unknown = names_in(listing, found, images) if listing else (_unlisted(described, form, root, split, found), [])
    names = [each for each in names if only is None or each in only]
    in_lower = {each.lower(): each for each in found} if unknown else {}
    problems += [
        Problem(
            "listed names without picture",
            str(listing),
            f"{str(listing)!r}, line {number}: no picture {line!r} in {str(images)!r}, which has {len(found)} such as "
            f"{in_lower.get(line.lower(), found[0])!r}{' (upper and lower case differ)' * (line.lower() in in_lower)}. "
            f"Unpack the rest of {described.source}, or correct the list (one name a line, as below the image folder).",
        )
        for number, line in unknown
    ]
    if form.labels is None or not labelled:
        if labelled and name == OWN:
            raise FileNotFoundError(
                f"{str(described.file)!r} has no `labels`: enough for a target (labelled=False, --no-labels), not for a source "
                "or for scoring. Write their pattern, and `classes`."
            )
        return [Pair(n, images / files[n], None) for n in names], problems
    labels = root / form.labels.folder
    if not labels.is_dir() and (other := other_case(root, form.labels.folder)):
        raise _case_differs(name, "label folder", labels, other)
    wanted = {n: keys[file] for n, file in files.items()}
    pairs, more = _match_labels(described, form, images, labels, names, files, wanted, listing is not None,
                                whole=not listing and only is None)  # fmt: skip
    return pairs, problems + more


def default_space(name: str, root: Path | str) -> LabelSpace | None:
    """The classes that a data set is looked at in unless others are asked for: its own; None: it has pictures alone."""
    if name == "prepared":
        return label_space(prepared.read_manifest(root).settings.space)
    return find(name, Path(root).expanduser())[0].space


def label_table(name: str, root: Path | str, split: str, space: str | LabelSpace) -> Table | None:
    """The table from the values of a split's label files to train ids (`data.encoding`); None: the data set has no labels."""
    root, split = Path(root).expanduser(), few_labels.plain(split)
    if name == "prepared":
        return prepared.stored_table(prepared.read_manifest(root).settings.space, space)
    described, _ = find(name, root)
    tables, errors = {}, []
    for encoding in dict.fromkeys(form.encoding for form in described.forms if form.encoding):
        try:
            tables[encoding] = encoding.table(space)
        except ValueError as error:
            errors.append(error)
    if errors and not tables:
        raise errors[0]
    if len(tables) + len(errors) < 2:
        return next(iter(tables.values()), None)
    described, root = _described(name, root)  # which of them is on disk?
    encoding = _form_on_disk(described, root, split, labelled=True).encoding
    return tables[encoding] if encoding in tables else encoding.table(space)


def bits_of(name: str, root: Path | str, bits: int) -> int:
    """`bits`, or what dataset.toml says where that is the default."""
    return find(name, Path(root).expanduser())[0].bits if name != "prepared" and bits == BITS else bits


def mapping_of(name: str, root: Path | str) -> str:
    """A short hash of what a user's dataset.toml says of its label files; "" for other sets, where the layout says it."""
    if name != OWN:
        return ""
    encodings = [form.encoding for form in find(name, Path(root).expanduser())[0].forms]
    return hashlib.sha256(repr(encodings).encode()).hexdigest()[:12]


def _described(name: str, root: Path) -> tuple[Description, Path]:
    """The description of a data set and the folder that it is in; FileNotFoundError without that folder."""
    described, folder = find(name, root)
    if not folder.is_dir():
        what = "is no folder" if folder.exists() else "is not there"
        raise FileNotFoundError(
            f"No folder {str(folder)!r} (asked for as {name}:{root}): it {what}. "
            + (f"There is {str(other)!r}: upper and lower case differ. " if (other := _other_root(folder)) else "")
            + (f"The nearest that exists is {str(near)!r}. " if (near := _nearest_existing(folder)) else "")
            + f"Check the path, or unpack {described.archives} there.{described.cure}"
        )
    return described, folder


def _of_split(form: Form, split: str) -> Form:
    """The form with {split} replaced."""
    if not form.pictures.has_split:
        return form
    word = dict(form.splits).get(split, split)
    labels = None if form.labels is None else form.labels.of(word)
    return replace(form, pictures=form.pictures.of(word), labels=labels, is_split=True)


def _form_on_disk(described: Description, root: Path, split: str, labelled: bool) -> Form:
    """Which form of the data set lies there, for this split: of those with pictures the first that has labels, too."""
    forms = [
        _of_split(form, split) for form in described.forms
        if not (form.pictures.has_split and form.splits) or split in dict(form.splits)
    ]  # fmt: skip
    if not forms:
        splits = [name for form in described.forms for name, _ in form.splits]
        raise ValueError(f"{described.name}:{root} has no split {split!r}; choose one of: {_some(splits, 30)}.")
    there = [form for form in forms if (root / form.pictures.folder).is_dir()]
    having = [form for form in there if _keys(described, form.pictures, root / form.pictures.folder)] if forms[1:] else there
    if labelled and len(having) > 1:
        for form in having:
            if _has_a_pair(described, form, root):
                if form.note:
                    _say_once(described.name, root, form.note)
                return form
    if having or there:
        return (having or there)[0]
    name = described.name
    tried = " or ".join(dict.fromkeys(repr(form.pictures.folder + "/") for form in forms))
    for form in forms:
        if other := other_case(root, form.pictures.folder):
            raise _case_differs(name, "image folder", root / form.pictures.folder, other)
    beside = sorted(p.name for p in root.iterdir() if p.is_dir())
    message = f"{name} wants the image folder {tried} in {str(root)!r}, which has {_some(beside) or 'no folders'}. "
    splits = sorted({word for form in described.forms for word in _split_folders(root, form)})
    if splits:
        raise ValueError(
            f"{message}Split {split!r} is not there; choose one of: {_some(splits)}; or unpack {described.source}."
            f"{described.cure}"
        )
    inner = [p for p in root.glob("*") if any((p / f.pictures.folder.split("/")[0]).is_dir() for f in forms)]
    hint = f"Did you mean {name}:{inner[0]}?" if inner else f"Unpack {described.source} there.{described.cure}"
    raise FileNotFoundError(message + hint)


def _has_a_pair(described: Description, form: Form, root: Path) -> bool:
    """Whether some picture of the form has its label there."""
    patterns = [pattern for pattern in (form.pictures, form.labels) if pattern is not None and (root / pattern.folder).is_dir()]
    keys = [set(_keys(described, pattern, root / pattern.folder).values()) for pattern in patterns]
    if form.by_name:
        keys = [{key[-1] for key in each} for each in keys]
    return len(keys) == 2 and not keys[0].isdisjoint(keys[1])


def _keys(described: Description, pattern: Pattern, folder: Path) -> dict[str, tuple[str, ...]]:
    """{name below `folder`: key} of the files that fit."""
    names = pictures_below(folder, pattern.ending, refuse_circles=described.name == OWN)
    return {name: key for name in names if (key := pattern.key(name)) is not None}


def _named(
    described: Description, form: Form, images: Path, keys: dict[str, tuple[str, ...]]
) -> tuple[dict[str, str], list[Problem]]:
    """{name of a picture: its file below the image folder}: the same, or the file's name alone where labels are found by it."""
    if not form.by_name:
        return {name: name for name in keys}, []
    files: dict[str, list[str]] = {}
    for name in keys:
        files.setdefault(name.rpartition("/")[2], []).append(name)
    twice = {name: found for name, found in files.items() if len(found) > 1}
    problems = [
        Problem(
            "pictures of one file name",
            str(images / found[0]),
            f"{len(found)} pictures are called {name!r}: {_some(str(images / each) for each in found)}. In {described.name} "
            "labels are found by the file's name, which has to be there once. Remove what was unpacked twice.",
        )
        for name, found in twice.items()
    ]
    return {name: files[name][0] for name in sorted(files) if name not in twice}, problems


@functools.cache  # a data set is opened more than once
def _say_once(name: str, root: Path, note: str) -> None:
    if ranks.is_main():
        print(f"note: {name}:{root}: {note}.", file=sys.stderr)


def _case_differs(name: str, what: str, wanted: Path, there: Path) -> FileNotFoundError:
    return FileNotFoundError(
        f"{name} wants the {what} {str(wanted)!r}, and there is {str(there)!r}: upper and lower case differ. Rename it."
    )


def _split_folders(root: Path, form: Form) -> Iterator[str]:
    """What {split} can stand for: names that have pictures, and labels where the split is the first part of their path."""
    if not form.pictures.has_split or form.splits:
        return
    above, part, rest = form.pictures.text.partition(SPLIT)
    folder = root / above.rpartition("/")[0]
    begins = above.rpartition("/")[2]
    after = re.match(r"[^/*]*", rest)[0]
    for path in sorted(folder.iterdir()) if folder.is_dir() else []:
        word = path.name.removeprefix(begins).removesuffix(after)
        if path.name == f"{begins}{word}{after}" and word and path.is_dir():
            labels = "" if form.labels is None else form.labels.text.replace(SPLIT, word)
            if above or form.labels is None or (root / Pattern(labels).folder).is_dir():
                yield word


def _unlisted(described: Description, form: Form, root: Path, split: str, found: list[str]) -> list[str]:
    """The pictures of a split that no list file describes."""
    if form.is_split:
        return found  # the folder is the split
    name = described.name
    rule = dict(form.splits).get(split, "all" if split == "train" else split)
    chosen = {"all": found, "even": found[::2], "odd": found[1::2]}.get(rule)
    if chosen is None:
        lists = " or ".join(repr(n) for n in _list_names(described, split))
        raise ValueError(
            f"{name}:{root} has no split {split!r}. Write its names to {lists} there, or give a list file, or choose "
            "'all', or one of the halves 'even' and 'odd' (every second picture in name order)."
        )
    if not chosen:
        raise ValueError(f"Split {split!r} of {name}:{root} is empty: {len(found)} picture in all. Choose 'all'.")
    return chosen


def _list_names(described: Description, split: str) -> list[str]:
    return [f"{split}.txt"] + [f"{described.published}_{split}_list.txt"] * bool(described.published)


def _list_file(described: Description, form: Form, root: Path, split: str, asked: Path | str | None) -> Path | None:
    if asked is not None:
        return given_list(asked, root)
    word = dict(form.splits).get(split)
    if word is not None and not form.is_split:
        if word not in EVERY_SECOND:
            return given_list(root / word, root)
        if described.name == OWN:  # its dataset.toml says what the split is, whatever lists other tools have left there
            return None
    return next((root / n for n in _list_names(described, split) if (root / n).is_file()), None)


def _match_labels(
    described: Description,
    form: Form,
    images: Path,
    labels: Path,
    names: Sequence[str],
    files: dict[str, str],
    keys: dict[str, tuple[str, ...]],
    listed: bool,
    whole: bool,
) -> tuple[list[Pair], list[Problem]]:
    """Pairs of `names`; a label file that belongs to none of the pictures `files` is a problem too, if they are the `whole`.

    listed: a list names them, and so says which of several pictures a label is of.
    """
    source = described.label_source or described.source
    if not labels.is_dir():
        raise FileNotFoundError(
            f"{described.name}: images are in {str(images)!r}, but there is no label folder {str(labels)!r}. Unpack {source}. "
            "Without labels it can be the target of a training (labelled=False), not its source, and cannot be scored on."
            f"{described.cure}"
        )
    have = _keys(described, form.labels, labels)
    by_name: dict[str, list[str]] = {}
    for label in have if form.by_name else ():
        by_name.setdefault(label.rpartition("/")[2], []).append(label)

    def label_of(name: str) -> str:
        if not form.by_name:
            return form.labels.name(keys[name])
        file = Pattern(form.labels.text.rpartition("/")[2]).name(keys[name][-1:])
        return by_name.get(file, [file])[0]

    label_of = {n: label_of(n) for n in files}
    twice = {found[0]: found for found in by_name.values() if len(found) > 1}
    everything = pictures_below(labels, "")
    in_lower = {each.lower(): each for each in everything}
    jpegs = {each.rpartition(".")[0]: each for each in everything if each.lower().endswith((".jpg", ".jpeg"))}
    pairs = [Pair(n, images / files[n], labels / label_of[n]) for n in names]
    problems = [
        Problem(
            "pictures without label",
            str(p.image),
            f"Picture {str(p.image)!r} has no label: wanted {str(p.label)!r}. "
            f"{_alike(label_of[p.name], labels, in_lower, jpegs)}Unpack {source}, name the labelled pictures in a list file, "
            "leave such pictures out (--skip-bad), or open the "
            f"data set with labelled=False.{described.cure}",
        )
        for p in pairs
        if label_of[p.name] not in have
    ]
    problems += [
        Problem(
            "labels of one file name",
            str(labels / found[0]),
            f"{len(found)} labels are called {first.rpartition('/')[2]!r}: {_some(str(labels / each) for each in found)}. In "
            f"{described.name} labels are found by the file's name, which has to be there once. Move the wrong ones away.",
        )
        for first, found in twice.items()
        if any(label_of[n] == first for n in names)
    ]
    alone = sorted(have.keys() - set(label_of.values()) - {each for found in twice.values() for each in found}) if whole else []
    problems += [
        Problem(
            "labels without picture",
            str(labels / n),
            f"Label {str(labels / n)!r} has no picture in {str(images)!r}, so a part of the pictures is not there. Unpack "
            f"{described.source}, name the pictures that you want in a list file, or leave such labels out (--skip-bad)."
            f"{described.cure}",
        )
        for n in alone
    ]
    pictures_of: dict[str, set[str]] = {}
    for n in names if listed else files:  # without a list also those of the other half: 0.jpg in one and 0.png in the other
        pictures_of.setdefault(label_of[n], set()).add(n)
    ours = {label_of[n] for n in names}
    shared = {name: sorted(pictures_of[name]) for name in ours & have.keys() if len(pictures_of[name]) > 1}
    problems += [
        Problem(
            SHARED,
            str(labels / n),
            f"The pictures {' and '.join(map(repr, others))} share the label {str(labels / n)!r}, which can be right for one "
            "of them alone. Rename the others, name the wanted ones in a list file, or leave all out (--skip-bad).",
        )
        for n, others in sorted(shared.items())
    ]
    unclear = shared.keys() | twice.keys()
    return [p for p in pairs if label_of[p.name] in have and label_of[p.name] not in unclear], problems


def _alike(wanted: str, labels: Path, in_lower: dict[str, str], jpegs: dict[str, str]) -> str:
    if (jpeg := jpegs.get(wanted.rpartition(".")[0])) is not None:
        return f"There is {str(labels / jpeg)!r}, which cannot be used: {JPEG_LABELS}. Or: "
    other = in_lower.get(wanted.lower())
    return "" if other is None else f"There is {str(labels / other)!r}: upper and lower case differ; rename it. Or: "


def _other_root(root: Path) -> Path | None:
    near = _nearest_existing(root)
    return None if near is None else other_case(near, root.absolute().relative_to(near).as_posix())


def _nearest_existing(path: Path) -> Path | None:
    near = next((p for p in path.absolute().parents if p.is_dir()), None)
    return None if near is None or near == near.parent else near


def _some(names: Iterable[str], most: int = 6) -> str:
    names = list(names)
    return ", ".join(repr(n) for n in names[:most]) + (", ..." if len(names) > most else "")
