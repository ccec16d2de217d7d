"""Values of more than 8 bits -> bytes.

Letters: H, W image size, C channels, b bits, v a value.

    b bits       y = round(255 v / (2^b - 1))        b = 16 unless `bits` says otherwise; v above 2^b - 1 is an error
    mode F       y = round(255 v)                    v from 0 to 1, everything else is an error

Pillow gives grey of 16 bits as it is (modes I;16, I;16B, I). Of colour it keeps one byte of each two-byte channel: the upper
one, or the lower one where it is given the wrong byte order. Reading twice gives both.
"""

from __future__ import annotations

import sys
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image

BITS = 16
_USUAL = (8, 10, 12, 14)  # depths of cameras, below 16
_OTHER_BYTE = {";16B": ";16L", ";16L": ";16B", ";16N": ";16B" if sys.byteorder == "little" else ";16L"}
_BITS_PER_SAMPLE = 258  # TIFF tag


def check_bits(bits: int) -> int:
    """`bits` itself, or ValueError."""
    if isinstance(bits, bool) or not isinstance(bits, int) or not 1 <= bits <= BITS:
        raise ValueError(
            f"Got bits={bits!r}, wanted a whole number from 1 to {BITS}: how many bits of a 16-bit picture hold data. With "
            "bits=12 the value 4095 is white."
        )
    return bits


def deep_values(image: Image.Image, path: Path) -> tuple[np.ndarray, str] | None:
    """The values of a picture of more than 8 bits, without alpha, and the mode that they have as bytes; None: it has 8.

    (H, W) for grey (L), (H, W, C) for colour (RGB, CMYK). `image` is opened from `path` and not loaded. Raises ValueError
    for a form that Pillow does not give in full.
    """
    if image.mode == "F" or image.mode.startswith("I"):
        return np.array(image), "L"
    raw = _raw_mode(image)
    if keeps_one_byte(image) and not raw.startswith("RGBa"):
        values = both_bytes(image, path)
        colour = "L" if values.shape[2] == 2 else image.mode.removesuffix("A")
        return (values[..., 0] if colour == "L" else values[..., : len(colour)]), colour
    if image.format == "TIFF" and max(image.tag_v2.get(_BITS_PER_SAMPLE, (1,))) > 8:
        raise ValueError(f"its more than 8 bits a channel are stored as {raw}, which is not read: save it as a 16-bit PNG file")
    return None


def keeps_one_byte(image: Image.Image) -> bool:
    """Whether Pillow's picture, opened and not loaded, will have one byte of each two-byte channel."""
    return _raw_mode(image)[-4:] in _OTHER_BYTE and not image.mode.startswith("I")


def both_bytes(image: Image.Image, path: Path) -> np.ndarray:
    """The channels of such a picture as (H, W, C) uint16, grey with alpha as 2 channels. `image` is opened from `path`."""
    if _raw_mode(image) == "LA;16B":  # Pillow knows no other order of it, but its four bytes a pixel can be had as they are
        image.tile = [tile._replace(args="RGBA") for tile in image.tile]
        four = np.array(image).astype(np.uint16)
        return (four[..., 0::2] << 8) | four[..., 1::2]
    with Image.open(path, formats=(image.format,)) as again:
        again.tile = [tile._replace(args=_of_other_byte(tile.args)) for tile in again.tile]
        lower = np.array(again)
    return (np.array(image).astype(np.uint16) << 8) | lower


def to_bytes(values: np.ndarray, bits: int = BITS) -> np.ndarray:
    """Values -> uint8 of the same shape, as above. ValueError for one beyond the range: a phrase that follows a file's name."""
    if values.dtype.kind == "f":
        low, high = float(values.min()), float(values.max())
        if not (low >= 0 and high <= 1):  # also with NaN
            raise ValueError(
                f"has floating-point values from {low:.6g} to {high:.6g}; wanted 0 (black) to 1 (white). Scale them, or save "
                "it as a PNG file of 8 or 16 bits."
            )
        return (values * 255 + 0.5).astype(np.uint8)
    low, high, white = int(values.min()), int(values.max()), 2**bits - 1
    if low < 0 or high > white:
        cure, enough = "Scale its values to 0..65535.", high.bit_length()
        if low >= 0 and enough <= BITS:
            cure = f"Give bits={enough}{' or more' * (enough < BITS)}, for all pictures of the data set alike."
        raise ValueError(f"has the value {low if low < 0 else high}; wanted 0 to {white}, which {bits} bits hold. {cure}")
    return _table(bits)[values]


def usual_bits(largest: int) -> int:
    """The depth that a folder has whose largest 16-bit value is `largest`: 8, 10, 12 or 14 bits if it fits, else 16."""
    return next((bits for bits in _USUAL if largest < 2**bits), BITS)


def depth_note(largest: int | None, bits: int) -> str | None:
    """What to say where all 16-bit pictures of a data set hold fewer bits than they are scaled by."""
    if largest is None or bits != BITS or largest == 0 or (found := usual_bits(largest)) == BITS:
        return None
    return (
        f"the largest value of all 16-bit pictures is {largest}: they seem to hold {found} bits, and scaled by 65535 they "
        f"are nearly black. With --bits {found} (in training --set bits={found}) they are scaled by {2**found - 1}."
    )


@cache
def _table(bits: int) -> np.ndarray:
    white = 2**bits - 1
    return ((np.arange(white + 1) * 255 + white // 2) // white).astype(np.uint8)


def _raw_mode(image: Image.Image) -> str:
    """How the file packs its pixels, in Pillow's words, such as RGB;16B."""
    args = image.tile[0].args if image.tile else ""
    return str(args[0] if isinstance(args, tuple) and args else args)


def _of_other_byte(args: str | tuple) -> str | tuple:
    if isinstance(args, tuple):
        return _of_other_byte(args[0]), *args[1:]
    return args[:-4] + _OTHER_BYTE[args[-4:]]
