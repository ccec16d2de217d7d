"""Tileable noise, made once per process from one fixed seed: texture for asphalt, plaster, leaves and clouds.

Each bank is 512 x 512 and rank-uniform, so `value < p` holds on a share p of the area.
"""

from functools import cache

import numpy as np

SIZE = 512
WHITE, FINE, MIDDLE, FRACTAL = range(4)  # independent texels; grains of 2-4, of 8-16 texels; all scales (clouds)


@cache
def bank() -> np.ndarray:
    """(4, 512*512) float32 in [0, 1], flat so that one `take` reads a whole list of points."""
    white = np.random.RandomState(7).rand(SIZE, SIZE)
    frequency2 = np.fft.fftfreq(SIZE)[:, None] ** 2 + np.fft.fftfreq(SIZE)[None] ** 2
    spectrum = np.fft.fft2(white - 0.5)
    banks = [white.ravel()]
    for gain in (np.exp(-28 * frequency2), np.exp(-520 * frequency2), (frequency2 + 2e-6) ** -0.85):
        field = np.fft.ifft2(spectrum * gain).real.ravel()
        banks.append(field.argsort().argsort() / field.size)  # ranks: uniform whatever the filter
    return np.round(np.stack(banks) * 65535).astype(np.float32) / np.float32(65535)


def at(which: int, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Noise at texels (u, v), any shapes that broadcast; coordinates wrap."""
    index = ((u.astype(np.int32) & (SIZE - 1)) << 9) | (v.astype(np.int32) & (SIZE - 1))
    return bank()[which].take(index)


def signed(which: int, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """The same, centred: in [-0.5, 0.5]."""
    return at(which, u, v) - np.float32(0.5)
