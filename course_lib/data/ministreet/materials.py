"""Materials: the albedo of the ground and of every kind of surface, from world coordinates and tileable noise.

A texture fades where its pattern gets finer than a pixel's footprint (metres per pixel at that depth), and lines and windows
are drawn as the share of the footprint that they cover; so one sample per flat pixel is enough.
"""


import numpy as np

from . import noise
from .camera import Camera
from .classes import BICYCLE, CAR, ROAD, SIDEWALK, TRUCK
from .looks import Look, StreetGrammar
from .solids import (
    BAND,
    BARK,
    BOX,
    CABIN,
    CONVEX,
    CYLINDER,
    FACADE,
    LAMP,
    LEAF,
    MASONRY,
    PLAIN,
    PLANKS,
    ROOF,
    SIGN,
    WHEEL,
    Solids,
)  # fmt: skip
from .street import Street

F = np.float32
KERB = F(StreetGrammar.kerb)


def cover(distance, half_width, footprint):
    """Share of a footprint covered by a band of half width w whose middle is `distance` away.

    >>> cover(np.float32([0, 1, 2]), 1.0, np.float32([0.5, 0.5, 0.5])).tolist()
    [1.0, 0.5, 0.0]
    """
    return np.clip((half_width - distance) / footprint + F(0.5), 0, 1)


def stripe(distance, half_width, footprint):
    """The same for a band that may be thinner than the footprint."""
    return cover(distance, half_width, footprint) * np.minimum(F(1), 2 * half_width / footprint)


def fade(footprint, size, start=0.35):
    """1 where a pattern of this size is well resolved, 0 where it is finer than the footprint."""
    return np.clip((F(1) - footprint / F(size)) / F(1 - start), 0, 1)


# ---------------------------------------------------------------- ground


def ground(street: Street, camera: Camera, z, label, s, kerb_face) -> np.ndarray:
    """Albedo (k, 3) of ground samples at depth z and road coordinate s."""
    look = street.look
    footprint = z * F(1 / camera.focal) + F(1e-4)  # metres per pixel, across
    along = footprint * z * F(1 / camera.height)  # and along the road, which is foreshortened
    kind = np.where(label == ROAD, 0, np.where(label == SIDEWALK, 1, 2))
    base = np.stack([look.asphalt * look.asphalt_level, look.paving, look.grass]).astype(F)
    colour = base.take(kind, 0)
    mottle = np.array([0.10, look.paving_mottle, look.grass_mottle], F)
    grain = noise.signed(noise.FINE, s * F(40) + F(4096), z * F(40)) * fade(footprint, 0.06)
    broad = noise.signed(noise.FRACTAL, s * F(6) + F(4096), z * F(6))
    colour *= (1 + mottle.take(kind) * grain + F(0.6) * mottle.take(kind) * broad)[:, None]

    at = np.flatnonzero(kind == 0)
    colour[at] = _road(street, colour[at], z[at], s[at], footprint[at], along[at])
    at = np.flatnonzero(kind == 1)
    colour[at] = _sidewalk(street, colour[at], z[at], s[at], footprint[at], along[at], kerb_face[at])
    return colour


def _road(street: Street, colour, z, s, footprint, along):
    look = street.look
    # repaired fields: rectangles of lighter or darker asphalt, some cells of a grid that is shifted from row to row
    cell_z = np.floor(z / F(5.2))
    cell_s = np.floor(s / F(2.3) + F(0.37) * cell_z)
    tone = noise.signed(noise.WHITE, cell_s * 57 + 4096, cell_z * 131)
    colour *= (1 + F(look.asphalt_patches) * np.where(np.abs(tone) > 0.22, tone, 0))[:, None]
    # cracks: thin level lines of smooth noise
    ridge = np.abs(noise.signed(noise.MIDDLE, s * F(9) + F(4096), z * F(5)))
    crack = (ridge < 0.035) * fade(along, 0.8) * (noise.at(noise.FRACTAL, s * F(3) + F(2048), z * F(2)) > 0.45)
    colour *= (1 - F(look.asphalt_cracks) * crack)[:, None]
    # dirt: dark tyre tracks along the lanes and stains
    track = np.cos(np.abs(s) * F(2 * np.pi / 1.75) + F(0.6))
    stain = noise.signed(noise.FRACTAL, s * F(2.2) + F(4296), z * F(1.1))
    colour *= (1 - F(look.asphalt_dirt) * (F(0.16) * track + np.where(stain > 0.28, F(0.35), F(0)) + F(0.4) * stain))[:, None]
    if street.tramway:
        rail = stripe(np.abs(np.abs(s + F(1.76)) - F(0.72)), F(0.07), footprint)
        colour += (F(0.17) - colour) * (F(0.8) * rail)[:, None]
    wear = F(1 - look.paint_wear) + F(0.3 + 0.5 * look.paint_wear) * noise.signed(noise.MIDDLE, s * F(9) + F(4096), z * F(9))
    paint = _lane_marks(street, z, s, footprint, along)
    return colour + (look.paint - colour) * np.clip(wear * paint, 0, 1)[:, None]


