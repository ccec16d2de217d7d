"""Picture files of every mode with known pixels, each with or without an orientation mark.

A kind is a mode in a file format. `write(kind, path, mark)` writes a picture of 2 rows and 3 columns as it is stored, and
`KINDS[kind]` is what it shows as it is stored: (2, 3, 3) uint8 RGB.
"""

import struct
import zlib
from pathlib import Path

import numpy as np
from PIL import Image

from course_lib.data.png16 import encode_png16

GREY = np.array([[0, 51, 102], [153, 204, 255]], dtype=np.uint8)
BITS = np.array([[255, 0, 0], [255, 255, 0]], dtype=np.uint8)  # another picture after each turn
RGB = np.stack([GREY, GREY[::-1], GREY[:, ::-1]], axis=-1)
ALPHA = np.array([[0, 255, 128], [1, 0, 0]], dtype=np.uint8)
PALETTE = [(200, 10, 0), (0, 200, 10), (10, 0, 200), (9, 9, 9), (90, 0, 0), (0, 0, 91)]
INDEX = np.arange(6, dtype=np.uint8).reshape(2, 3)
DEEP = np.array([[0, 0x8001, 0xFFFF], [128, 129, 0x7FFF]], dtype=np.uint16)
DEEP_BYTES = np.array([[0, 128, 255], [0, 1, 127]], dtype=np.uint8)  # round(v / 257), by hand
DEEP_RGB = np.stack([DEEP, DEEP[::-1], DEEP[:, ::-1]], axis=-1)
DEEP_RGB_BYTES = np.stack([DEEP_BYTES, DEEP_BYTES[::-1], DEEP_BYTES[:, ::-1]], axis=-1)


def grey(values: np.ndarray) -> np.ndarray:
    return np.stack([values] * 3, axis=-1)


def palette_image() -> Image.Image:
    image = Image.fromarray(INDEX)
    image.putpalette([value for colour in PALETTE for value in colour])
    return image


def _image(mode: str) -> Image.Image:
    if mode == "1":
        return Image.fromarray(BITS).convert("1")
    if mode == "P":
        return palette_image()
    if mode == "PA":
        image = Image.new("PA", (3, 2))
        image.putpalette([value for colour in PALETTE for value in colour])
        for y in range(2):
            for x in range(3):
                image.putpixel((x, y), (int(INDEX[y, x]), int(ALPHA[y, x])))
        return image
    arrays = {
        "L": GREY, "LA": np.dstack([GREY, ALPHA]), "RGB": RGB, "RGBA": np.dstack([RGB, ALPHA]),
        "CMYK": np.dstack([255 - RGB, np.zeros_like(GREY)]), "I": DEEP.astype(np.int32), "I;16": DEEP,
        "I;16B": DEEP.astype(">u2"), "F": GREY.astype(np.float32) / 255,
    }  # fmt: skip
    array = arrays[mode]
    return Image.frombytes(mode, (3, 2), array.tobytes())


_PALETTE_RGB = np.array(PALETTE, dtype=np.uint8).reshape(2, 3, 3)
KINDS = {
    "1 png": grey(BITS), "L png": grey(GREY), "LA png": grey(GREY), "P png": _PALETTE_RGB,
    "P transparent png": _PALETTE_RGB, "RGB png": RGB, "RGBA png": RGB, "RGB transparent png": RGB,
    "I;16 png": grey(DEEP_BYTES), "LA 16 png": grey(DEEP_BYTES), "RGB 16 png": DEEP_RGB_BYTES,
    "RGBA 16 png": DEEP_RGB_BYTES, "1 tif": grey(BITS), "L tif": grey(GREY), "LA tif": grey(GREY),
    "P tif": _PALETTE_RGB, "PA tif": _PALETTE_RGB, "RGB tif": RGB, "RGBA tif": RGB, "CMYK tif": RGB,
    "I tif": grey(DEEP_BYTES), "I;16 tif": grey(DEEP_BYTES), "I;16B tif": grey(DEEP_BYTES), "F tif": grey(GREY),
    "RGB lzw tif": RGB, "I;16 lzw tif": grey(DEEP_BYTES), "RGB 16 < tif": DEEP_RGB_BYTES,
    "RGB 16 > tif": DEEP_RGB_BYTES, "RGBA 16 < tif": DEEP_RGB_BYTES, "CMYK 16 < tif": 255 - DEEP_RGB_BYTES,
    "RGB webp": RGB, "RGBA webp": RGB,
}  # fmt: skip
UNMARKED = {
    "1 bmp": grey(BITS), "L bmp": grey(GREY), "P bmp": _PALETTE_RGB, "RGB bmp": RGB, "L gif": grey(GREY), "P gif": _PALETTE_RGB,
}  # fmt: skip


