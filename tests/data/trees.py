"""Small data sets on disk, in the layouts of the real ones."""

import struct
import zlib
from pathlib import Path

import numpy as np
from PIL import Image


def write_image(path: Path, height: int = 6, width: int = 8, seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def write_label(path: Path, ids, palette: bool = False) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(np.asarray(ids, dtype=np.uint8))
    if palette:
        image.putpalette([255 - i // 3 for i in range(768)])  # so that colours are never the indices
    image.save(path)
    return path


def write_png16(path: Path, pixels: np.ndarray) -> Path:
    """An RGB PNG of 16 bits a channel, by hand (Pillow cannot write it). pixels (H, W, 3) uint16."""
    path.parent.mkdir(parents=True, exist_ok=True)
    height, width = pixels.shape[:2]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    )
    return path


def images_and_labels(root: Path, count: int = 5, raw_id: int = 7, images: str = "images", labels: str = "labels") -> Path:
    """GTA5's and CamVid's form: 00000.png ..., picture i with id `raw_id` and, in its first pixel, id i."""
    for i in range(count):
        ids = np.full((6, 8), raw_id)
        ids[0, 0] = i
        write_image(root / images / f"{i:05}.png", seed=i)
        write_label(root / labels / f"{i:05}.png", ids, palette=True)
    return root


CITYSCAPES_NAMES = {
    "train": ["aachen/aachen_000001_000019", "aachen/aachen_000000_000019", "bochum/bochum_000000_000313"],
    "val": ["frankfurt/frankfurt_000000_000294"],
}


def cityscapes(root: Path) -> Path:
    for split, names in CITYSCAPES_NAMES.items():
        for name in names:
            write_image(root / "leftImg8bit" / split / f"{name}_leftImg8bit.png")
            write_label(root / "gtFine" / split / f"{name}_gtFine_labelIds.png", np.full((6, 8), 26))
            write_label(root / "gtFine" / split / f"{name}_gtFine_color.png", np.full((6, 8), 1))
    return root