def _lane_marks(street: Street, z, s, footprint, along):
    """Dashes in the middle, edge lines, zebras, stop line: the share of each footprint that is painted."""
    a, half_width, (start, width) = np.abs(s), F(street.half_width), street.crossing
    dash = cover(np.abs((z + F(street.mark_width * 40)) % 6 - F(1.5)), F(1.5), along)
    paint = stripe(a, F(0.6 * street.mark_width), footprint) * dash
    if street.half_width > 4.2:
        paint = np.maximum(paint, F(0.9) * stripe(np.abs(a - F(half_width - 2.15)), F(0.06), footprint))
    else:
        paint = np.maximum(paint, stripe(np.abs(a - F(half_width - 0.24)), F(0.07), footprint))
    paint[(z > start - 0.5) & (z < start + width + 0.5)] = 0

    def zebra(z0, z1):
        bars = stripe(np.abs(s % 1 - F(0.5)), F(0.25), footprint)
        return cover(np.abs(z - F((z0 + z1) / 2)), F((z1 - z0) / 2), along) * bars * (a < half_width - F(0.2))

    if street.zebra:
        paint = np.maximum(paint, zebra(street.zebra, street.zebra + 3))
    if start < 60:
        paint = np.maximum(paint, zebra(start - 4.6, start - 1.9))
        paint = np.maximum(paint, cover(np.abs(z - F(start - 1.2)), F(0.2), along) * (s > 0))
    return paint


def _sidewalk(street: Street, colour, z, s, footprint, along, kerb_face):
    look, size = street.look, F(street.look.paving_size)
    row = np.floor(z / size)
    across = np.abs((s + F(0.5) * size * (row % 2)) % size - F(0.5) * size)  # stones are laid half and half
    forward = np.abs(z % size - F(0.5) * size)
    joint = np.maximum(cover(F(0.5) * size - across, F(0.03), footprint), cover(F(0.5) * size - forward, F(0.03), along))
    tone = noise.signed(noise.WHITE, np.floor((s + F(0.5) * size * (row % 2)) / size) * 17 + 4096, row * 29)
    resolved = fade(along, 1.6 * street.look.paving_size)
    colour = colour * (1 - F(look.paving_joints) * joint * resolved + F(look.paving_mottle) * F(0.5) * tone * resolved)[:, None]
    start, width = street.crossing
    kerb = (np.abs(s) < street.half_width + 0.18) & ~((z > start - 0.5) & (z < start + width + 0.5))
    colour = np.where(kerb[:, None], look.kerbstone, colour)
    return np.where(kerb_face[:, None], colour * F(0.70), colour)


# ---------------------------------------------------------------- solids


