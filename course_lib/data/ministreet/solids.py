"""Solids: the four shapes that everything above the ground is put together from, kept as one table.

n solids; world axes x right, y up, z ahead of the camera, metres. A solid has a centre, half sizes, and one angle:
it turns about the vertical only, which is what makes ray casting cheap (see raycast.py).
"""

from math import cos, sin

import numpy as np

BOX, ELLIPSOID, CYLINDER, CONVEX = range(4)  # a cylinder is vertical; a convex is a box cut by half-spaces n.p <= d

(PLAIN, FACADE, LEAF, MASONRY, PLANKS, CABIN, LAMP, BAND, ROOF, SIGN, WHEEL, BARK) = range(12)  # materials

COLUMNS = (
    "kind", "x", "y", "z", "hx", "hy", "hz", "cos", "sin", "label", "instance", "red", "green", "blue",
    "material", "shadow", "a", "b", "c", "phase",
)  # fmt: skip      a, b, c: what the material makes of them (materials.py); phase: where its noise begins

NEAREST = 0.6  # metres: a solid that ends before this plane is never drawn
_SIGNS = np.array([(i, j, k) for i in (-1, 1) for j in (-1, 1) for k in (-1, 1)], np.float64)


class SolidList:
    """Collects solids while a street is built; `table()` freezes them."""

    def __init__(self):
        self.rows: list[tuple] = []
        self.planes: dict[int, list[tuple[float, float, float, float]]] = {}

    def add(self, kind, centre, half, yaw, label, instance, colour, material=PLAIN, shadow=True, extra=(), planes=()):
        """Add one solid; `planes` are (nx, ny, nz, d) in its own frame, `extra` up to four material numbers."""
        x, y, z = centre
        hx, hy, hz = half
        if z + hx + hz < NEAREST:
            return
        if planes:
            self.planes[len(self.rows)] = list(planes)
        extra = (*extra, 0.0, 0.0, 0.0, 0.0)[:4]
        self.rows.append(
            (kind, x, y, z, hx, hy, hz, cos(yaw), sin(yaw), label, instance, *colour, material, shadow, *extra)
        )

    def table(self) -> "Solids":
        return Solids(np.array(self.rows, np.float64).reshape(-1, len(COLUMNS)), self.planes)


class Solids:
    """n solids as columns: `solids.x`, `solids.label`, ... are float64 (n,); `solids.f32["x"]` the same as float32."""

    def __init__(self, table: np.ndarray, planes: dict[int, list]):
        self.table, self.planes, self.n = table, planes, len(table)
        columns = np.ascontiguousarray(table.T)
        for name, column in zip(COLUMNS, columns, strict=True):
            setattr(self, name, column)
        self.f32 = dict(zip(COLUMNS, columns.astype(np.float32), strict=True))
        self.colour = np.ascontiguousarray(table[:, 11:14].astype(np.float32))

    def corners(self) -> np.ndarray:
        """(3, n, 8): world x, y, z of the eight corners of every solid's box."""
        lx, ly, lz = (h[:, None] * _SIGNS[:, i] for i, h in enumerate((self.hx, self.hy, self.hz)))
        c, s = self.cos[:, None], self.sin[:, None]
        return np.stack([self.x[:, None] + c * lx - s * lz, self.y[:, None] + ly, self.z[:, None] + s * lx + c * lz])
