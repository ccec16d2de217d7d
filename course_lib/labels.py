"""Label spaces: which classes exist, what they are called, how they are coloured, and how files on disk number them.

Letters: H, W image size, C classes. A *raw id* is the number in a label file; a *train id* is 0..C-1 in one space;
IGNORE (255) is "do not count this pixel". Labels become train ids the moment they are read, by one look-up table.

Each layout names its raw ids in Cityscapes' words; each space says which words it counts. Every table follows from the
two, so an id is written down once.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

IGNORE = 255  # Cityscapes' "do not count this pixel"


class RawLabel(NamedTuple):
    """One line of Cityscapes' label definition."""

    id: int
    name: str
    colour: tuple[int, int, int]


# Cityscapes' own definition (Cordts et al. 2016); GTA5 (Richter et al. 2016) numbers its classes in the same way.
CITYSCAPES_LABELS: tuple[RawLabel, ...] = (
    RawLabel(0, "unlabeled", (0, 0, 0)),
    RawLabel(1, "ego vehicle", (0, 0, 0)),
    RawLabel(2, "rectification border", (0, 0, 0)),
    RawLabel(3, "out of roi", (0, 0, 0)),
    RawLabel(4, "static", (0, 0, 0)),
    RawLabel(5, "dynamic", (111, 74, 0)),
    RawLabel(6, "ground", (81, 0, 81)),
    RawLabel(7, "road", (128, 64, 128)),
    RawLabel(8, "sidewalk", (244, 35, 232)),
    RawLabel(9, "parking", (250, 170, 160)),
    RawLabel(10, "rail track", (230, 150, 140)),
    RawLabel(11, "building", (70, 70, 70)),
    RawLabel(12, "wall", (102, 102, 156)),
    RawLabel(13, "fence", (190, 153, 153)),
    RawLabel(14, "guard rail", (180, 165, 180)),
    RawLabel(15, "bridge", (150, 100, 100)),
    RawLabel(16, "tunnel", (150, 120, 90)),
    RawLabel(17, "pole", (153, 153, 153)),
    RawLabel(18, "polegroup", (153, 153, 153)),
    RawLabel(19, "traffic light", (250, 170, 30)),
    RawLabel(20, "traffic sign", (220, 220, 0)),
    RawLabel(21, "vegetation", (107, 142, 35)),
    RawLabel(22, "terrain", (152, 251, 152)),
    RawLabel(23, "sky", (70, 130, 180)),
    RawLabel(24, "person", (220, 20, 60)),
    RawLabel(25, "rider", (255, 0, 0)),
    RawLabel(26, "car", (0, 0, 142)),
    RawLabel(27, "truck", (0, 0, 70)),
    RawLabel(28, "bus", (0, 60, 100)),
    RawLabel(29, "caravan", (0, 0, 90)),
    RawLabel(30, "trailer", (0, 0, 110)),
    RawLabel(31, "train", (0, 80, 100)),
    RawLabel(32, "motorcycle", (0, 0, 230)),
    RawLabel(33, "bicycle", (119, 11, 32)),
)

# SYNTHIA-RAND-CITYSCAPES (Ros et al. 2016), channel 0 of its label files.
_SYNTHIA_NAMES: dict[int, str] = {
    0: "void", 1: "sky", 2: "building", 3: "road", 4: "sidewalk", 5: "fence", 6: "vegetation", 7: "pole",
    8: "car", 9: "traffic sign", 10: "person", 11: "bicycle", 12: "motorcycle", 13: "parking slot", 14: "road work",
    15: "traffic light", 16: "terrain", 17: "rider", 18: "truck", 19: "bus", 20: "train", 21: "wall",
    22: "lane marking",
}  # fmt: skip

# CamVid in the 11 classes of SegNet (Badrinarayanan et al. 2017); 11 is "unlabelled".
_CAMVID_NAMES: dict[int, str] = dict(
    enumerate(
        ("Sky", "Building", "Pole", "Road", "Pavement", "Tree", "SignSymbol", "Fence", "Car", "Pedestrian", "Bicyclist",
         "Unlabelled")
    )
)  # fmt: skip

_RAW_NAMES: dict[str, dict[int, str]] = {  # layout -> raw id -> name
    "gta5": {label.id: label.name for label in CITYSCAPES_LABELS} | {34: "license plate"},  # -1 in Cityscapes: never drawn
    "cityscapes": {label.id: label.name for label in CITYSCAPES_LABELS},
    "synthia": _SYNTHIA_NAMES,
    "camvid": _CAMVID_NAMES,
}

# What CamVid's annotators would have called Cityscapes' classes: a convention of this course, read off the class names.
_TO_CAMVID: dict[str, str] = {
    "sky": "Sky",
    "building": "Building", "wall": "Building",
    "pole": "Pole",
    "road": "Road",
    "sidewalk": "Pavement",
    "vegetation": "Tree", "terrain": "Tree",
    "traffic sign": "SignSymbol", "traffic light": "SignSymbol",
    "fence": "Fence",
    "car": "Car", "truck": "Car", "bus": "Car", "train": "Car",
    "person": "Pedestrian",
    "rider": "Bicyclist", "bicycle": "Bicyclist", "motorcycle": "Bicyclist",
}  # fmt: skip