class Surface:
    """k samples on solids: where they lie in their solid's frame, which way they face, and what `paint` makes of them.

    Read by the materials: position (x, y, z; qx, qy, qz in [-1, 1] of the half sizes), u metres along the surface, footprint
    in metres. Written by them: colour (k, 3), gloss (k,), glow (k,).
    """

    def __init__(self, solids: Solids, solid, face, x, y, z, look: Look, camera: Camera):
        self.solids, self.solid, self.look, self.x, self.y, self.z = solids, solid, look, x, y, z
        self.footprint = z * F(2 / camera.focal)
        cos, sin, hx, hy, hz = (self.of(name) for name in ("cos", "sin", "hx", "hy", "hz"))
        px, pz = x - self.of("x"), z - self.of("z")
        lx, lz = cos * px + sin * pz, cos * pz - sin * px
        self.qx, self.qy, self.qz = lx / hx, (y - self.of("y")) / hy, lz / hz
        self.material = self.of("material").astype(np.int8)
        nx, ny, nz = self._normals(hx, hy, hz, face)
        self.nx, self.up, self.nz = nx, ny, nz  # in the solid's frame
        self.world_x, self.world_z = cos * nx - sin * nz, sin * nx + cos * nz
        self.facing_sun = self.world_x * look.sun[0] + ny * look.sun[1] + self.world_z * look.sun[2]
        self.u = np.where(np.abs(nx) > np.abs(nz), lz, lx)
        self.colour = solids.colour.take(solid, 0)
        self.gloss, self.glow = np.zeros(len(z), F), np.zeros(len(z), F)
        self.shift = self.of("phase") * F(29)  # so that two houses or trees do not show the same noise

    def of(self, name: str, at=None) -> np.ndarray:
        """A column of the solids' table, for all samples or for those `at`."""
        return self.solids.f32[name].take(self.solid if at is None else self.solid[at])

    def _normals(self, hx, hy, hz, face):
        """Boxes: the axis whose face is nearest; curved: the gradient; convexes: the plane that was hit."""
        kind = self.of("kind")
        ax, ay, az = np.abs(self.qx), np.abs(self.qy), np.abs(self.qz)
        flat = (kind == BOX) | (kind == CONVEX)
        on_y = ay >= np.maximum(ax, az)
        on_x = (ax >= az) & ~on_y
        nx = np.where(flat, np.where(on_x, np.sign(self.qx), F(0)), self.qx / hx)
        ny = np.where(flat, np.where(on_y, np.sign(self.qy), F(0)), np.where(kind == CYLINDER, F(0), self.qy / hy))
        nz = np.where(flat, np.where(on_x | on_y, F(0), np.sign(self.qz)), self.qz / hz)
        at = np.flatnonzero(face)
        if len(at):
            most = max(len(planes) for planes in self.solids.planes.values())
            normals = np.zeros((self.solids.n, most + 1, 3), F)
            for i, planes in self.solids.planes.items():
                normals[i, 1 : len(planes) + 1] = np.array(planes, F)[:, :3]
            nx[at], ny[at], nz[at] = normals[self.solid[at], face[at]].T
        scale = 1 / np.sqrt(nx * nx + ny * ny + nz * nz + F(1e-12))
        return nx * scale, ny * scale, nz * scale

    def noise(self, which: int, at, scale_u: float, scale_v: float | None = None) -> np.ndarray:
        """Centred noise on the surface, `scale` texels per metre."""
        u = self.u[at] * F(scale_u) + self.shift[at]
        return noise.signed(which, u, self.y[at] * F(scale_u if scale_v is None else scale_v))


def paint(surface: Surface) -> None:
    """Give every sample its material's colour, gloss and glow."""
    for material, painter in PAINTERS.items():
        at = np.flatnonzero(surface.material == material)
        if len(at):
            painter(surface, at)


def plain(surface: Surface, at):
    surface.gloss[at] = F(surface.look.car_gloss) * (surface.of("label", at) >= CAR)  # varnish of vehicles


def facade(surface: Surface, at):
    """Storeys of windows, shops below; plaster with stains, or courses of brick; ledges, frames, shutters, curtains."""
    look, z, x = surface.look, surface.z[at], surface.x[at]
    pitch, storey, style = surface.of("a", at), surface.of("b", at), surface.of("c", at)
    frontal = np.abs(surface.world_x[at] * x + surface.world_z[at] * z) / np.sqrt(x * x + z * z) + F(0.05)
    fine = surface.footprint[at]
    wide = fine / frontal  # footprint along the facade
    U, V = surface.u[at] + F(50.5) * pitch, surface.y[at] - KERB
    bay, floor = np.floor(U / pitch), np.floor(V / storey)
    du, v = np.abs(U - (bay + F(0.5)) * pitch), V - floor * storey
    shop = floor < 1
    half_u = np.where(shop, F(look.shop_width), F(look.window_width)) * pitch
    half_v = np.where(shop, F(0.35), F(look.window_height)) * storey
    dv = np.abs(v - np.where(shop, F(0.47), F(0.53)) * storey)
    inside = (V > 0) & (V < 2 * surface.of("hy", at) - F(0.5)) & (surface.up[at] < 0.5)
    tall = cover(dv, half_v, fine)
    window = cover(du, half_u, wide) * tall * inside
    frame = cover(du, half_u + F(0.14), wide) * cover(dv, half_v + F(0.14), fine) * inside - window
    resolved = np.clip(F(1.7) - wide / pitch * F(2.2), 0, 1)

    house = surface.of("phase", at).astype(np.int32)
    luck = noise.at(noise.WHITE, bay.astype(np.int32) * 7 + house * 131, floor.astype(np.int32) * 13 + house * 17)
    wall = surface.colour[at]
    stains = surface.noise(noise.FRACTAL, at, 5) + look.stains * surface.noise(noise.MIDDLE, at, 9, 1.5)
    wall *= (1 + F(0.16) * surface.noise(noise.FINE, at, 22) * fade(fine, 0.12) + F(0.22 + 0.3 * look.stains) * stains)[:, None]
    wall *= np.where(shop, F(0.80), F(1))[:, None]
    if look.brick > 0:
        wall *= (1 - F(look.brick) * (style < look.brick_share) * _courses(surface, at, fine, wide))[:, None]
    far_wall = wall.copy()

    glass = look.glass * (F(0.5) + F(0.8) * luck + F(0.35) * np.clip(v / storey - F(0.3), 0, 1) * ~shop)[:, None]
    glass = glass + (F(0.10) * surface.noise(noise.MIDDLE, at, 3))[:, None]
    curtained = luck > 0.78
    glass = np.where(curtained[:, None], look.curtain * (F(0.6) + F(0.4) * luck[:, None]), glass)
    glass *= (1 - F(0.55) * cover(du, F(0.04), wide) * ~shop)[:, None]  # mullion
    wall += (look.window_frame - wall) * (F(0.75) * frame * ~shop)[:, None]
    wall *= (1 + F(look.ledges) * cover(v, F(0.16), fine) * (floor > 0))[:, None]
    if look.shutters > 0:  # boards on both sides of the windows of some houses
        beside = cover(np.abs(du - half_u - F(0.26)), F(0.24), wide) * tall * inside * ~shop * ((style * 7 % 1) < look.shutters)
        wall += (wall * F(0.45) - wall) * beside[:, None]
    wall += (glass - wall) * window[:, None]
    far = far_wall * F(0.72) + look.glass * F(0.25)  # windows and wall in one, seen from far away
    surface.colour[at] = far + (wall - far) * resolved[:, None]
    surface.gloss[at] = window * resolved * F(0.45) * ~curtained


