"""What the values of a label file stand for: ids or colours -> classes -> train ids.

Letters: H, W image size, N colours. An *id table* is (256,) or (65536,) uint16: `train = table[id]`, `UNKNOWN` for ids that may
not occur. A *colour table* does the same for colours 0xRRGGBB.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from course_lib.labels import (
    IGNORE,
    NUMBERED,
    SPACES,
    LabelSpace,
    colour_train_ids,
    label_space,
    layout_train_ids,
    table_between,
    train_ids,
)

UNKNOWN = 256  # in a table: no label file of this data set has this value
MOST_IDS = 2**16


@dataclass(frozen=True, eq=False)
class ColourTable:
    """Colours -> train ids."""

    colours: np.ndarray  # (N,) int32, ascending, 0xRRGGBB
    train: np.ndarray  # (N,) uint16
    names: tuple[str, ...]  # of the N colours, for messages

    def take(self, colours: np.ndarray) -> np.ndarray:
        """(H, W) int32 -> (H, W) uint16 train ids, UNKNOWN for other colours."""
        place = np.searchsorted(self.colours, colours).clip(max=len(self.colours) - 1)
        return np.where(self.colours[place] == colours, self.train[place], np.uint16(UNKNOWN))

    def nearest(self, colour: int) -> tuple[int, str]:
        """The known colour with the smallest squared distance in RGB, and its name."""
        place = int(((_channels(self.colours) - _channels(np.array([colour]))) ** 2).sum(1).argmin())
        return int(self.colours[place]), self.names[place]

    def tolist(self) -> list[list[int]]:
        """Plain numbers: part of the keys of what is kept."""
        return [self.colours.tolist(), self.train.tolist()]


Table = np.ndarray | ColourTable


@dataclass(frozen=True)
class Encoding:
    """How the label files of a data set are written.

    `known` names a layout ("ids") or a label space ("train ids", "colours") of `course_lib.labels`; "" means the classes are
    those of `values`. `ignore`: values that do not count.
    """

    kind: Literal["ids", "train ids", "colours"]
    known: str = ""
    values: tuple[tuple[int, str], ...] = ()
    ignore: tuple[int, ...] = ()

    def table(self, space: str | LabelSpace) -> Table:
        """The table to the train ids of `space`; ValueError where the classes cannot be read as that space."""
        space = label_space(space)
        if not self.known:
            train = train_ids(dict(self.values), space)
        elif self.kind == "ids":
            train = layout_train_ids(self.known, space)
        elif self.kind == "colours":
            train = colour_train_ids(self.known, space)
        else:
            train = dict(enumerate(table_between(self.known, space)[: label_space(self.known).num_classes].tolist()))
        train = train | dict.fromkeys(self.ignore, IGNORE)
        return self._colour_table(train) if self.kind == "colours" else id_table(train)

    @property
    def space(self) -> str:
        """Of a known encoding: the label space in which its data set is looked at."""
        if self.kind != "ids":
            return self.known
        return "camvid11" if self.known == "camvid" else "cityscapes19"

    def _colour_table(self, train: dict[int, int]) -> ColourTable:
        names = dict(self.values)
        if self.known:
            known = label_space(self.known)
            names = {int.from_bytes(bytes(colour)): name for colour, name in zip(known.palette, known.classes)}
        colours = sorted(train)
        values = np.array([train[colour] for colour in colours], dtype=np.uint16)
        return ColourTable(np.array(colours, dtype=np.int32), values, tuple(names.get(c, "ignored") for c in colours))


def id_table(train: dict[int, int]) -> np.ndarray:
    """{id: train id} as an id table.

    >>> id_table({7: 0, 255: 255})[[7, 8, 255]].tolist()
    [0, 256, 255]
    """
    table = np.full(256 if max(train, default=0) < 256 else MOST_IDS, UNKNOWN, dtype=np.uint16)
    table[list(train)] = list(train.values())
    return table


def raw_table(layout: str, space: str | LabelSpace) -> np.ndarray:
    """The id table of a layout; 255 is "ignore" in any layout's files."""
    return Encoding("ids", layout, ignore=(IGNORE,)).table(space)


def known_encodings() -> dict[str, Encoding]:
    """What `classes = "..."` of a dataset.toml may say.

    >>> known_encodings()["train ids of cityscapes19"].kind
    'train ids'
    """
    found = {f"ids of {name}": Encoding("ids", name, ignore=(IGNORE,)) for name in NUMBERED}
    found |= {f"train ids of {name}": Encoding("train ids", name, ignore=(IGNORE,)) for name in SPACES}
    return found | {f"colours of {name}": Encoding("colours", name) for name in SPACES}


def channels(colour: int) -> tuple[int, int, int]:
    """0xRRGGBB as (red, green, blue)."""
    return tuple(_channels(np.array([colour]))[0].tolist())


def _channels(colours: np.ndarray) -> np.ndarray:
    return np.stack([colours >> 16 & 255, colours >> 8 & 255, colours & 255], axis=1).astype(np.int64)
