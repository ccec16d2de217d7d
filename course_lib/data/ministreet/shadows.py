"""Shadows: an exact ray to the sun from every pixel's centre, and the dark contact below vehicles and people.

Each occluder is tested only inside the screen box of its shadow volume (its corners, and its corners slid along the sun's
rays to the ground), and only for pixels that are not dark already.

Letters: (H, W) pixels; `points` are world x, y, z (H, W) of what the pixel centres see.
"""

import numpy as np

from . import noise
from .camera import Camera
from .classes import PERSON
from .solids import BOX, CONVEX, CYLINDER, LEAF, Solids

FARTHEST, FARTHEST_SMALL, LARGE = 70.0, 30.0, 1.1  # metres: big things cast shadows farther away than small ones


def cast_shadows(solids: Solids, camera: Camera, points, lit: np.ndarray, sun: np.ndarray) -> np.ndarray:
    """(H, W) bool: pixels whose ray to the sun meets a solid; `lit` (H, W) says which to test."""
    x, y, z = (p.ravel() for p in points)
    lit, shadow, depth, columns = lit.copy(), np.zeros(lit.size, bool), points[2], lit.shape[1]
    size = np.maximum(np.maximum(solids.hx, solids.hy), solids.hz)
    occluders = np.flatnonzero(
        (solids.shadow > 0) & (solids.z < np.where(size > LARGE, FARTHEST, FARTHEST_SMALL))
    )
    u0, u1, v0, v1, nearest, farthest = _shadow_boxes(solids, camera, occluders, sun)
    still = lit.ravel()
    for j, i in enumerate(occluders):
        if u1[j] <= u0[j] or v1[j] <= v0[j] or farthest[j] < 0.8:
            continue
        rows, window = slice(v0[j], v1[j]), slice(u0[j], u1[j])
        near, width = depth[rows, window], u1[j] - u0[j]
        candidates = (near > nearest[j] - 0.1) & (near < farthest[j] + 0.1)
        candidates &= lit[rows, window]
        inside = candidates.ravel().nonzero()[0]
        if not len(inside):
            continue
        index = inside + inside // width * (columns - width) + (v0[j] * columns + u0[j])
        dark = index[meets(solids, i, x.take(index), y.take(index), z.take(index), sun)]
        shadow[dark] = True
        still[dark] = False
    return shadow.reshape(lit.shape)


def meets(solids: Solids, i: int, x, y, z, sun: np.ndarray) -> np.ndarray:
    """Whether the rays from the points towards the sun meet solid i (a convex counts as its box)."""
    f, c, s = solids.f32, float(solids.cos[i]), float(solids.sin[i])
    px, py, pz = x - f["x"][i], y - f["y"][i], z - f["z"][i]
    ox, oz, oy = f["cos"][i] * px + f["sin"][i] * pz, f["cos"][i] * pz - f["sin"][i] * px, py
    lx, ly, lz = c * float(sun[0]) + s * float(sun[2]), float(sun[1]), c * float(sun[2]) - s * float(sun[0])
    hx, hy, hz = float(solids.hx[i]), float(solids.hy[i]), float(solids.hz[i])
    single = np.float32
    if solids.kind[i] in (BOX, CONVEX):
        enter, leave = None, None
        for o, along, half in ((ox, lx, hx), (oy, ly, hy), (oz, lz, hz)):
            along = along if abs(along) > 1e-4 else 1e-4
            middle, reach = o * single(-1 / along), single(abs(half / along))
            enter = middle - reach if enter is None else np.maximum(enter, middle - reach)
            leave = middle + reach if leave is None else np.minimum(leave, middle + reach)
        return (enter < leave) & (leave > 0.05)
    flat = solids.kind[i] == CYLINDER  # no y in a cylinder's quadratic
    dx, dy, dz = lx / hx, (0.0 if flat else ly / hy), lz / hz
    ex, ez = ox * single(1 / hx), oz * single(1 / hz)
    a, b, c = single(dx * dx + dy * dy + dz * dz), ex * single(dx) + ez * single(dz), ex * ex + ez * ez
    if not flat:
        ey = oy * single(1 / hy)
        b, c = b + ey * single(dy), c + ey * ey
    root = b * b - a * (c - 1)
    if solids.material[i] == LEAF:  # dappled: light falls through where noise exceeds the thickness
        grain = noise.at(noise.MIDDLE, ox * single(37) + 11 * f["phase"][i], oz * single(37))
        return (root > a * single(0.5 + 0.9 * solids.a[i]) * grain) & (b < 0.25)
    hit = (root > 0) & (b < 0) & (c > 1.02)
    if flat:
        hit &= oy - (b + np.sqrt(np.maximum(root, 0))) / a * single(ly) < hy  # where the ray enters
    return hit


