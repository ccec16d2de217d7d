"""From radiance to a picture: exposure, film curve, optics, white balance, sensor.

Letters: (H, W) pixels; radiance is linear up to the square root (gamma 2).
"""

import numpy as np

from .draws import generator
from .looks import Look

LUMA = np.array((0.30, 0.59, 0.11), np.float32)


def expose(radiance: np.ndarray, look: Look) -> np.ndarray:
    """Auto exposure towards a fixed mean, then a film's shoulder: x (1 + .18 x) / (1 + k x)."""
    gain = look.exposure / (float(radiance.mean()) + look.exposure_offset) ** look.exposure_power
    x = radiance * np.float32(gain)
    return x * (1 + np.float32(0.18) * x) / (1 + np.float32(look.shoulder) * x) * np.float32(1.20)


def blur(image: np.ndarray, passes: float) -> np.ndarray:
    """Passes of [1 2 1]/4 in both directions, the last one fractional, so that blur is continuous in `passes`."""
    while passes > 0.02:
        k = np.float32(0.25 * min(passes, 1))
        passes -= 1
        for axis in (0, 1):
            before, after = _shifted(image, axis)
            image = image * (1 - 2 * k) + k * (before + after)
    return image


def _shifted(image: np.ndarray, axis: int):
    """The image moved by one pixel either way along an axis, its edge repeated."""
    ends = [(1, 1) if i == axis else (0, 0) for i in range(image.ndim)]
    padded = np.pad(image, ends, mode="edge")
    n = image.shape[axis]
    return (padded[:n], padded[2:]) if axis == 0 else (padded[:, :n], padded[:, 2:])


def develop(exposed: np.ndarray, look: Look, seed: int) -> np.ndarray:
    """The camera's part: blur, vignette and white balance, gamma, saturation, contrast, noise; uint8 (H, W, 3)."""
    H, W = exposed.shape[:2]
    image = blur(exposed, look.blur * W / 256)
    x, y = np.linspace(-1, 1, W, dtype=np.float32), np.linspace(-0.5, 0.5, H, dtype=np.float32)[:, None]
    vignette = 1 - np.float32(look.vignette) * (x * x + y * y)
    image = image * (vignette[..., None] * np.array((look.white_red, 1, look.white_blue), np.float32))
    image = np.sqrt(np.maximum(image, 0))
    grey = (image[..., :1] * LUMA[0] + image[..., 1:2] * LUMA[1]) + image[..., 2:] * LUMA[2]
    image = grey + (image - grey) * np.float32(look.saturation)
    image = (image - np.float32(0.45)) * np.float32(look.contrast) + np.float32(0.45)
    if look.noise > 0:
        random = generator(seed, "noise").random((2, H, W, 3), dtype=np.float32)
        triangular = random[0] + random[1] - 1
        image += triangular * np.sqrt(np.clip(1.2 - image, 0.15, 1)) * np.float32(look.noise)  # more in the darks
    return (np.clip(image, 0, 1) * 255 + np.float32(0.5)).astype(np.uint8)