@dataclass(frozen=True)
class LabelSpace:
    """A list of classes; a class's train id is its place in the list.

    >>> CITYSCAPES19.num_classes, CITYSCAPES19.classes[13], CITYSCAPES19.palette[13]
    (19, 'car', (0, 0, 142))
    """

    name: str
    classes: tuple[str, ...]
    palette: tuple[tuple[int, int, int], ...]  # RGB, one per class

    def __post_init__(self) -> None:
        if len(self.classes) != len(self.palette):
            raise ValueError(
                f"Label space {self.name!r} came with {len(self.classes)} classes and {len(self.palette)} colours. "
                "Give each class one RGB colour."
            )

    @property
    def num_classes(self) -> int:
        return len(self.classes)


def _space_of_cityscapes_words(name: str, classes: tuple[str, ...]) -> LabelSpace:
    colour = {label.name: label.colour for label in CITYSCAPES_LABELS}
    return LabelSpace(name, classes, tuple(colour[c] for c in classes))


# The 19 evaluated classes, in the order of Cityscapes' train ids (also AdaptSegNet, BiDA).
CITYSCAPES19 = _space_of_cityscapes_words("cityscapes19", (
    "road", "sidewalk", "building", "wall", "fence", "pole", "traffic light", "traffic sign", "vegetation", "terrain",
    "sky", "person", "rider", "car", "truck", "bus", "train", "motorcycle", "bicycle",
))  # fmt: skip
_NOT_IN_SYNTHIA = ("terrain", "truck", "train")  # SYNTHIA -> Cityscapes is scored without them (ProCA, BiDA)
_NOT_IN_13 = ("wall", "fence", "pole")           # and, in the 13-class table, without these
SYNTHIA16 = _space_of_cityscapes_words("synthia16", tuple(c for c in CITYSCAPES19.classes if c not in _NOT_IN_SYNTHIA))
SYNTHIA13 = _space_of_cityscapes_words("synthia13", tuple(c for c in SYNTHIA16.classes if c not in _NOT_IN_13))
CAMVID11 = LabelSpace("camvid11", tuple(_CAMVID_NAMES[i] for i in range(11)), (
    (128, 128, 128), (128, 0, 0), (192, 192, 128), (128, 64, 128), (60, 40, 222), (128, 128, 0),
    (192, 128, 128), (64, 64, 128), (64, 0, 128), (64, 64, 0), (0, 128, 192),
))  # fmt: skip  # the colours of SegNet's published CamVid script

SPACES: dict[str, LabelSpace] = {space.name: space for space in (CITYSCAPES19, SYNTHIA16, SYNTHIA13, CAMVID11)}

# Which train ids a published table averages over: "19", "16" and "13" count in cityscapes19, "11" in camvid11.
MIOU_SUBSETS: dict[str, tuple[int, ...]] = {
    "19": tuple(range(19)),
    "16": tuple(CITYSCAPES19.classes.index(c) for c in SYNTHIA16.classes),
    "13": tuple(CITYSCAPES19.classes.index(c) for c in SYNTHIA13.classes),
    "11": tuple(range(11)),
}


def label_space(name: str | LabelSpace) -> LabelSpace:
    """Find a label space by name; a LabelSpace passes through.

    >>> label_space("synthia13").num_classes
    13
    """
    if isinstance(name, LabelSpace):
        return name
    if name not in SPACES:
        raise ValueError(f"Unknown label space {name!r}. {_offer(name, SPACES)}")
    return SPACES[name]


def subset_ids(subset: str, space: str | LabelSpace = "cityscapes19") -> tuple[int, ...]:
    """Train ids, in `space`, of the classes that a published mIoU averages over.

    >>> subset_ids("13", "synthia16")  # without wall, fence, pole
    (0, 1, 2, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15)
    """
    space = label_space(space)
    of = {"19": CITYSCAPES19, "16": SYNTHIA16, "13": SYNTHIA13, "11": CAMVID11}
    if subset not in of:
        raise ValueError(f"Unknown mIoU subset {subset!r}. Choose one of {', '.join(of)}.")
    missing = [c for c in of[subset].classes if c not in space.classes]
    if missing:
        raise ValueError(
            f"mIoU-{subset} needs classes that label space {space.name!r} does not have: {', '.join(missing)}. "
            f"Score in {of[subset].name!r} or choose a smaller subset."
        )
    return tuple(space.classes.index(c) for c in of[subset].classes)


