"""Objects cut out of MiniStreet: a small picture classification set with many more unlabelled than labelled pictures.

    OUT/unlabelled/000000.png ...      count pictures, classes mixed as the streets have them (at most 3 of one a street)
    OUT/train/<class>/00.png ...       a few with labels, `per_class` of each class
    OUT/test/<class>/00.png ...        `test_per_class` of each, to score

The three come from streets of their own. A crop is a square around the visible pixels of one object, which the generator
knows; it shows at most 80 pixels of the street and is resized to S x S.
"""

import hashlib
import io
import json
import os
import shutil
import uuid
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm.auto import tqdm

from course_lib.data.cache import cache_that_is_needed
from course_lib.data.processes import cores, in_processes
from course_lib.files import read_json, write_whole
from course_lib.labels import SPACES

from .making import COUNT_AT_MOST, scene_seed, version
from .rendering import Scene, render

CLASSES: dict[str, tuple[str, ...]] = {  # name -> Cityscapes classes
    "bicycle": ("bicycle",),
    "building": ("building",),
    "car": ("car",),
    "person": ("person",),
    "traffic_light": ("traffic light",),
    "traffic_sign": ("traffic sign",),
    "tree": ("vegetation",),
    "truck": ("truck", "bus"),
}
SCENE = (192, 384)  # larger than MiniStreet's usual pictures: objects have more pixels
CONTEXT = 1.1  # side of the crop over the longer side of the object ...
LARGEST = 64  # ... and at most so many pixels: of a house or a tree, a part
SMALLEST = 14  # pixels of the longer side
SHARE, THIN_SHARE = 0.3, 0.12  # of the crop that is the object's own, at least: less is a picture of something else
THIN = ("bicycle", "traffic_light")
PER_SCENE = 3  # crops of one class from one scene
SCENES_AT_MOST = 20_000

Crop = tuple[str, bytes]  # class, PNG


def make_crops(
    out: Path | str,
    count: int = 4000,
    seed: int = 0,
    *,
    per_class: int = 20,
    test_per_class: int = 60,
    size: int = 32,
    look: str = "game",
    workers: int | None = None,
    progress: bool = True,
) -> Path:
    """Write the set to `out` (which appears when it is complete) and return it; the same arguments give the same bytes.

    An equal set that is there already is kept. Raises ValueError for arguments that make no sense, or where `out` holds
    something else.
    """
    settings = _settings(count, seed, per_class, test_per_class, size, look)
    out = Path(out).expanduser()
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        if _manifest(out) == settings:
            return out
        raise ValueError(f"{str(out)!r} holds something else than this set. Give another folder, or delete this one first.")
    if out.is_symlink():
        out.stat()  # a link to nowhere, which no folder can replace, is an error before anything is drawn
        out = out.resolve()  # the folder is replaced, not the link
    part = out.with_name(f".{out.name}.{uuid.uuid4().hex}.part")
    wanted = {
        "unlabelled": {None: count},
        "train": dict.fromkeys(CLASSES, per_class),
        "test": dict.fromkeys(CLASSES, test_per_class),
    }
    total = sum(sum(numbers.values()) for numbers in wanted.values())
    try:
        part.mkdir(parents=True)  # a folder that cannot be made is found before anything is drawn
        with tqdm(total=total, disable=not progress, desc="MiniStreet crops", unit="img") as bar:
            for name, numbers in wanted.items():
                for path, content in _chosen(settings, name, numbers, workers):
                    write_whole(part / name / path, content, sync=False)
                    bar.update()
        write_whole(part / "manifest.json", json.dumps(settings, indent=1))
        if out.is_dir():
            out.rmdir()  # empty
        try:
            os.replace(part, out)
        except OSError:
            if _manifest(out) != settings:  # else another process has just made the same
                raise
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return out


def cached_crops(count: int = 4000, seed: int = 0, **options) -> Path:
    """`make_crops` under the user's cache folder, once; the same call later returns at once."""
    making = {k: options.pop(k) for k in ("workers", "progress") if k in options}
    settings = _settings(count, seed, **{**_DEFAULTS, **options})
    key = hashlib.sha256(json.dumps(settings).encode()).hexdigest()[:12]
    with cache_that_is_needed() as folder:
        return make_crops(folder / "ministreet" / f"crops-{count}-seed{seed}-{key}", count, seed, **options, **making)