def exif(mark: int) -> bytes:
    """EXIF data with nothing but an orientation."""
    return b"II*\0" + struct.pack("<IHHHIHHI", 8, 1, 0x0112, 3, 1, mark, 0, 0)


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def with_chunk(png: bytes, kind: bytes, content: bytes, behind: bool = False) -> bytes:
    """A PNG file with one more chunk, before or behind its pixels."""
    at = png.index(b"IEND" if behind else b"IDAT") - 4
    return png[:at] + chunk(kind, content) + png[at:]


def png16(values: np.ndarray) -> bytes:
    """(H, W, 2) uint16 as a PNG of grey and alpha, 16 bits each; other numbers of channels: `encode_png16`."""
    if values.shape[2] != 2:
        return encode_png16(values)
    lines = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    header = struct.pack(">IIBBBBB", values.shape[1], values.shape[0], 16, 4, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(lines)) + chunk(b"IEND", b"")


def tiff16(values: np.ndarray, order: str, mark: int, photometric: int = 2, planar: int = 1) -> bytes:
    """(H, W, C) uint16 as an uncompressed TIFF file of 16 bits a channel, in either order of bytes."""
    height, width, channels = values.shape
    data = values.astype(values.dtype.newbyteorder(order)).tobytes()
    bits, start = struct.pack(f"{order}{channels}H", *[16] * channels), 8 + 2 + 12 * 11 + 4
    entries = [  # tag, type (3: two bytes, 4: four), count, value
        (256, 4, 1, width), (257, 4, 1, height), (258, 3, channels, start), (259, 3, 1, 1), (262, 3, 1, photometric),
        (273, 4, 1, start + len(bits)), (274, 3, 1, mark), (277, 3, 1, channels), (278, 4, 1, height), (279, 4, 1, len(data)),
        (284, 3, 1, planar),
    ]  # fmt: skip
    head = (b"II" if order == "<" else b"MM") + struct.pack(f"{order}HIH", 42, 8, len(entries))
    for tag, kind, count, value in entries:
        short = kind == 3 and count == 1
        head += struct.pack(f"{order}HHI", tag, kind, count)
        head += struct.pack(f"{order}HH", value, 0) if short else struct.pack(f"{order}I", value)
    return head + struct.pack(f"{order}I", 0) + bits + data


def write(kind: str, folder: Path, mark: int = 1) -> Path:
    """The picture of a kind in a new file of this folder."""
    *mode, ending = kind.split()
    path = folder / f"{'_'.join(mode).replace(';', '-').replace('<', 'le').replace('>', 'be')}_{mark}.{ending}"
    deep = {"LA": np.dstack([DEEP, DEEP.T.reshape(2, 3)]), "RGB": DEEP_RGB, "RGBA": np.dstack([DEEP_RGB, DEEP]),
            "CMYK": np.dstack([DEEP_RGB, np.zeros_like(DEEP)])}  # fmt: skip
    if "16" in mode and ending == "png":
        path.write_bytes(with_chunk(png16(deep[mode[0]]), b"eXIf", exif(mark)))
    elif "16" in mode:
        path.write_bytes(tiff16(deep[mode[0]], mode[2], mark, photometric=5 if mode[0] == "CMYK" else 2))
    else:
        options = {"lossless": True, "exact": True} if ending == "webp" else {}
        options |= {"compression": "tiff_lzw"} if "lzw" in mode else {}
        options |= {"transparency": bytes([0, 255, 7])} if mode[0] == "P" and "transparent" in mode else {}
        options |= {"transparency": tuple(RGB[0, 0].tolist())} if mode[0] == "RGB" and "transparent" in mode else {}
        image = _image(mode[0])
        if mark != 1:
            found = image.getexif()
            found[0x0112] = mark
            options["exif"] = found
        image.save(path, **options)
    return path


def upright(stored: np.ndarray, mark: int) -> np.ndarray:
    """A picture as a viewer shows it, pixel by pixel from the table of the EXIF standard (tag 0112)."""
    row_at, column_at = {
        1: ("top", "left"), 2: ("top", "right"), 3: ("bottom", "right"), 4: ("bottom", "left"),
        5: ("left", "top"), 6: ("right", "top"), 7: ("right", "bottom"), 8: ("left", "bottom"),
    }[mark]  # fmt: skip
    rows, columns = stored.shape[:2]
    shape = (rows, columns) if row_at in ("top", "bottom") else (columns, rows)
    shown = np.empty(shape + stored.shape[2:], dtype=stored.dtype)
    for r in range(rows):
        for c in range(columns):
            place = {}
            for number, side in ((r, row_at), (c, column_at)):
                if side in ("top", "bottom"):
                    place["y"] = number if side == "top" else shape[0] - 1 - number
                else:
                    place["x"] = number if side == "left" else shape[1] - 1 - number
            shown[place["y"], place["x"]] = stored[r, c]
    return shown
