"""The ground: road at y = 0, sidewalks and terrain a kerb higher, the kerb's face between them; no solids, one formula.

Letters: (h, w) the grid of samples.
"""

from typing import NamedTuple

import numpy as np

from .camera import Camera
from .classes import ROAD, SIDEWALK, SKY, TERRAIN
from .street import PLOTS_PER_METRE, Street

FAR = np.float32(1e4)  # metres: the depth of the sky while solids are drawn over it


class Ground(NamedTuple):
    depth: np.ndarray  # (h, w) float32 metres
    label: np.ndarray  # (h, w) uint8
    across: np.ndarray  # (h, w) float32: the road coordinate s, metres
    kerb_face: np.ndarray  # (h, w) bool


def ground(street: Street, camera: Camera) -> Ground:
    """Intersect every ray below the horizon with the road's plane and, where that misses the road, with the higher one."""
    h, w = camera.grid
    dx, dy = camera.dx, camera.dy
    first = int((dy > -2e-3).sum())  # the first row that meets the ground before 1 km
    depth, label = np.full((h, w), FAR, np.float32), np.full((h, w), SKY, np.uint8)
    across, kerb_face = np.zeros((h, w), np.float32), np.zeros((h, w), bool)
    dy = dy[first:, None]
    low, high = camera.height / -dy, (camera.height - street.kerb) / -dy  # (rows, 1) depth of the two planes
    start, width = street.crossing
    on_crossing_low, on_crossing_high = ((start < z) & (z < start + width) for z in (low, high))

    s_low, s_high = (z * dx - np.float32(street.offset) - np.float32(0.5 * street.bend) * z * z for z in (low, high))
    a_low, a_high = np.abs(s_low), np.abs(s_high)
    half_width = np.float32(street.half_width)
    raised = ~((a_high < half_width) | on_crossing_high)  # the ray meets the sidewalk before it sinks to the road
    face = ~raised & ~((a_low < half_width) | on_crossing_low)  # over the road at kerb height, beside it at road height
    step = a_low - a_high
    part = np.where(np.abs(step) > 1e-4, (half_width - a_high) / np.where(step == 0, 1, step), 0).clip(0, 1)
    face_z = high + part * (low - high)  # exact on straight roads, linear between the planes on bent ones
    face_z = np.where(on_crossing_high & (a_high >= half_width), np.float32(start + width), face_z)
    z = np.where(raised, high, np.where(face, face_z, low))
    s = np.where(raised, s_high, s_low)

    right = s > 0
    beyond = np.abs(s) - half_width
    sidewalk = np.where(right, np.float32(street.sidewalks[1]), np.float32(street.sidewalks[0]))
    strip = np.where(right, np.float32(street.strips[1]), np.float32(street.strips[0]))
    plot = np.minimum(high * PLOTS_PER_METRE, street.open_plots.shape[1] - 1).astype(np.int16)[:, 0]
    open_plot = np.where(right, street.open_plots[1, plot][:, None], street.open_plots[0, plot][:, None])
    on_strip = (strip > 0) & (beyond > 0.25) & (beyond < 0.25 + 1.2 * strip) & (sidewalk > 2.6)
    terrain = raised & (((beyond > sidewalk) & open_plot) | on_strip)

    label[first:] = np.where(terrain, TERRAIN, np.where(raised | face, SIDEWALK, ROAD))
    depth[first:], across[first:], kerb_face[first:] = z, s, face
    return Ground(depth, label, across, kerb_face)