def _shadow_boxes(solids: Solids, camera: Camera, occluders: np.ndarray, sun: np.ndarray):
    """Screen boxes (in pixels) and depth ranges of the shadow volumes."""
    x, y, z = solids.corners()[:, occluders]
    y = np.maximum(y, 0)
    slide = y / sun[1]
    x, z = np.concatenate([x, x - slide * sun[0]], 1), np.concatenate([z, z - slide * sun[2]], 1)
    y = np.concatenate([y, 0 * y], 1)
    u, v = _pixels(camera, x, y, np.maximum(z, 0.3))
    rows, columns = camera.size
    behind = z.min(1) < 0.3  # then the box reaches the edge of the picture on its side
    u0 = np.where(behind & (x.min(1) < -0.5), 0, u.min(1))
    u1 = np.where(behind & (x.max(1) > 0.5), columns, u.max(1))
    v1 = np.where(behind, rows, v.max(1))
    u0, v0 = (np.clip(np.rint(e) - 1, 0, n).astype(int) for e, n in ((u0, columns), (v.min(1), rows)))
    u1, v1 = (np.clip(np.rint(e) + 2, 0, n).astype(int) for e, n in ((u1, columns), (v1, rows)))
    return u0, u1, v0, v1, z.min(1), z.max(1)


def _pixels(camera: Camera, x, y, z):
    """World points to columns and rows of pixel centres (which are the odd samples)."""
    u, v = camera.project(x, y, z)
    return (u - 1) / 2, (v - 1) / 2


def contact(solids: Solids, camera: Camera, points) -> np.ndarray:
    """(H, W) float32 in [0.45, 1]: how much of the sky the ground sees close to vehicles and people."""
    x, y, z = points
    openness = np.ones(z.shape, np.float32)
    low = (solids.label >= PERSON) & (solids.shadow > 0) & (solids.z < 40) & (solids.y - solids.hy < 0.6)
    for i in np.flatnonzero(low):
        cx, cz, hx, hz = solids.x[i], solids.z[i], solids.hx[i], solids.hz[i]
        reach = 1.35 * max(hx, hz) + 0.15
        z0, z1 = max(cz - reach, 0.5), cz + reach
        sides = np.array([cx - reach, cx - reach, cx + reach, cx + reach])
        u, v = _pixels(camera, sides, np.array([0.15, 0.15, 0.0, 0.0]), np.array([z0, z1, z0, z1]))
        u0, u1 = (int(np.clip(e, 0, z.shape[1])) for e in (u.min(), u.max() + 1))
        v0, v1 = (int(np.clip(e, 0, z.shape[0])) for e in (v.min(), v.max() + 1))
        if u1 <= u0 or v1 <= v0:
            continue
        window = (slice(v0, v1), slice(u0, u1))
        px, pz = x[window] - np.float32(cx), z[window] - np.float32(cz)
        c, s = np.float32(solids.cos[i]), np.float32(solids.sin[i])
        ox, oz = np.abs(c * px + s * pz) / np.float32(hx + 0.12), np.abs(c * pz - s * px) / np.float32(hz + 0.12)
        darkness = np.clip((1.25 - np.maximum(ox, oz)) * 2.2, 0, 1) * (y[window] < 0.2)
        openness[window] *= 1 - np.float32(0.55) * darkness
    return openness
