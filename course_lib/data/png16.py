"""16-bit PNG files: SYNTHIA's labels (channel 0 class, channel 1 instance) and depth in centimetres.

Pillow writes no 16-bit colour, so a PNG without filters is written here, in a few lines. It does read it, see `bits`.
"""

import struct
import zlib
from pathlib import Path

import numpy as np
from PIL import Image

from course_lib.data.bits import both_bytes, keeps_one_byte

_COLOUR_TYPE = {1: 0, 3: 2, 4: 6}  # channels -> grey, RGB, RGBA


def encode_png16(pixels: np.ndarray) -> bytes:
    """(H, W) or (H, W, C) whole numbers of 0..65535, C 1, 3 or 4, as the bytes of a PNG with 16 bits per channel."""
    pixels = np.asarray(pixels)
    pixels = pixels[..., None] if pixels.ndim == 2 else pixels
    if pixels.ndim != 3 or pixels.shape[2] not in _COLOUR_TYPE or pixels.size == 0:
        raise ValueError(f"Got pixels of shape {pixels.shape}, wanted (H, W) or (H, W, C) with 1, 3 or 4 channels.")
    if pixels.min() < 0 or pixels.max() > 65535:
        raise ValueError(f"Got values {pixels.min()} to {pixels.max()}; 16 bits hold 0 to 65535. Scale or clip first.")
    height, width, channels = pixels.shape
    rows = pixels.astype(">u2").reshape(height, -1)  # the most significant byte first
    lines = b"".join(b"\0" + row.tobytes() for row in rows)  # 0: this row is not filtered
    header = struct.pack(">IIBBBBB", width, height, 16, _COLOUR_TYPE[channels], 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(lines, 6)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(*chunk) for chunk in chunks)


def read_png16(path: Path | str) -> np.ndarray:
    """The channels of a PNG file as (H, W, C) uint16; an 8-bit file keeps its values.

    Raises FileNotFoundError, or ValueError for what is no PNG.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"No file {str(path)!r}.")
    try:
        with Image.open(path, formats=("PNG",)) as image:
            if keeps_one_byte(image):
                return both_bytes(image, path)
            return np.atleast_3d(np.array(image)).astype(np.uint16)  # one or two bytes that Pillow keeps as they are
    except (OSError, SyntaxError, ValueError, struct.error, zlib.error) as error:
        raise ValueError(f"{str(path)!r} is no readable PNG. Unpack or download it again. ({error})") from error


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
