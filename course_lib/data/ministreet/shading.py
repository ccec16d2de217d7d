"""Light: from what each sample sees to the radiance that reaches the camera.

    radiance = a^2 (max(0, n.L) V c_sun + (1 + n_y)/2 A (c_sky - c_bounce) + c_bounce) + gloss + lamps
    seen     = radiance e^(-b Z) + c_haze (1 - e^(-b Z))

a albedo (squared: gamma 2), n normal, L direction to the sun, V sun visibility, A openness to the sky, Z depth, b haze
per metre.
Only listed samples are shaded: the centre of a pixel that sees one surface, all five samples of one that sees several.
"""

from dataclasses import dataclass

import numpy as np

from . import materials, noise
from .camera import Camera
from .classes import SKY
from .looks import Look
from .street import Street


@dataclass
class View:
    """What every sample sees; (h, w) arrays on the camera's grid."""

    depth: np.ndarray  # float32 metres
    label: np.ndarray  # uint8
    code: np.ndarray  # int16: 1 + solid, 0 for ground and sky
    face: np.ndarray  # uint8: 1 + cutting plane of a convex
    across: np.ndarray  # float32: road coordinate of the ground
    kerb_face: np.ndarray  # bool
    sunlit: np.ndarray  # float32 in [0, 1]
    open_sky: np.ndarray  # float32 in [0, 1]


class Light:
    """The look's lights as a formula over lists of samples."""

    def __init__(self, look: Look):
        self.sun = look.sun_strength * look.sun_colour
        self.sky = look.sky_light * look.sky_light_colour
        self.bounce = look.bounce_colour
        self.haze = (look.horizon * look.haze_level).astype(np.float32)
        self.haze_per_metre = np.float32(look.haze_per_metre)
        self.sheen = look.horizon * 0.35 + look.zenith * 0.25  # what glossy things mirror

    def seen(self, albedo, facing_sun, up, sunlit, open_sky, depth, extra=None):
        """Radiance (k, 3) of k samples: sun, sky and bounce on the albedo, what the surface adds itself, then haze."""
        hemisphere = (np.float32(0.5) + np.float32(0.5) * up) * open_sky
        light = (facing_sun * sunlit)[:, None] * self.sun.astype(np.float32)
        light += hemisphere[:, None] * (self.sky - self.bounce).astype(np.float32)
        light += self.bounce.astype(np.float32)
        light *= albedo
        light *= albedo
        if extra is not None:
            light += extra
        light -= self.haze
        light *= np.exp(depth * -self.haze_per_metre)[:, None]
        light += self.haze
        return light


def shade(street: Street, camera: Camera, view: View, index: np.ndarray) -> np.ndarray:
    """Radiance (k, 3) float32 of the samples at flat positions `index` (k,)."""
    look, light = street.look, Light(street.look)
    out = np.empty((len(index), 3), np.float32)
    code, label = view.code.ravel()[index], view.label.ravel()[index]
    depth = view.depth.ravel()[index]
    row, column = np.divmod(index, camera.grid[1])
    dx, dy = camera.dx[column], camera.dy[row]
    sunlit, open_sky = view.sunlit.ravel()[index], view.open_sky.ravel()[index]

    at = np.flatnonzero((code == 0) & (label != SKY))
    if len(at):
        here = index[at]
        albedo = materials.ground(
            street, camera, depth[at], label[at], view.across.ravel()[here], view.kerb_face.ravel()[here]
        )
        flat = np.ones(len(at), np.float32)
        out[at] = light.seen(albedo, look.sun[1] * flat, flat, sunlit[at], open_sky[at], depth[at])

    at = np.flatnonzero(code)
    if len(at):
        z = depth[at]
        x, y = z * dx[at], np.float32(camera.height) + z * dy[at]
        surface = materials.Surface(
            street.table, code[at].astype(np.intp) - 1, view.face.ravel()[index[at]], x, y, z, look, camera
        )
        materials.paint(surface)
        extra = surface.gloss * (np.float32(0.35) + np.float32(0.65) * np.clip(0.5 + 0.9 * surface.up, 0, 1))
        extra = extra[:, None] * light.sheen.astype(np.float32)
        lamps = np.flatnonzero(surface.glow)
        extra[lamps] += 1.4 * surface.glow[lamps, None] * surface.colour[lamps] ** 2
        out[at] = light.seen(
            surface.colour, np.clip(surface.facing_sun, 0, 1), surface.up, sunlit[at], open_sky[at], z, extra
        )

    at = np.flatnonzero((code == 0) & (label == SKY))
    if len(at):
        out[at] = sky(look, dx[at], dy[at])
    return out


def sky(look: Look, dx: np.ndarray, dy: np.ndarray) -> np.ndarray:
    """A gradient from horizon to zenith, clouds on a plane 38 m/m up, a glow around the sun."""
    dy = np.maximum(dy, np.float32(0.004))
    length = 1 / np.sqrt(1 + dx * dx + dy * dy)
    height = dy * length
    low = (1 - np.clip(height * np.float32(look.sky_falloff), 0, 1) ** np.float32(0.75))[:, None]
    colour = look.zenith + (look.horizon - look.zenith) * low
    ahead = 38 / np.maximum(dy, np.float32(0.02))
    cloud = noise.at(noise.FRACTAL, ahead, dx * ahead + np.float32(look.cloud_shift + 1024))
    cover = np.clip((cloud - look.cloud_threshold) * look.cloud_gain, 0, 1) * np.clip(height * 9, 0, 1)
    colour += (look.cloud_colour - colour) * (cover * look.cloud_strength)[:, None]
    toward = np.clip((dx * look.sun[0] + dy * look.sun[1] + look.sun[2]) * length, 0, 1)
    colour += (toward**24)[:, None] * look.sun_glow
    return colour * np.float32(look.sky_level)
