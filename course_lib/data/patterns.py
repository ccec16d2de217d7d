"""File patterns: which files of a folder belong to a data set, and which label belongs to which picture.

    leftImg8bit/{split}/**/*_leftImg8bit.png     gtFine/{split}/**/*_gtFine_labelIds.png

`*` stands for any letters within a name, `**` for any folders, none included, `{split}` for the split. What the wildcards of a
picture stand for, its *key*, is what those of its label stand for. A pattern that ends with `*` means every kind of picture.
"""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass

from course_lib.data.names import PICTURES

SPLIT = "{split}"
LONGEST = 300  # letters of a pattern
WILDCARDS = 6  # in a pattern: each multiplies the time that matching may take
_ANY_KIND = rf"\.(?:{'|'.join(ending[1:] for ending in PICTURES)})"


@dataclass(frozen=True)
class Pattern:
    """A checked pattern; `folder` is the part in front of the first wildcard, and names are those below that folder."""

    text: str

    def __post_init__(self) -> None:
        if wrong := _wrong_with(self.text):
            raise ValueError(f"Got the pattern {self.text[:80]!r}: {wrong}. Wanted a path such as 'images/{SPLIT}/**/*.png'.")

    def of(self, split: str) -> Pattern:
        """The pattern of one split."""
        return Pattern(self.text.replace(SPLIT, split))

    @property
    def has_split(self) -> bool:
        """Whether {split} is in it."""
        return SPLIT in self.text

    @property
    def folder(self) -> str:
        """
        >>> Pattern("rgb_anon/*/train/*/*_rgb_anon.png").folder, Pattern("*.png").folder
        ('rgb_anon', '.')
        """
        parts = self.text.split("/")
        return "/".join(parts[: next(i for i, part in enumerate(parts) if "*" in part)]) or "."

    @property
    def ending(self) -> str:
        """What follows the last wildcard, "" for every kind of picture.

        >>> Pattern("gtFine/train/**/*_gtFine_labelIds.png").ending
        '_gtFine_labelIds.png'
        """
        return self.text.rpartition("*")[2]

    @property
    def wildcards(self) -> int:
        """How many there are; ** counts once."""
        return len(re.findall(r"\*+", self.text))

    def key(self, name: str) -> tuple[str, ...] | None:
        """What the wildcards stand for in a name below `folder`; None where it does not fit.

        >>> Pattern("images/**/*.png").key("a/b/c.png"), Pattern("images/**/*").key("c.jpg"), Pattern("images/*").key("a/c.jpg")
        (('a/b', 'c'), ('', 'c'), None)
        """
        found = self._regex.fullmatch(name)
        return None if found is None else tuple(group or "" for group in found.groups())

    def name(self, key: tuple[str, ...]) -> str:
        """The name below `folder` that has this key; of every kind of picture the PNG file.

        >>> Pattern("labels/**/*_L.png").name(("a/b", "c")), Pattern("labels/**/*").name(("", "c"))
        ('a/b/c_L.png', 'c.png')
        """
        words = iter(key)
        text = re.sub(r"\*+", lambda _: next(words), self._below)
        return re.sub("//+", "/", text).lstrip("/") + ("" if self.ending else ".png")

    @property
    def _below(self) -> str:
        return self.text if self.folder == "." else self.text.removeprefix(self.folder + "/")

    @functools.cached_property
    def _regex(self) -> re.Pattern[str]:
        parts = []
        for part in self._below.split("/"):
            if part == "**":
                parts.append("(?:(.*)/)?")
            else:  # each wildcard but the last ends at the first fitting place, never tried again: time stays linear
                begins, *middle = map(re.escape, part.split("*"))
                ends = f"([^/]*){middle.pop()}" if middle else ""
                parts.append(begins + "".join(f"(?>([^/]*?){text})" for text in middle) + ends + "/")
        text = "".join(parts).removesuffix("/")
        return re.compile(text if self.ending else f"{text}(?i:{_ANY_KIND})")


def _wrong_with(text: str) -> str:
    """What is wrong with a pattern, as the end of a sentence; "" if nothing is."""
    parts = text.split("/")
    if not text or len(text) > LONGEST or not text.isprintable():
        return f"it wants 1 to {LONGEST} letters that can be printed"
    if ".." in parts:
        return "'..' leaves the folder of the data set"
    if text.startswith(("/", "~")) or re.match("[A-Za-z]:", text):
        return "it is no path below the folder of the data set"
    if "\\" in text:
        return "folders are divided by /, on Windows too"
    if "" in parts or "." in parts:
        return "it has an empty part"
    if re.search(r"[{}]", text.replace(SPLIT, "")):
        return f"braces are for {SPLIT} alone"
    if re.search(r"[?\[\]]", text):
        return "its wildcards are * and ** alone"
    if any("**" in part and part != "**" for part in parts):
        return "** stands between two /, for folders"
    if "*" not in parts[-1] or parts[-1] == "**":
        return "the file's name has no *"
    if len(re.findall(r"\*+", text)) > WILDCARDS or parts.count("**") > 2:
        return f"it has more than {WILDCARDS} wildcards, or ** more than twice"
    return ""