def _courses(surface: Surface, at, fine, wide):
    """Joints of large bricks, 0.34 m x 1 m, laid half and half, and bricks of different tone."""
    y, u = surface.y[at], surface.u[at] + F(64)
    course = np.floor(y / F(0.34))
    along = u + F(0.5) * (course % 2)
    joint = np.maximum(
        cover(np.abs(y - (course + F(0.5)) * F(0.34)) * -1 + F(0.17), F(0.035), fine),
        cover(F(0.5) - np.abs(along % 1 - F(0.5)), F(0.035), wide),
    )
    tone = noise.at(noise.WHITE, np.floor(along) * 31, course * 57)
    return (F(0.55) * joint * fade(fine, 0.30) + F(0.75) * tone * fade(wide, 1.2)) + F(0.1)


def leaf(surface: Surface, at):
    clump = surface.noise(noise.FINE, at, 16) * fade(surface.footprint[at], 0.3) + F(0.8) * surface.noise(noise.MIDDLE, at, 14)
    light = 1 + surface.of("b", at) * clump + F(0.30) * np.clip(surface.qy[at], -1, 1)
    surface.colour[at] *= np.clip(light, 0.2, 2)[:, None]
    surface.facing_sun[at] = np.clip(surface.facing_sun[at] * F(0.6) + F(0.35), 0, 1)  # leaves let light through


def masonry(surface: Surface, at):
    y, u = surface.y[at], surface.u[at]
    joint = (y % F(0.3) < 0.04) | ((u + F(0.4) * (np.floor(y / F(0.3)) % 2)) % F(0.8) < 0.04)
    pattern = F(0.25) * joint * fade(surface.footprint[at], 0.25)
    stains = F(0.22) * surface.noise(noise.MIDDLE, at, 12) + F(0.2) * surface.noise(noise.FRACTAL, at, 4)
    surface.colour[at] *= (1 - pattern + stains)[:, None]


def bark(surface: Surface, at):
    surface.colour[at] *= (1 + F(0.5) * surface.noise(noise.MIDDLE, at, 40, 8))[:, None]


def planks(surface: Surface, at):
    plank = surface.u[at] / surface.of("a", at)
    resolved = np.clip(F(1.4) - surface.footprint[at] / surface.of("a", at) * F(0.8), 0, 1)
    gap = plank % 1 > 0.68
    tone = noise.signed(noise.WHITE, np.floor(plank) + 4096, np.full_like(plank, 5))
    rail = np.abs(np.abs(surface.qy[at]) - F(0.6)) < 0.07
    light = (1 - F(0.62) * gap * resolved - F(0.15) * (1 - resolved) + F(0.3) * tone * resolved) * (1 - F(0.25) * rail)
    surface.colour[at] *= light[:, None]


