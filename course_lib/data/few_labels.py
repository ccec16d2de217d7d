"""Few labels: a part of a split is labelled, the rest is not; which pictures, and which pixels of them.

A part is written behind the split, as +labelled=HOW or +unlabelled=HOW, with what differs from the defaults:

    cityscapes:PATH@train+labelled=20                      20 pictures;   +unlabelled=20: all others
    cityscapes:PATH@train+labelled=1/30+seed=2             a share, rounded up as in published splits: 100 of 2975
    cityscapes:PATH@train+labelled=20+choice=class-balanced
    cityscapes:PATH@train+labelled=lists/labelled.txt      the pictures that a list file names, one a line
    cityscapes:PATH@train+labelled=20+pixels=5%            of each class of a picture that share of its pixels (ReCo's mode)
    cityscapes:PATH@train+labelled=20+without=1/5          16 of the 20;   +held=1/5: the other 4, on which is chosen

No character of it has a meaning for a shell, and a folder of this name is read as a folder. A choice is an order of all
pictures, of which the first are labelled: 20 are among 50. It depends on the seed, on the names below the image folder and, for
"class-balanced", on the labels alone.

Letters: F pictures, C classes, (H, W) a label's size.
"""

from __future__ import annotations

import hashlib
import math
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Literal

import numpy as np

from course_lib.data.transforms import nearest
from course_lib.labels import IGNORE
from course_lib.typed import COUNT, checked, in_range

Choice = Literal["random", "class-balanced"]
MANY = 12  # [code] ReCo: labelled Cityscapes pictures show at least so many classes
_PART = re.compile(r"(?P<split>.*?)\+(?P<side>labelled|unlabelled)=(?P<rest>.*)", re.DOTALL)
_OPTION = re.compile(r"\+(seed|choice|pixels|without|held)=([^+]*)$")


@dataclass(frozen=True)
class Part:
    """Which pictures of a split: the labelled ones or the others."""

    labelled: bool
    labels: str  # how many, "20"; which share, "1/30"; or a list file
    seed: int = 0
    choice: Choice = "random"
    pixels: str = "all"  # that keep their label, of each class in a picture: "all", "1" or a share, "5%"
    without: str = ""  # this share of the labelled pictures is held out, "1/5" ...
    held: str = ""  # ... and this is the share that is held out

    def __post_init__(self) -> None:
        in_range(self, seed=COUNT)
        checked(Choice, self.choice, "the choice of labelled pictures")
        pixel_share(self.pixels)
        if self.without and self.held:
            raise ValueError(f"{self.text} has without= and held=; give one of them.")
        for share in filter(None, (self.without, self.held)):
            if not self.labelled:
                raise ValueError(f"{self.text}: of labelled pictures alone a share is held out. Leave without= and held= out.")
            held_share(share)
        if not _is_number(self.labels):
            if self.choice != "random":
                raise ValueError(f"The list {self.labels!r} says which pictures are labelled: leave out choice={self.choice}.")
            if self.seed and self.pixels == "all":
                raise ValueError(f"The list {self.labels!r} says which pictures are labelled: leave out the seed {self.seed}.")

    @property
    def text(self) -> str:
        """What is written behind the split.

        >>> Part(True, "20", seed=1).text, Part(False, "1/30").text
        ('+labelled=20+seed=1', '+unlabelled=1/30')
        """
        plain = {"seed": (self.seed, 0), "choice": (self.choice, "random"), "pixels": (self.pixels, "all")}
        plain |= {"without": (self.without, ""), "held": (self.held, "")}
        others = "".join(f"+{name}={value}" for name, (value, default) in plain.items() if value != default)
        return f"+{'' if self.labelled else 'un'}labelled={self.labels}{others}"


def held_share(share: str) -> float:
    """Of the labelled pictures, as a number: 0.2 for "1/5". ValueError for a text that is no share between 0 and 1.

    >>> held_share("1/5")
    0.2
    """
    if not _is_number(share) or "/" not in share or not 0 < _share(share) < 1:
        raise ValueError(f"The share that is held out is {share!r}; wanted one above 0 and below 1, such as 1/5.")
    return float(_share(share))


