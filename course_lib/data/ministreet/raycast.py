"""Visibility: which solid each sample sees, and how far away, by exact ray casting into a depth buffer.

Letters: n solids, (h, w) the grid of samples, a ray is (dx, dy, 1) from (0, height, 0), so its parameter is depth.

The trick is that solids turn about the vertical only. In a solid's own frame the ray is (DX, dy, DZ) with DX, DZ functions
of the column and dy of the row. So a box's slabs in x and z are intervals per column and its slab in y one per row: all of
them are computed in one go, and one solid costs an outer maximum, an outer minimum and a comparison. A cylinder is a
function of the column; an ellipsoid's quadratic has coefficients "column part + row part".
"""

import numpy as np

from . import noise
from .camera import Camera
from .solids import BOX, CONVEX, CYLINDER, ELLIPSOID, LEAF, Solids

NEAR = np.float32(0.25)  # metres: nothing nearer is seen
TINY = np.float32(1e-7)
SMALLEST = 0.7  # samples: a solid whose projected half size is less is not drawn


def cast(solids: Solids, camera: Camera, depth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Draw all solids over `depth` (h, w), in place; return code (h, w) = 1 + index of the solid, and face (h, w).

    code 0 is ground or sky. face is 0, or 1 + the index of the cutting plane of a convex that is seen there.
    """
    code, face = np.zeros(depth.shape, np.int16), np.zeros(depth.shape, np.uint8)
    corners = solids.corners()
    u0, u1, v0, v1 = camera.screen_boxes(corners)
    nearest = corners[2].min(1)
    half = np.maximum(np.maximum(solids.hx, solids.hy), solids.hz)
    seen = (u1 > u0) & (v1 > v0) & (2 * camera.focal * half > SMALLEST * np.maximum(nearest, 0.3))
    order = np.flatnonzero(seen)
    order = order[np.argsort(nearest[order], kind="stable")]  # near to far: most far solids lose at a glance
    rays = Rays(solids, camera, order)
    draw = {BOX: rays.box, CONVEX: rays.convex, CYLINDER: rays.cylinder, ELLIPSOID: rays.ellipsoid}
    rows_of = zip(u0[order].tolist(), u1[order].tolist(), v0[order].tolist(), v1[order].tolist(), strict=True)
    kinds, near = solids.kind[order].astype(int).tolist(), nearest[order].tolist()
    for j, (c0, c1, r0, r1) in enumerate(rows_of):
        behind = depth[r0:r1, c0:c1]
        if near[j] > 0.3 and near[j] > behind.max():
            continue  # hidden by what is drawn already
        z, hit, cut = draw[kinds[j]](j, slice(r0, r1), slice(c0, c1), behind)
        if hit.any():
            np.copyto(behind, z, where=hit)
            np.copyto(code[r0:r1, c0:c1], np.int16(order[j] + 1), where=hit)
            np.copyto(face[r0:r1, c0:c1], cut, where=hit)
    return code, face


class Rays:
    """All rays in the frames of m solids; one method per shape.

    Each takes solid, rows, columns and the depth there, and returns depth, hit and face of the rays in that window.
    """

    def __init__(self, solids: Solids, camera: Camera, order: np.ndarray):
        self.solids, self.camera, self.order = solids, camera, order
        take = lambda name: solids.f32[name][order][:, None]  # noqa: E731
        self.dy = dy = camera.dy[None]
        cos, sin, x, z = take("cos"), take("sin"), take("x"), take("z")
        self.hx, self.hy, self.hz = take("hx"), take("hy"), take("hz")
        self.ox, self.oz = -(cos * x + sin * z), -(cos * z - sin * x)  # the camera in the solid's frame
        self.oy = (camera.height - solids.y[order]).astype(np.float32)[:, None]
        self.DX, self.DZ = cos * camera.dx + sin, cos - sin * camera.dx
        kind = solids.kind[order]
        self._slabs(np.flatnonzero((kind == BOX) | (kind == CONVEX)))
        self._quadratics(np.flatnonzero((kind == ELLIPSOID) | (kind == CYLINDER)), dy)
        self._leaves(np.flatnonzero(solids.material[order] == LEAF))

    def _slabs(self, flat: np.ndarray):
        """Boxes: the interval of depth inside the x and z slabs per column, inside the y slab per row."""
        self.slot = np.zeros(len(self.order), int)
        self.slot[flat] = np.arange(len(flat))
        ix, iz, iy = (1 / np.where(np.abs(d) < TINY, TINY, d) for d in (self.DX[flat], self.DZ[flat], self.dy))
        mid_x, reach_x = -self.ox[flat] * ix, self.hx[flat] * np.abs(ix)
        mid_z, reach_z = -self.oz[flat] * iz, self.hz[flat] * np.abs(iz)
        mid_y, reach_y = -self.oy[flat] * iy, self.hy[flat] * np.abs(iy)
        self.enter_columns = np.maximum(np.maximum(mid_x - reach_x, mid_z - reach_z), NEAR)
        self.leave_columns = np.minimum(mid_x + reach_x, mid_z + reach_z)
        self.enter_rows, self.leave_rows = mid_y - reach_y, mid_y + reach_y

    def _quadratics(self, curved: np.ndarray, dy: np.ndarray):
        """Ellipsoids and cylinders: a t^2 + 2 b t + c = 0 with a and b as column part + row part (cylinders: columns).

        The root b^2 - a c is then columns + rows + 2 b_columns b_rows.
        """
        self.slot[curved] = np.arange(len(curved))
        rx, ry, rz = 1 / self.hx[curved], 1 / self.hy[curved], 1 / self.hz[curved]
        ex, ez, ey = self.DX[curved] * rx, self.DZ[curved] * rz, dy * ry
        px, pz, py = self.ox[curved] * rx, self.oz[curved] * rz, self.oy[curved] * ry
        self.a_columns, self.b_columns = ex * ex + ez * ez, px * ex + pz * ez
        self.a_rows, self.b_rows = ey * ey, py * ey
        self.c_columns = px * px + pz * pz - 1
        c = self.c_columns + py * py
        self.root_columns = self.b_columns * self.b_columns - c * self.a_columns
        self.root_rows = self.b_rows * self.b_rows - c * self.a_rows

    def _leaves(self, leafy: np.ndarray):
        """Noise texels of every column and row on every clump of leaves: six metres of clump per tile."""
        self.clump = np.full(len(self.order), -1)
        self.clump[leafy] = np.arange(len(leafy))
        i, camera, (rows, columns) = self.order[leafy, None], self.camera, self.camera.grid
        phase = self.solids.phase[i]
        scale = 512 / 6 * np.maximum(self.solids.z[i], 1.0) / (2 * camera.focal)
        u, v = (np.arange(columns) - 2 * camera.cx) * scale + 37 * phase, (np.arange(rows) - 2 * camera.cy) * scale + 91 * phase
        self.texel_columns, self.texel_rows = u.astype(np.int32) & 511, (v.astype(np.int32) & 511) << 9
        self.holes = (self.solids.a[i] / 0.9).astype(np.float32)

    def box(self, j, rows, columns, behind):
        k = self.slot[j]
        enter = np.maximum(self.enter_columns[k, None, columns], self.enter_rows[k, rows, None])
        leave = np.minimum(self.leave_columns[k, None, columns], self.leave_rows[k, rows, None])
        np.minimum(leave, behind, out=leave)
        return enter, enter < leave, np.uint8(0)

    def convex(self, j, rows, columns, behind):
        """A box, then one more entering or leaving plane per half-space n.p <= d."""
        enter, _, _ = self.box(j, rows, columns, behind)
        k = self.slot[j]
        leave = np.minimum(self.leave_columns[k, None, columns], self.leave_rows[k, rows, None])
        np.minimum(leave, behind, out=leave)
        face = np.zeros(enter.shape, np.uint8)
        for which, (nx, ny, nz, d) in enumerate(self.solids.planes[int(self.order[j])]):
            along = (nx * self.DX[j, columns] + nz * self.DZ[j, columns])[None] + ny * self.dy[0, rows, None]
            along[np.abs(along) < TINY] = TINY
            plane = np.float32(d - (nx * self.ox[j, 0] + ny * self.oy[j, 0] + nz * self.oz[j, 0])) / along
            entering = along < 0
            later = entering & (plane > enter)
            np.copyto(enter, plane, where=later)
            face[later] = which + 1
            np.copyto(leave, np.minimum(leave, plane), where=~entering)
        return enter, enter < leave, face

    def cylinder(self, j, rows, columns, behind):
        """A vertical cylinder without caps (they are above the eye or in the ground)."""
        k = self.slot[j]
        a, b = self.a_columns[k, columns], self.b_columns[k, columns]
        root = b * b - a * self.c_columns[k, 0]
        z = np.where(root > 0, (-b - np.sqrt(np.maximum(root, 0))) / a, np.float32(1e9))[None]
        y = self.oy[j] + z * self.dy[0, rows, None]
        hit = (np.abs(y) < self.hy[j]) & (z < behind) & (z > NEAR)
        return np.broadcast_to(z, behind.shape), hit, np.uint8(0)

    def ellipsoid(self, j, rows, columns, behind):
        k = self.slot[j]
        a = self.a_columns[k, None, columns] + self.a_rows[k, rows, None]
        root = self.b_columns[k, None, columns] * (2 * self.b_rows[k, rows, None])
        root += self.root_columns[k, None, columns]
        root += self.root_rows[k, rows, None]
        leaf = self.clump[j]
        if leaf >= 0 and root.shape[1] > 5:  # leaves: holes open where noise exceeds the thickness
            texels = self.texel_rows[leaf, rows, None] | self.texel_columns[leaf, columns]
            hit = root > a * (noise.bank()[noise.MIDDLE].take(texels) * self.holes[leaf])  # root/a: squared chord, <= 1
        else:
            hit = root > 0
        np.sqrt(np.maximum(root, 0, out=root), out=root)
        root += self.b_columns[k, None, columns] + self.b_rows[k, rows, None]
        z = np.divide(root, np.negative(a, out=a), out=root)
        hit &= z < behind
        hit &= z > NEAR
        return z, hit, np.uint8(0)