def cabin(surface: Surface, at):
    """The glass house of cars and trucks: panes with pillars between them, paint on the roof."""
    side, lorry = np.abs(surface.nx[at]) > 0.6, surface.of("label", at) == TRUCK
    ax, az, qy = np.abs(surface.qx[at]), np.abs(surface.qz[at]), surface.qy[at]
    glass = (surface.up[at] < 0.93) & (qy < 0.80) & (qy > -0.92) & np.where(lorry, qy > -0.05, True)
    pillar = np.where(side, (np.abs(surface.qz[at] + F(0.1)) > 0.06) & (az < np.where(lorry, F(0.7), F(0.86))), ax < 0.86)
    glass &= pillar
    pane = surface.look.glass * (F(0.45) + F(0.5) * np.clip(qy + F(0.6), 0, 1))[:, None]
    surface.colour[at] = np.where(glass[:, None], pane, surface.colour[at])
    surface.gloss[at] = np.where(glass, F(0.45), F(surface.look.car_gloss))


def band(surface: Surface, at):
    """The sides of buses and trams: a band of windows between the heights a and b, a stripe below, the line's number."""
    low, high, y = surface.of("a", at), surface.of("b", at), surface.y[at]
    ends = np.abs(surface.nz[at]) > 0.5
    post = (surface.u[at] / F(1.35)) % 1 > 0.06
    glass = (y > low) & (y < high) & post & (surface.up[at] < 0.5)
    glass &= np.where(ends, np.abs(surface.qx[at]) < 0.9, np.abs(surface.qz[at]) < 0.97)
    line = ((y > low - F(0.45)) & (y < low - F(0.15)))[:, None]
    number = (surface.nz[at] < -0.5) & (y > high + F(0.05)) & (y < high + F(0.35)) & (np.abs(surface.qx[at]) < 0.6)
    colour = np.where(line, np.clip(1 - F(0.25) * surface.colour[at], 0, 1) * F(0.85), surface.colour[at])
    colour = np.where(glass[:, None], surface.look.glass * F(0.55), colour)
    surface.colour[at] = np.where(number[:, None], np.array((0.76, 0.52, 0.12), F), colour)
    surface.gloss[at] = np.where(glass, F(0.4), F(surface.look.car_gloss))


def roof(surface: Surface, at):
    tile = (surface.y[at] % F(0.35) < 0.1) * fade(surface.footprint[at], 0.2)
    surface.colour[at] *= (1 - F(0.18) * tile + F(0.25) * surface.noise(noise.MIDDLE, at, 6))[:, None]


def sign(surface: Surface, at):
    """What is white on a sign: inside a ring, an arrow, inside a triangle, border and lines of a panel."""
    X, Y, kind, variant = surface.qx[at], surface.qy[at], surface.of("a", at), surface.of("b", at)
    aX, aY = np.abs(X), np.abs(Y)
    ring = (X * X + Y * Y < 0.55) & ~((aY < 0.18) & (aX < 0.45) & (variant < 0.5))
    arrow = ((aX < 0.14) & (Y < 0.5) & (Y > -0.6)) | ((np.abs(Y - F(0.25)) < 0.13) & (aX < 0.45))
    triangle = (Y > -0.72) & (Y < F(0.5) - F(1.9) * aX)
    panel = (np.maximum(aX, aY) > 0.86) | ((np.abs((Y * F(2.5)) % 1 - F(0.5)) < 0.2) & (aX < 0.6) & (variant < 0.7))
    white = np.select([kind == 0, kind == 1, kind == 2], [ring, arrow, triangle], panel) & (surface.nz[at] < 0.3)
    colour = np.where(white[:, None], surface.look.sign_white, surface.colour[at])
    surface.colour[at] = np.where((surface.nz[at] > 0.3)[:, None], F(0.45), colour)  # the grey back


def wheel(surface: Surface, at):
    radius = np.sqrt(surface.qy[at] ** 2 + surface.qz[at] ** 2)
    spokes = surface.of("label", at) == BICYCLE
    rim, sky = np.float32(0.62 - 0.20 * surface.look.gap), np.float32(0.40 - 0.07 * surface.look.gap)
    grey = np.where(spokes, np.where(radius < 0.80, sky, F(0)), np.where(radius < 0.62, rim, F(0)))
    surface.colour[at] = np.where(grey[:, None] > 0, grey[:, None], surface.colour[at])


def lamp(surface: Surface, at):
    surface.glow[at] = surface.of("a", at)


PAINTERS = {
    PLAIN: plain, FACADE: facade, LEAF: leaf, MASONRY: masonry, BARK: bark, PLANKS: planks, CABIN: cabin, BAND: band,
    ROOF: roof, SIGN: sign, WHEEL: wheel, LAMP: lamp,
}  # fmt: skip
