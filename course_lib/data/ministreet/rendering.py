"""`render`: one street, one camera, one picture with its label, depth and instances.

Letters: (H, W) pixels; (h, w) = (2H+1, 2W+1) samples (camera.py).
"""

from typing import NamedTuple

import numpy as np

from . import shadows
from .camera import Camera
from .classes import SKY
from .draws import Draws
from .exposure import blur, develop, expose
from .ground import ground
from .looks import DEFAULT_GAP, LOOKS, StreetGrammar, resolve
from .raycast import cast
from .shading import View, shade
from .street import DRAWS, Street, camera_in

LOOK_NAMES = ("game", "camera")
DEFAULT_GRAMMAR = StreetGrammar()
LAST_SHADOW = 90.0  # metres
FIVE = ((1, 1, 1 / 2), (0, 0, 1 / 8), (0, 2, 1 / 8), (2, 0, 1 / 8), (2, 2, 1 / 8))  # row, column, weight in a pixel


class Scene(NamedTuple):
    image: np.ndarray  # (H, W, 3) uint8
    label: np.ndarray  # (H, W) uint8 train ids
    depth: np.ndarray  # (H, W) float32 metres along the camera's axis; the sky is infinite
    instance: np.ndarray  # (H, W) int16; 0 is ground and sky


def build(seed: int, look: str, size=(128, 256), gap: float = DEFAULT_GAP, grammar=DEFAULT_GRAMMAR, looks=LOOKS):
    """The street of a seed and the camera in it (what `render` draws): (Street, Camera)."""
    check(seed, look, size, gap)
    resolved = resolve(seed, gap if look == "camera" else 0.0, looks)
    street = Street(Draws.stream(seed, "layout", DRAWS), resolved, grammar)
    return street, camera_in(street, tuple(size))


def render(
    seed: int,
    look: str,
    size: tuple[int, int] = (128, 256),
    gap: float = DEFAULT_GAP,
    *,
    grammar: StreetGrammar = DEFAULT_GRAMMAR,
    looks: dict = LOOKS,
) -> Scene:
    """Draw one street of MiniStreet, the same bytes from the same seed.

    look "game" is the source's look, whatever the gap; look "camera" is the target's, at `gap` of the way from game (0, byte
    for byte the game picture) to the full camera look (1). One seed shows one street at every gap.

    Raises ValueError for an unknown look, a size that is not positive, a negative gap or seed.

    >>> scene = render(seed=1, look="game", size=(32, 64))
    >>> scene.image.shape, scene.label.shape, str(scene.depth.dtype)
    ((32, 64, 3), (32, 64), 'float32')
    """
    street, camera = build(seed, look, size, gap, grammar, looks)
    plane = ground(street, camera)
    depth = plane.depth
    code, face = cast(street.table, camera, depth)
    label = np.concatenate([[255], street.table.label]).astype(np.uint8).take(code)
    label = np.where(code > 0, label, plane.label)
    surface = (code.astype(np.int32) * 8 + face) * 32 + label  # one number per visible surface
    edge, needed = edges(surface)

    pixels = (slice(1, None, 2), slice(1, None, 2))  # the samples at pixel centres
    centre_depth, centre_label = depth[pixels].copy(), label[pixels].copy()
    points = _world(camera, centre_depth)
    lit = (centre_label != SKY) & (centre_depth < LAST_SHADOW)
    shadow = shadows.cast_shadows(street.table, camera, points, lit, street.look.sun)
    sunlit = blur(1 - shadow.astype(np.float32), street.look.shadow_blur * camera.size[1] / 256)
    nearest = nearest_pixel(surface)
    sunlit, open_sky = (spread(v, nearest) for v in (sunlit, shadows.contact(street.table, camera, points)))
    view = View(depth, label, code, face, plane.across, plane.kerb_face, sunlit, open_sky)

    index = np.flatnonzero(needed)
    radiance = expose(shade(street, camera, view, index), street.look)
    image = develop(gather(radiance, index, edge), street.look, seed)

    centre_depth[centre_label == SKY] = np.inf
    instances = np.concatenate([[0], street.table.instance]).astype(np.int16)
    return Scene(image, centre_label, centre_depth, instances.take(code[pixels]))


def _world(camera: Camera, depth: np.ndarray):
    """World x, y, z (H, W) float32 of what the pixel centres see."""
    return depth * camera.dx[1::2], np.float32(camera.height) + depth * camera.dy[1::2, None], depth


def edges(surface: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Which pixels (H, W) see more than one surface in their five samples, and which samples (h, w) must be shaded."""
    h, w = surface.shape
    centre = surface[1::2, 1::2]
    edge, needed = np.zeros(centre.shape, bool), np.zeros(surface.shape, bool)
    for r, c, _ in FIVE[1:]:
        edge |= surface[r : h - 2 + r : 2, c : w - 2 + c : 2] != centre
    for r, c, _ in FIVE[1:]:
        needed[r : h - 2 + r : 2, c : w - 2 + c : 2] |= edge
    needed[1::2, 1::2] = True
    return edge, needed


def nearest_pixel(surface: np.ndarray) -> np.ndarray:
    """For the pixels' corners (H+1, W+1): the flat index of an adjacent pixel that sees the same surface, if one does.

    So a corner sample takes its shadow from the surface that it lies on, not from the one beside it.
    """
    corner, centre = surface[::2, ::2], surface[1::2, 1::2]
    H, W = centre.shape
    r, c = np.arange(H + 1)[:, None], np.arange(W + 1)
    nearest = np.minimum(r, H - 1) * W + np.minimum(c, W - 1)
    for below, beside in ((0, 0), (0, 1), (1, 0), (1, 1)):  # the pixels' upper left corners, ..., lower right ones
        corners = slice(below, H + below), slice(beside, W + beside)
        np.copyto(nearest[corners], r[:H] * W + c[:W], where=corner[corners] == centre)
    return nearest


def spread(values: np.ndarray, nearest: np.ndarray) -> np.ndarray:
    """Values at pixel centres (H, W) to the samples that may be shaded: centres and corners."""
    H, W = values.shape
    samples = np.empty((2 * H + 1, 2 * W + 1), values.dtype)
    samples[1::2, 1::2], samples[::2, ::2] = values, values.take(nearest)
    return samples


def gather(radiance: np.ndarray, index: np.ndarray, edge: np.ndarray) -> np.ndarray:
    """Samples to pixels: the centre of a flat pixel, the weighted five of an edge pixel; (H, W, 3)."""
    H, W = edge.shape
    w = 2 * W + 1
    samples = np.zeros(((2 * H + 1) * w, 3), np.float32)
    samples[index] = radiance
    image = samples.reshape(2 * H + 1, w, 3)[1::2, 1::2].copy()
    row, column = np.nonzero(edge)
    first = 2 * row * w + 2 * column
    image[row, column] = sum(np.float32(k) * samples.take(first + r * w + c, 0) for r, c, k in FIVE)
    return image


def check(seed: int, look: str, size, gap: float):
    if look not in LOOK_NAMES:
        raise ValueError(f'look = {look!r}: MiniStreet has two looks, "game" (source) and "camera" (target).')
    if len(size) != 2 or min(size) < 1 or any(int(n) != n for n in size):
        raise ValueError(f"size = {size!r}: give (height, width) in whole pixels, both positive, such as (128, 256).")
    if not gap >= 0:
        raise ValueError(f"gap = {gap!r}: give 0 (looks like the game) to 1 (the full camera look) or a little more.")
    if seed < 0:
        raise ValueError(f"seed = {seed!r}: give a whole number that is not negative.")


__all__ = ["Camera", "Scene", "build", "render"]