def cut(scene: Scene, size: int = 32) -> list[tuple[str, Image.Image]]:
    """The objects of a scene that are large enough, as (class, S x S picture), the largest of each class."""
    found: dict[str, list[tuple[int, Image.Image]]] = {name: [] for name in CLASSES}
    picture = Image.fromarray(scene.image)
    parts = scene.instance.astype(np.int32) * 256 + scene.label  # a light and its pole are one instance, two parts
    for part in np.unique(parts[scene.instance > 0]):
        name = _CLASS_OF.get(int(part) % 256)
        rows, columns = np.nonzero(parts == part)
        longest = max(np.ptp(rows), np.ptp(columns)) + 1
        if name is None or longest < SMALLEST:
            continue
        box = _square(_middle(rows), _middle(columns), min(CONTEXT * longest, LARGEST), scene.label.shape)
        left, top, right, bottom = box
        inside = int(((rows >= top) & (rows < bottom) & (columns >= left) & (columns < right)).sum())
        if inside >= (THIN_SHARE if name in THIN else SHARE) * (right - left) ** 2:
            found[name].append((inside, picture.resize((size, size), Image.Resampling.BICUBIC, box=box)))
    return [(name, crop) for name, crops in found.items() for _, crop in sorted(crops, key=lambda c: -c[0])[:PER_SCENE]]


def _middle(pixels: np.ndarray) -> float:
    """The middle of what an object covers along one axis; of one that is too large, where most of it is."""
    low, high = int(pixels.min()), int(pixels.max()) + 1
    return (low + high) / 2 if CONTEXT * (high - low) <= LARGEST else float(np.median(pixels)) + 0.5


def _square(y: float, x: float, side: float, shape: tuple[int, int]) -> tuple[float, float, float, float]:
    """(left, top, right, bottom) of a square around (y, x), moved and shrunk to lie in the picture."""
    side = min(side, *shape)
    top, left = (min(max(middle - side / 2, 0.0), n - side) for middle, n in zip((y, x), shape))
    return left, top, left + side, top + side


_CLASS_OF = {SPACES["cityscapes19"].classes.index(c): name for name, classes in CLASSES.items() for c in classes}
_DEFAULTS = {"per_class": 20, "test_per_class": 60, "size": 32, "look": "game"}


def _chosen(settings: dict, name: str, numbers: dict[str | None, int], workers: int | None) -> Iterator[tuple[str, bytes]]:
    """(file, PNG) of the first crops, in the order of the scenes, until each class (None: any) has its number."""
    have = dict.fromkeys(numbers, 0)
    crops = _in_order(settings, name, workers)
    while have != numbers:
        label, content = next(crops)
        key = None if None in numbers else label
        if have[key] < numbers[key]:
            have[key] += 1
            yield (f"{have[key] - 1:06d}.png" if key is None else f"{key}/{have[key] - 1:04d}.png"), content
    crops.close()


def _in_order(settings: dict, name: str, workers: int | None) -> Iterator[Crop]:
    """The crops of scene 0, 1, 2, ...; some scenes more may be drawn than are used."""
    drawn: dict[int, list[Crop]] = {}  # those that were done before their turn
    turn = 0
    for index, crops in in_processes(partial(_numbered, settings, name), range(SCENES_AT_MOST), workers or cores()):
        drawn[index] = crops
        while turn in drawn:
            yield from drawn.pop(turn)
            turn += 1
    raise ValueError(f"{SCENES_AT_MOST} streets have not enough objects. Ask for fewer pictures.")


def _numbered(settings: dict, name: str, index: int) -> tuple[int, list[Crop]]:
    return index, crops_of_scene(settings, name, index)


def crops_of_scene(settings: dict, name: str, index: int) -> list[Crop]:
    """The crops of one street as PNG files."""
    scene = render(scene_seed(settings["seed"], f"crops-{name}", index), settings["look"], SCENE)
    crops = []
    for label, crop in cut(scene, settings["size"]):
        file = io.BytesIO()
        crop.save(file, "PNG")
        crops.append((label, file.getvalue()))
    return crops


def _settings(count, seed, per_class, test_per_class, size, look) -> dict:
    for key, value in {"count": count, "per_class": per_class, "test_per_class": test_per_class}.items():
        if int(value) != value or not 1 <= value <= COUNT_AT_MOST:
            raise ValueError(f"{key} = {value!r}: give a number of pictures, 1 to {COUNT_AT_MOST:,}.")
    if int(seed) != seed or seed < 0:
        raise ValueError(f"seed = {seed!r}: give a whole number that is not negative.")
    if not 16 <= size <= 1024:
        raise ValueError(f"size = {size!r}: give 16 to 1024 pixels.")
    content = {"made_by": "course_lib.data.ministreet.crops", "version": [version(), crops_version()]}
    return content | {"count": int(count), "seed": int(seed), "per_class": int(per_class),
                      "test_per_class": int(test_per_class), "size": int(size), "look": look}  # fmt: skip


def crops_version() -> str:
    """A checksum of this file: another way of cutting is another version."""
    return hashlib.sha256(Path(__file__).read_bytes().replace(b"\r\n", b"\n")).hexdigest()[:12]


def _manifest(out: Path) -> dict | None:
    try:
        return read_json(out / "manifest.json")
    except (OSError, ValueError):
        return None
