"""Label spaces: which classes exist, what they are called, how they are coloured, and how files on disk number them.

Letters: H, W image size, C classes. A *raw id* is the number in a label file; a *train id* is 0..C-1 in one space;
IGNORE (255) is "do not count this pixel". Labels become train ids the moment they are read, by one look-up table.

Each layout names its raw ids in Cityscapes' words; each space says which words it counts. Every table follows from the
two, so an id is written down once.

A space of one's own has no name in this file: its name is the text of its colours and classes, "#804080 road, #4682b4 sky",
from which `label_space` builds it. So recipes, checkpoints and prepared sets that keep a space's name keep the classes.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from course_lib.registry import find_named

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

# CamVid as released (Brostow et al. 2009): 32 classes by colour, and which of the 11 each belongs to (SegNet's grouping as
# MathWorks' camvidPixelLabelIDs writes it out); "" belongs to none.
CAMVID_COLOURS: tuple[tuple[int, str, str], ...] = (
    (0x408040, "Animal", "Pedestrian"), (0xC00080, "Archway", "Building"), (0x0080C0, "Bicyclist", "Bicyclist"),
    (0x008040, "Bridge", "Building"), (0x800000, "Building", "Building"), (0x400080, "Car", "Car"),
    (0x4000C0, "CartLuggagePram", "Pedestrian"), (0xC08040, "Child", "Pedestrian"), (0xC0C080, "Column_Pole", "Pole"),
    (0x404080, "Fence", "Fence"), (0x8000C0, "LaneMkgsDriv", "Road"), (0xC00040, "LaneMkgsNonDriv", "Road"),
    (0x808040, "Misc_Text", "SignSymbol"), (0xC000C0, "MotorcycleScooter", "Bicyclist"), (0x804040, "OtherMoving", "Car"),
    (0x40C080, "ParkingBlock", "Pavement"), (0x404000, "Pedestrian", "Pedestrian"), (0x804080, "Road", "Road"),
    (0x8080C0, "RoadShoulder", "Pavement"), (0x0000C0, "Sidewalk", "Pavement"), (0xC08080, "SignSymbol", "SignSymbol"),
    (0x808080, "Sky", "Sky"), (0x4080C0, "SUVPickupTruck", "Car"), (0x000040, "TrafficCone", "Pole"),
    (0x004040, "TrafficLight", "SignSymbol"), (0xC04080, "Train", "Car"), (0x808000, "Tree", "Tree"),
    (0xC080C0, "Truck_Bus", "Car"), (0x400040, "Tunnel", "Building"), (0xC0C000, "VegetationMisc", "Tree"),
    (0x000000, "Void", ""), (0x40C000, "Wall", "Building"),
)  # fmt: skip

_RAW_NAMES: dict[str, dict[int, str]] = {  # layout -> raw id -> name
    "gta5": {label.id: label.name for label in CITYSCAPES_LABELS} | {34: "license plate"},  # -1 in Cityscapes: never drawn
    "cityscapes": {label.id: label.name for label in CITYSCAPES_LABELS},
    "synthia": _SYNTHIA_NAMES,
    "camvid": _CAMVID_NAMES,
}

NUMBERED = tuple(_RAW_NAMES)  # layouts whose label files hold ids that this file names

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


MOST_CLASSES = 255  # train ids are 0..254 in one byte, beside IGNORE
LONGEST_NAME = 64  # letters of a class's name


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
        """C, the number of its classes."""
        return len(self.classes)

    @property
    def own(self) -> bool:
        """Whether it is none of `SPACES`: its name is the text of its colours and classes."""
        return self.name.startswith("#")

    @property
    def title(self) -> str:
        """The name as a message shows it: of an own space its first classes.

        >>> label_space("#804080 road, #4682b4 sky, #00008e car, #000000 other").title
        '4 classes (road, sky, car, ...)'
        """
        if not self.own:
            return self.name
        some = ", ".join(self.classes[:3]) + (", ..." if self.num_classes > 3 else "")
        return f"{self.num_classes} class{'es' * (self.num_classes != 1)} ({some})"


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

CAMVID32 = LabelSpace(
    "camvid32", tuple(name for _, name, _ in CAMVID_COLOURS), tuple(tuple(colour.to_bytes(3)) for colour, *_ in CAMVID_COLOURS)
)

_STREETS = (CITYSCAPES19, SYNTHIA16, SYNTHIA13)  # in Cityscapes' words
SPACES: dict[str, LabelSpace] = {space.name: space for space in (*_STREETS, CAMVID11, CAMVID32)}


def label_space(name: str | LabelSpace) -> LabelSpace:
    """Find a label space by name, or build the one that the text "#rrggbb class, #rrggbb class" says; a LabelSpace passes.

    >>> label_space("synthia13").num_classes, label_space("#804080 road, #4682b4 sky").classes
    (13, ('road', 'sky'))
    """
    if isinstance(name, LabelSpace):
        return name
    if isinstance(name, str) and name.startswith("#"):
        return _own_space(name)
    find_named("label space", name, SPACES)
    return SPACES[name]


@functools.lru_cache(maxsize=64)
def _own_space(text: str) -> LabelSpace:
    entries = [re.fullmatch(r"#([0-9a-f]{6}) (.+)", entry) for entry in text.split(", ")]
    if not all(entries):
        raise ValueError(
            f"Got the classes {text[:80]!r}, wanted '#rrggbb name, #rrggbb name, ...': a colour in six hexadecimal digits of "
            "small letters, then the class."
        )
    return own_space([(entry[2], tuple(bytes.fromhex(entry[1]))) for entry in entries])


def own_space(classes: Iterable[tuple[str, tuple[int, int, int]]]) -> LabelSpace:
    """The label space of (class, RGB colour); one of `SPACES` where those are its classes in its order.

    >>> own_space([("road", (128, 64, 128)), ("sky", (70, 130, 180))]).name
    '#804080 road, #4682b4 sky'

    Raises ValueError for no class, more than 255, one that is there twice, and names that no file should hold.
    """
    names, colours = zip(*found) if (found := list(classes)) else ((), ())
    if not 1 <= len(names) <= MOST_CLASSES:
        raise ValueError(f"Got {len(names)} classes, wanted 1 to {MOST_CLASSES}: a train id is one byte, and 255 is ignored.")
    words: dict[str, str] = {}
    for name in names:
        if not name.isprintable() or name != name.strip() or not 1 <= len(name) <= LONGEST_NAME or set(name) & set(",#`"):
            raise ValueError(
                f"Got the class {name[:80]!r}, wanted 1 to {LONGEST_NAME} letters that can be printed, without comma, # or `, "
                "and no space at either end."
            )
        if (other := words.setdefault(same_class(name), name)) != name or names.count(name) > 1:
            raise ValueError(f"The class {name!r} is there twice (also as {other!r}): give each class one name.")
    for space in SPACES.values():
        if tuple(map(same_class, names)) == tuple(map(same_class, space.classes)):
            return space
    text = ", ".join(f"#{bytes(colour).hex()} {name}" for name, colour in zip(names, colours))
    return LabelSpace(text, names, tuple(map(tuple, colours)))


def same_class(name: str) -> str:
    """What two names of one class have in common: upper and lower case, spaces, hyphens and underscores do not count.

    >>> same_class("Traffic_Light") == same_class("traffic light")
    True
    """
    return " ".join(re.split(r"[\s_-]+", name.casefold().strip()))


def subset_ids(subset: str, space: str | LabelSpace = "cityscapes19") -> tuple[int, ...]:
    """Train ids, in `space`, of the classes that a published mIoU averages over.

    >>> subset_ids("13", "synthia16")  # without wall, fence, pole
    (0, 1, 2, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15)
    """
    space = label_space(space)
    of = {"19": CITYSCAPES19, "16": SYNTHIA16, "13": SYNTHIA13, "11": CAMVID11}
    find_named("mIoU subset", subset, of)
    missing = [c for c in of[subset].classes if c not in space.classes]
    if missing:
        raise ValueError(
            f"mIoU-{subset} needs classes that label space {space.title!r} does not have: {', '.join(missing)}. "
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
    return _table(layout_train_ids(layout, space))


def layout_train_ids(layout: str, space: str | LabelSpace) -> dict[int, int]:
    """`lookup_table` as {raw id: train id}, of the ids that the layout has."""
    find_named("label table for the layout", layout, _RAW_NAMES)
    names, space = _RAW_NAMES[layout], label_space(space)
    _refuse_merged(space, of_camvid=layout == "camvid")
    return train_ids(names, space)


def _refuse_merged(space: LabelSpace, of_camvid: bool, all_32: bool = False) -> None:
    """Raise ValueError where labels of a known data set cannot be read as `space`: they merge what it tells apart."""
    if of_camvid and space in _STREETS:
        raise ValueError(
            f"CamVid's labels cannot be read as {space.name!r}: its 11 classes merge Cityscapes' (SignSymbol is signs "
            "and lights, Bicyclist rider and bicycle). Use space='camvid11' for both domains."
        )
    if space == CAMVID32 and not all_32:
        raise ValueError(
            "Only CamVid's labels as released, in colours, can be read as 'camvid32': others merge what it tells apart. Use "
            "space='camvid11' for both domains."
        )


def colour_train_ids(space_of_colours: str, space: str | LabelSpace) -> dict[int, int]:
    """{0xRRGGBB: train id in `space`} of label files in the colours of a space, such as CamVid's as released.

    >>> colour_train_ids("camvid32", "camvid11")[0xC08040]  # Child is a Pedestrian
    9
    """
    painted = label_space(space_of_colours)
    table = table_between(painted, space)
    return {int.from_bytes(bytes(colour)): int(table[train]) for train, colour in enumerate(painted.palette)}


def table_between(stored: str | LabelSpace, space: str | LabelSpace) -> np.ndarray:
    """The table from the train ids of one space to those of another: `train = table[stored]`, (256,) uint8.

    What is read from labels of the 19 classes is what `lookup_table` would have read from the raw ids.

    >>> table_between("cityscapes19", "synthia16")[[8, 9, 10]].tolist()  # vegetation, terrain, sky
    [8, 255, 9]

    Errors: CamVid's merged classes, and classes that `stored` does not have.
    """
    stored, space = label_space(stored), label_space(space)
    if not stored.own:
        _refuse_merged(space, of_camvid=stored in (CAMVID11, CAMVID32), all_32=stored == CAMVID32)
    found = train_ids(dict(enumerate(stored.classes)), space)
    if missing := [name for train, name in enumerate(space.classes) if train not in found.values()]:
        raise ValueError(
            f"Labels stored in {stored.title!r} cannot be read as {space.title!r}: they do not tell {', '.join(missing)}. "
            f"Take space={stored.name!r}, or the original label files."
        )
    return _table(found)


def train_ids(names: Mapping[int, str], space: LabelSpace) -> dict[int, int]:
    """{raw value: train id} from {raw value: class}, matched by name; IGNORE where `space` does not have the class.

    >>> train_ids({10: "Road", 20: "tree"}, label_space("#804080 road, #4682b4 sky"))
    {10: 0, 20: 255}
    """
    # CamVid's names in CamVid's letters alone: Cityscapes ignores its own "bridge"
    of_camvid = {} if space != CAMVID11 else {name: group for _, name, group in CAMVID_COLOURS}
    grouped = {} if space != CAMVID11 else {same_class(name): group for name, group in _TO_CAMVID.items()}
    place = {same_class(name): train for train, name in enumerate(space.classes)}
    group = {name: of_camvid.get(name) or grouped.get(same_class(name), name) for name in names.values()}
    return {raw: place.get(same_class(group[name]), IGNORE) for raw, name in names.items()}


def _table(train: Mapping[int, int]) -> np.ndarray:
    table = np.full(256, IGNORE, dtype=np.uint8)
    table[list(train)] = list(train.values())
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
            f"Got train ids {foreign[:5].tolist()}; label space {space.title!r} has 0..{space.num_classes - 1} and "
            f"{IGNORE}. Map raw ids with lookup_table(layout, space) first."
        )
    colours = np.zeros((256, 3), dtype=np.uint8)
    colours[: space.num_classes] = space.palette
    return colours[label]