def separate(split: str) -> tuple[str, Part | None]:
    """The split and the part of it.

    >>> separate("train+labelled=20"), separate("train")
    (('train', Part(labelled=True, labels='20', seed=0, choice='random', pixels='all', without='', held='')), ('train', None))
    """
    if (found := _PART.fullmatch(split)) is None:
        return split, None
    rest, options = found["rest"], {}
    while (option := _OPTION.search(rest)) is not None:
        if option[1] in options:
            raise ValueError(f"{split!r} has {option[1]}= twice; give it once.")
        options[option[1]], rest = option[2], rest[: option.start()]
    if "seed" in options:
        if not re.fullmatch("[0-9]{1,18}", options["seed"]):
            raise ValueError(f"The seed of labelled pictures is {options['seed']!r}; it wants a whole number, 0 or more.")
        options["seed"] = int(options["seed"])
    return found["split"], Part(found["side"] == "labelled", rest, **options)


def plain(split: str) -> str:
    """The split without a part.

    >>> plain("train+labelled=20")
    'train'
    """
    return separate(split)[0]


def behind(text: str) -> tuple[str, str]:
    """("LAYOUT:PATH@SPLIT", "+labelled=...") of a data set's text; the second "" without a part, or where it names a folder.

    >>> behind("cityscapes:/data/cs@train+labelled=1/30")
    ('cityscapes:/data/cs@train', '+labelled=1/30')
    """
    found = re.fullmatch(r"(.*@[^@/\\]*?)(\+(?:un)?labelled=.*)", text, re.DOTALL)
    if found is None or Path(text.partition(":")[2]).expanduser().is_dir():
        return text, ""
    return found[1], found[2]


def labels_wanted(labels: str, pictures: int) -> int:
    """How many pictures of so many are labelled; a share is rounded up.

    >>> [labels_wanted(text, 2975) for text in ("20", "1/30", "1/8", "1/4")]
    [20, 100, 372, 744]
    """
    if "/" in labels:
        if not 0 < _share(labels) <= 1:
            raise ValueError(f"Labels for {labels} of the pictures: wanted a share above 0 and at most 1, such as 1/30.")
        return math.ceil(_share(labels) * pictures)
    if int(labels) < 1:
        raise ValueError("Labels for 0 pictures: wanted at least 1. Without any label there is nothing to learn from.")
    if int(labels) > pictures:
        raise ValueError(f"Labels for {labels} pictures, and there are {pictures}. Choose {pictures} or fewer.")
    return int(labels)


def kept_of(part: Part, chosen: list[str]) -> list[str]:
    """The labelled pictures of a part, of which some may be held out: the last ones of `chosen`, rounded up.

    >>> [kept_of(Part(True, "3", **{key: "1/5"}), ["a", "b", "c"]) for key in ("without", "held")]
    [['a', 'b'], ['c']]
    """
    if not part.without and not part.held:
        return chosen
    if len(chosen) < 2:
        raise ValueError("1 picture is labelled, and a part of those is held out: it wants at least 2. Choose more labels.")
    first = len(chosen) - math.ceil(_share(part.without or part.held) * len(chosen))
    first = max(1, first)  # never all
    return chosen[:first] if part.without else chosen[first:]


def _share(text: str) -> Fraction:
    """Of "1/5"; "0/5" and "1/0" are 0.

    >>> _share("1/5")
    Fraction(1, 5)
    """
    above, _, below = text.partition("/")
    return Fraction(int(above), int(below)) if int(below or 1) else Fraction(0)


def labels_are_all(labels: str) -> bool:
    """Whether a share is the whole.

    >>> [labels_are_all(text) for text in ("1/1", "1/2", "20", "list.txt")]
    [True, False, False, False]
    """
    return _is_number(labels) and "/" in labels and _share(labels) == 1


def _is_number(labels: str) -> bool:
    return re.fullmatch("[0-9]{1,9}(/[0-9]{1,9})?", labels) is not None


def listed(part: Part) -> str | None:
    """The list file of a part; None: its pictures are chosen. ValueError for what is no number, no share and no file's name."""
    if _is_number(part.labels):
        return None
    if re.fullmatch(r"[-+0-9.,eE/ %]*", part.labels):
        raise ValueError(
            f"Labels for {part.labels!r} pictures: wanted a number such as 20, a share such as 1/30, or a file with a list of "
            "names, one a line."
        )
    return part.labels


# ---- which pictures


def random_order(names: Sequence[str], seed: int) -> list[str]:
    """All names in the order of a hash of seed and name: the same on every machine, wherever the pictures lie.

    >>> random_order(["a.png", "b.png", "c.png"], 0) == random_order(["c.png", "a.png", "b.png"], 0)
    True
    """
    return sorted(names, key=lambda name: _hash(seed, name))