def lookup_table(layout: str, space: str | LabelSpace) -> np.ndarray:
    """The table that turns a label file into train ids: `train = table[raw]`.

    (256,) uint8; raw ids that the space does not count give IGNORE. A new array each call.

    >>> table = lookup_table("gta5", "cityscapes19")
    >>> table[[7, 26, 33, 0]].tolist()  # road, car, bicycle, unlabelled
    [0, 13, 18, 255]
    >>> lookup_table("synthia", "cityscapes19")[22].item()  # lane marking: not counted
    255

    Errors: unknown layout or space (nearest name offered); CamVid's merged classes cannot be split into Cityscapes'.
    Sources: AdaptSegNet's and ProCA's released tables, BiDA's for SYNTHIA in 19 classes.
    """
    return _table(_names(layout), label_space(space), merged=layout == "camvid")


def table_between(stored: str | LabelSpace, space: str | LabelSpace) -> np.ndarray:
    """The table from the train ids of one space to those of another: `train = table[stored]`, (256,) uint8.

    What is read from labels of the 19 classes is what `lookup_table` would have read from the raw ids.

    >>> table_between("cityscapes19", "synthia16")[[8, 9, 10]].tolist()  # vegetation, terrain, sky
    [8, 255, 9]

    Errors: CamVid's merged classes, and classes that `stored` does not have.
    """
    stored, space = label_space(stored), label_space(space)
    table = _table(dict(enumerate(stored.classes)), space, merged=stored == CAMVID11)
    if missing := [name for train, name in enumerate(space.classes) if train not in table]:
        raise ValueError(
            f"Labels stored in {stored.name!r} cannot be read as {space.name!r}: they do not tell {', '.join(missing)}. "
            f"Take space={stored.name!r}, or the original label files."
        )
    return table


def _table(names: dict[int, str], space: LabelSpace, merged: bool) -> np.ndarray:
    """From names of ids to train ids; `merged`: the names are CamVid's."""
    table = np.full(256, IGNORE, dtype=np.uint8)
    if merged and space != CAMVID11:
        raise ValueError(
            f"CamVid's labels cannot be read as {space.name!r}: its 11 classes merge Cityscapes' (SignSymbol is signs "
            "and lights, Bicyclist rider and bicycle). Use space='camvid11' for both domains."
        )
    for raw, name in names.items():
        word = _TO_CAMVID.get(name, name) if space == CAMVID11 else name
        if word in space.classes:
            table[raw] = space.classes.index(word)
    return table


def raw_ids(layout: str, space: str | LabelSpace = "cityscapes19") -> tuple[int, ...]:
    """The raw id to write for each train id: the inverse of `lookup_table`, for those who write label files.

    >>> raw_ids("cityscapes")[:4], raw_ids("synthia")[:4]
    ((7, 8, 11, 12), (3, 4, 2, 21))

    Errors: a space that merges several raw ids into one class has no inverse.
    """
    space = label_space(space)
    table = lookup_table(layout, space)
    raws = [np.flatnonzero(table == train) for train in range(space.num_classes)]
    for train, raw in enumerate(raws):
        if len(raw) != 1:
            raise ValueError(
                f"Class {space.classes[train]!r} of {space.name!r} has {len(raw)} raw ids in layout {layout!r} "
                f"({raw.tolist()}), so there is no single one to write. Write in 'cityscapes19' instead."
            )
    return tuple(int(raw[0]) for raw in raws)


def known_raw_ids(layout: str) -> frozenset[int]:
    """Every raw id that a label file of this layout may hold, counted in training or not (for checks of data).

    >>> max(known_raw_ids("cityscapes")), max(known_raw_ids("camvid"))
    (33, 11)
    """
    return frozenset(_names(layout))


def colourise(label: np.ndarray, space: str | LabelSpace = "cityscapes19") -> np.ndarray:
    """Paint a label map: (H, W) train ids -> (H, W, 3) uint8 RGB; IGNORE is black.

    >>> colourise(np.array([[0, 255]]), "cityscapes19").tolist()
    [[[128, 64, 128], [0, 0, 0]]]
    """
    space = label_space(space)
    label = np.asarray(label)
    if label.ndim != 2:
        raise ValueError(f"Got a label of shape {label.shape}, wanted (H, W). Take one picture of the batch: label[i].")
    if not np.issubdtype(label.dtype, np.integer):
        raise ValueError(f"Got a label of {label.dtype}, wanted whole train ids. Take the argmax over classes first.")
    foreign = np.setdiff1d(label, [*range(space.num_classes), IGNORE])
    if foreign.size:
        raise ValueError(
            f"Got train ids {foreign[:5].tolist()}; label space {space.name!r} has 0..{space.num_classes - 1} and "
            f"{IGNORE}. Map raw ids with lookup_table(layout, space) first."
        )
    colours = np.zeros((256, 3), dtype=np.uint8)
    colours[: space.num_classes] = space.palette
    return colours[label]


def _names(layout: str) -> dict[int, str]:
    if layout not in _RAW_NAMES:
        raise ValueError(f"No label table for layout {layout!r}. {_offer(layout, _RAW_NAMES)}")
    return _RAW_NAMES[layout]


def _offer(name: str, known) -> str:
    """What to do about an unknown name: the nearest one, then all."""
    near = difflib.get_close_matches(str(name), list(known), n=1)
    return (f"Did you mean {near[0]!r}? " if near else "") + f"Known: {', '.join(known)}."
