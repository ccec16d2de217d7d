"""How near what a pixel shows is: from depth files to maps in 0..1, exact or with noise.

Letters: H, W image size; Z the distance along the camera's axis in metres, p a value of a file, d a stereo camera's disparity
in pixels, B its baseline in metres, f its focal length in pixels, D (H, W) float32 what comes out.

    D = min(NEAREST / Z, 1)        0 infinitely far, as the sky; 1 at NEAREST metres and nearer; UNKNOWN (-1): p says nothing

    */depth/*.png, */Depth/*.png    centimetres (MiniStreet):  Z = p / 100,  p = 0: infinite
    */disparity/*_disparity.png     Cityscapes:  d = (p - 1) / 256,  Z = B f / d,  p = 0: unknown

D belongs to what is seen, not to the grid: resizing, cropping and flipping move its values with the picture, by the nearest
pixel, and change none of them (a picture that was enlarged by a random scale keeps the distances of its street). Padding is
UNKNOWN. Colours have no part in it.

Source: Cityscapes (CVPR 2016), the README of cityscapesScripts; its cameras' usual B and f from its camera files.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from course_lib.data.bits import both_bytes, keeps_one_byte
from course_lib.data.pairs import Pair, Problem
from course_lib.data.reading import BadPicture, open_picture

UNKNOWN = -1.0
NEAREST = 2.0  # metres; ours. The nearest point of a Cityscapes stereo pair is at about 3.7 m (128 pixels), of MiniStreet 2.5 m
BASELINE, FOCAL = 0.209313, 2262.52  # metres, pixels of a picture 2048 wide
CELL = 16  # pixels; ours: how far errors of depth reach, for noise
NO_DEPTH = "pictures without depth"  # kind of problem

# layout -> (folder of pictures, their ending), then the same of depth files; the first folder that is there counts
FILES = {
    "gta5": (("images", ".png"), (("depth", ".png"),)),
    "synthia": (("RGB", ".png"), (("Depth", ".png"),)),
    "cityscapes": (("leftImg8bit", "_leftImg8bit.png"), (("disparity", "_disparity.png"), ("depth", "_depth.png"))),
}


def with_depth(pairs: Sequence[Pair], layout: str, root: Path) -> tuple[list[Pair], list[Problem]]:
    """The pairs with their depth files, and what has none.

    Raises ValueError for a layout without a place for depth.
    """
    if layout not in FILES:
        prepared = " A prepared set keeps no depth: give the original." if layout == "prepared" else ""
        raise ValueError(
            f"Got {layout}:{root} where depth is read, and {layout} has no place for it; wanted one of {', '.join(FILES)}, in "
            f"which MiniStreet writes it.{prepared}"
        )
    (folder, ending), places = FILES[layout]
    parts = pairs[0].image.relative_to(root).parts if pairs else ()
    if folder in parts:  # SYNTHIA's archive has a folder of its own: root/RAND_CITYSCAPES/RGB
        root = root.joinpath(*parts[: parts.index(folder)])
    place = next((place for place in places if (root / place[0]).is_dir()), places[0])
    found, missing = [], []
    for pair in pairs:
        below = pair.image.relative_to(root / folder).as_posix()
        path = root / place[0] / (below.removesuffix(ending) + place[1])
        if path.is_file():
            found.append(replace(pair, depth=path))
        else:
            missing.append(Problem(NO_DEPTH, str(pair.image), _no_depth(pair, path, layout)))
    return found, missing


def _no_depth(pair: Pair, path: Path, layout: str) -> str:
    cure = "Unpack disparity_trainvaltest.zip there" if layout == "cityscapes" else "MiniStreet writes it: make the set again"
    return (
        f"The picture {str(pair.image)!r} has no depth: wanted {str(path)!r}. {cure}, leave the picture out (a list file, "
        "--skip-bad), or choose a method that reads no depth."
    )


def read_disparity(path: Path, size: tuple[int, int], name: str = "", noise: float = 0.0) -> Tensor:
    """D of a depth file, (H, W) float32. size: that of the picture.

    noise: s of `noisy`; `name`: whose noise it is, the picture's. Raises BadPicture that names a damaged file, one of another
    size or with fewer than 16 bits.
    """
    with open_picture(path, formats=("PNG",)) as image:
        if keeps_one_byte(image):
            p = both_bytes(image, path)[..., 0]
        elif image.mode.startswith("I"):
            p = np.array(image)
        else:
            raise BadPicture(
                f"Depth file {str(path)!r} has mode {image.mode}, wanted grey of 16 bits. Is it a picture of the depth? Unpack "
                "the original file again.",
                "depth files of a wrong mode",
            )
    if p.shape != size:
        raise BadPicture(
            f"Picture and depth differ in size: {str(path)!r} is {p.shape[1]}x{p.shape[0]}, its picture {size[1]}x{size[0]}. "
            "Unpack both again, or leave the picture out with a list file or --skip-bad.",
            "depth files that differ in size",
        )
    D = torch.from_numpy(from_pixels(p) if path.name.endswith("_disparity.png") else from_centimetres(p))
    return noisy(D, noise, name) if noise else D


def from_pixels(p: np.ndarray) -> np.ndarray:
    """Values of Cityscapes' disparity files -> D.

    >>> from_pixels(np.array([0, 1, 256 * 128 + 1])).astype(float).round(3).tolist()
    [-1.0, 0.0, 0.541]
    """
    d = (p.astype(np.float64) - 1) / 256
    D = np.minimum(d * (NEAREST / (BASELINE * FOCAL)), 1)                        # NEAREST / Z,  Z = B f / d
    return np.where(p == 0, UNKNOWN, D).astype(np.float32)


def from_centimetres(p: np.ndarray) -> np.ndarray:
    """Values of MiniStreet's depth files -> D.

    >>> from_centimetres(np.array([0, 100, 400, 2000])).tolist()
    [0.0, 1.0, 0.5, 0.10000000149011612]
    """
    Z = p.astype(np.float64) / 100
    return np.where(p == 0, 0, np.minimum(NEAREST / np.maximum(Z, 0.01), 1)).astype(np.float32)


def noisy(D: Tensor, s: float, name: str) -> Tensor:
    """D with the smooth errors of an estimate:  D exp(s e),  e normal at the corners of cells of 16 pixels, bilinear between.

    The errors of a picture depend on its name alone. UNKNOWN and 0 stay; nothing exceeds 1.
    """
    H, W = D.shape
    seed = int.from_bytes(hashlib.sha256(name.encode(errors="surrogateescape")).digest()[:7], "big")
    numbers = torch.Generator().manual_seed(seed)
    rows, columns = -(-H // CELL), -(-W // CELL)  # of cells that cover the picture
    e = torch.randn(1, 1, rows + 1, columns + 1, generator=numbers)
    e = F.interpolate(e, size=(rows * CELL + 1, columns * CELL + 1), mode="bilinear", align_corners=True)[0, 0, :H, :W]
    return torch.where(D > 0, (D * (s * e).exp()).clamp(max=1), D)