def balanced_order(names: Sequence[str], counts: np.ndarray, seed: int) -> list[str]:
    """Names in an order whose beginning shows every class about equally often; counts (F, C): the pixels of each class.

    Next comes a picture of the class that was shown least often so far, of those that can still be shown: one with at least
    12 classes where there is one, else with the most; of several the first in `random_order`.

    Source: ReCo (ICLR 2022), whose labelled Cityscapes pictures are chosen so that each shows at least 12 classes; the order is
    ours.
    """
    there = counts > 0
    left = sorted(range(len(names)), key=lambda i: (-min(MANY, int(there[i].sum())), _hash(seed, names[i])))
    shown, order = np.zeros(counts.shape[1], dtype=np.int64), []
    while left:
        able = there[left].any(axis=0)
        if able.any():
            c = int(np.where(able, shown, len(names) + 1).argmin())
            i = next(i for i in left if there[i, c])
        else:
            i = left[0]  # without any class
        left.remove(i)
        order.append(names[i])
        shown += there[i]
    return order


def _hash(*parts: int | str) -> str:
    """Names are compared in one Unicode form: macOS writes another one."""
    text = "\n".join(unicodedata.normalize("NFC", str(part)) for part in parts)
    return hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()


# ---- which pixels


def pixel_share(pixels: str) -> float | None:
    """The share of a class's pixels that keep their label: "5%" -> 0.05; "all" -> 1; "1", one pixel -> None.

    >>> pixel_share("5%"), pixel_share("all"), pixel_share("1")
    (0.05, 1.0, None)
    """
    if pixels in ("all", "1"):
        return 1.0 if pixels == "all" else None
    found = re.fullmatch(r"([0-9]{1,3}(?:\.[0-9]{1,6})?)%", pixels)
    if found is None or not 0 < float(found[1]) <= 100:
        raise ValueError(f"Label pixels are {pixels!r}; wanted 1 (one pixel of each class), a share such as 5%, or all.")
    return float(found[1]) / 100


def with_few_pixels(
    label: np.ndarray, pixels: str, seed: int, name: str, size: tuple[int, int] | None = None
) -> np.ndarray:
    """Train ids (H, W) uint8 of which some pixels of each class are left, the others IGNORE; `name` is the picture's.

    Of a share, ceil(share n) of the n pixels of a class stay: a random one, then its neighbours within the class,
    ring by ring; where that region ends, another random one and its neighbours. What is drawn depends on seed, name and class.
    size: (H, W) to which the label will be resized, None: not at all. The pixels are drawn among those that the smaller label
    has; drawn before, three quarters of single pixels would be gone at half the size.

    Source: ReCo (ICLR 2022), partial labels: 1 pixel, 1 %, 5 % or 25 % of each class in a picture.
    """
    share = pixel_share(pixels)
    if share == 1.0:
        return label
    if size is not None:
        kept = np.full_like(label, IGNORE)
        places = np.ix_(*(nearest(old, new).unique().numpy() for old, new in zip(label.shape, size)))
        kept[places] = with_few_pixels(label[places], pixels, seed, name)
        return kept
    height, width = label.shape
    framed = np.full((height + 2, width + 2), IGNORE, dtype=label.dtype)  # no step leaves the picture
    framed[1:-1, 1:-1] = label
    flat, kept = framed.ravel(), np.full(framed.size, IGNORE, dtype=label.dtype)
    for c in np.unique(label[label != IGNORE]).tolist():
        free = flat == c
        wanted = 1 if share is None else math.ceil(share * int(free.sum()) - 1e-9)
        draw = 0
        while wanted:
            places = np.flatnonzero(free)
            start = places[int(_hash(seed, name, c, draw), 16) % len(places)]
            region = _region(free, int(start), wanted, width + 2)
            kept[region] = c
            wanted, draw = wanted - len(region), draw + 1
    return kept.reshape(framed.shape)[1:-1, 1:-1].copy()


def _region(free: np.ndarray, start: int, most: int, width: int) -> np.ndarray:
    """At most `most` free places round `start`, ring by ring of neighbours; they are no longer free then."""
    ring, found = np.array([start]), []
    while len(ring) and most:
        ring = ring[:most]
        free[ring] = False
        found.append(ring)
        most -= len(ring)
        ring = np.unique(np.concatenate([ring - 1, ring + 1, ring - width, ring + width]))
        ring = ring[free[ring]]
    return np.concatenate(found)
