"""The two looks: one table of every parameter, its value in the game and in the camera look.

At gap g a parameter is p = (1 - g) p_game + g p_camera. A `Range` is drawn once per scene, with the SAME uniform in both
columns and at every gap, so one seed shows the same street at any gap: only the look between the two columns changes.
A jitter of colours can imitate the rows "light", "tone" and "palettes"; it cannot imitate the rest, and the benchmark needs
that rest (materials, shapes, optics, placement).
"""

from dataclasses import dataclass
from math import cos, pi, radians, sin
from types import SimpleNamespace

import numpy as np

from .draws import Draws

DEFAULT_GAP = 1.0


@dataclass(frozen=True)
class Range:
    """low + (high - low) u^power, u drawn once per scene; `by` names the row whose u is shared."""

    low: float
    high: float
    power: float = 1.0
    by: str | None = None

    def at(self, u: float) -> float:
        return self.low + (self.high - self.low) * u**self.power


# fmt: off
LOOKS = {  # parameter: (game, camera)
    # light
    "sun_strength":        (2.5, Range(.15, 2.35, power=1.5)),         # an overcast sky leaves little sun ...
    "sun_colour":          ((1.08, .95, .70), (1.00, .97, .92)),
    "sun_elevation":       (Range(33, 57), Range(36, 62)),             # degrees
    "sky_light":           (.95, Range(1.30, .60, by="sun_strength")),  # ... and more light from the sky
    "sky_light_colour":    ((.50, .57, .70), (.93, .97, 1.00)),
    "bounce_colour":       ((.36, .28, .20), (.26, .25, .24)),         # light that the ground throws back
    "shadow_blur":         (0., 2.2),                                  # passes of [1 2 1]/4 at W = 256
    # sky and air
    "zenith":              ((.10, .30, .80), (.62, .68, .76)),
    "horizon":             ((.72, .78, .80), (.86, .87, .88)),
    "sky_falloff":         (2.4, 1.6),                                 # how fast the horizon's colour ends
    "sky_level":           (1.0, 1.05),
    "sun_glow":            ((.50, .38, .20), (.20, .20, .18)),
    "cloud_threshold":     (Range(.60, .85), Range(.25, .55)),
    "cloud_gain":          (3.5, 2.2),
    "cloud_strength":      (.90, .60),
    "cloud_colour":        ((1.05, 1.00, .95), (.93, .93, .94)),
    "haze_per_metre":      (.0014, Range(.0025, .0110, power=2)),
    "haze_level":          (.95, .86),
    # tone
    "exposure":            (.288, Range(.19, .43)),
    "exposure_offset":     (.04, .02),
    "exposure_power":      (.75, .85),
    "shoulder":            (.42, .48),
    "white_red":           (1.03, Range(.90, 1.02)),
    "white_blue":          (.96, Range(.90, 1.04)),
    "saturation":          (1.18, Range(.68, 1.00)),
    "contrast":            (1.10, Range(1.12, .90)),
    # optics and sensor
    "blur":                (0., Range(.4, 1.4)),                       # passes of [1 2 1]/4 at W = 256
    "vignette":            (.03, .24),
    "noise":               (0., Range(.012, .050)),
    "focal":               (Range(.68, .80), Range(.80, .96)),         # picture widths
    "horizon_row":         (Range(.40, .47), Range(.33, .50)),         # picture heights: how far the camera looks up or down
    "vanishing_column":    (Range(.40, .60), Range(.40, .60)),         # picture widths
    "camera_height":       (Range(1.25, 1.65), Range(1.55, 2.15)),     # metres
    # ground
    "asphalt":             ((.36, .36, .39), (.38, .375, .38)),
    "asphalt_level":       (Range(.88, 1.12), Range(.80, 1.14)),
    "asphalt_patches":     (.06, .46),                                 # contrast of repaired fields
    "asphalt_cracks":      (0., .50),
    "asphalt_dirt":        (.10, .55),                                 # oil, tyre tracks, damp
    "paving":              ((.66, .60, .52), (.47, .455, .445)),
    "paving_size":         (.90, .30),                                 # metres: slabs or cobbles
    "paving_joints":       (.16, .42),
    "paving_mottle":       (.10, .55),
    "kerbstone":           ((.74, .72, .68), (.52, .515, .505)),
    "grass":               ((.36, .48, .16), (.36, .34, .23)),
    "grass_mottle":        (.35, .85),
    "paint":               ((.92, .91, .86), (.74, .74, .72)),         # of lane marks
    "paint_wear":          (.08, .42),
    # facades
    "window_pitch":        (Range(2.9, 3.3), Range(2.0, 2.4)),         # metres (and +-15 % per house)
    "window_width":        (.31, .20),                                 # half width / pitch
    "window_height":       (.24, .34),                                 # half height / storey
    "window_frame":        ((.93, .91, .86), (.60, .58, .55)),
    "curtain":             ((.85, .80, .66), (.64, .62, .58)),
    "glass":               ((.20, .30, .42), (.19, .20, .22)),
    "shop_width":          (.43, .27),                                 # ground floor: glazed shops or small openings
    "shutters":            (0., .62),                                  # share of houses
    "ledges":              (.16, -.10),                                # line at every storey: light or dark
    "brick":               (0., .62),                                  # contrast of courses, on the share below
    "brick_share":         (.15, .62),
    "stains":              (.10, .75),                                 # streaks of plaster
    "gables":              (.30, .75),                                 # share of low houses with a pitched roof
    "storeys_more":        (0., 3.5),                                  # metres
    "balconies":           (.40, .25),
    "awnings":             (.45, .15),
    # trees
    "crown_height":        (.80, 1.50),                                # height / width: round or conical
    "crown_taper":         (0., .65),                                  # 0 ball, 1 cone
    "crown_width":         (1.0, 1.08),
    "crown_holes":         (.26, .66),                                 # how much of a crown one looks through
    "trunk":               ((.36, .25, .16), (.23, .20, .18)),
    "leaf_mottle":         (.9, 1.5),
    # vehicles
    "hatchbacks":          (.10, .80),                                 # share of cars
    "tall_cars":           (.10, .55),                                 # share: SUV, van
    "car_gloss":           (.12, .05),
    # people
    "shoulders":           (.20, .235),
    "coats":               (.15, .60),                                 # share
    # how many, and where
    "parked":              (.60, .72),
    "traffic":             (.78, .58),                                 # chance of each further vehicle
    "pedestrians":         (.50, .65),
    "tree_rows":           (.85, .75),
    "tree_spacing":        (1.0, 1.20),
    "built_up":            (.66, .60),                                 # share of plots with a house at the street
    # street furniture
    "pole_colour":         ((.36, .38, .40), (.27, .28, .28)),
    "bollard":             ((.75, .12, .10), (.28, .28, .29)),
    "sign_white":          ((.95, .95, .94), (.75, .75, .74)),
}

PALETTES = {  # name: (game rows, camera rows); the same row is drawn in both and the two colours are mixed
    "house":  ([(.80, .50, .36), (.88, .74, .52), (.62, .36, .28), (.86, .82, .72), (.55, .60, .66), (.90, .66, .42)],
               [(.52, .42, .36), (.62, .57, .50), (.42, .35, .32), (.66, .65, .61), (.42, .43, .44), (.56, .53, .49)]),
    "roof":   ([(.60, .26, .18), (.34, .30, .30), (.48, .30, .22)], [(.40, .28, .25), (.28, .28, .29), (.34, .31, .29)]),
    "wall":   ([(.74, .62, .50), (.66, .42, .34), (.70, .70, .68)], [(.46, .45, .43), (.44, .36, .33), (.54, .53, .51)]),
    "fence":  ([(.58, .38, .22), (.24, .34, .26), (.80, .78, .74)], [(.38, .33, .29), (.24, .28, .26), (.56, .56, .55)]),
    "leaf":   ([(.20, .44, .10), (.30, .52, .12), (.40, .50, .10), (.14, .36, .12)],
               [(.24, .28, .17), (.30, .29, .19), (.33, .29, .20), (.19, .24, .16)]),
    "car":    ([(.80, .06, .05), (.08, .22, .70), (.90, .90, .92), (.07, .07, .08), (.92, .62, .06), (.55, .58, .62),
                (.10, .45, .25)],
               [(.38, .10, .10), (.17, .22, .34), (.76, .77, .78), (.09, .09, .10), (.30, .31, .33), (.56, .58, .60),
                (.16, .20, .22)]),
    "truck":  ([(.88, .86, .80), (.20, .45, .28), (.20, .35, .70), (.85, .30, .12)],
               [(.72, .72, .72), (.40, .44, .46), (.26, .32, .44), (.55, .30, .24)]),
    "bus":    ([(.92, .60, .08), (.14, .48, .26), (.80, .14, .12)], [(.70, .58, .34), (.52, .24, .20), (.64, .65, .66)]),
    "train":  ([(.90, .88, .82), (.80, .16, .14), (.16, .34, .66)], [(.68, .68, .66), (.50, .22, .20), (.28, .34, .44)]),
    "cloth":  ([(.78, .18, .16), (.16, .28, .72), (.90, .80, .28), (.88, .88, .88), (.15, .50, .35), (.85, .40, .60),
                (.12, .12, .16)],
               [(.32, .17, .17), (.17, .21, .32), (.44, .40, .34), (.60, .60, .60), (.20, .24, .24), (.38, .30, .34),
                (.09, .09, .11)]),
    "skin":   ([(.86, .64, .50), (.62, .42, .30), (.40, .26, .18)], [(.72, .56, .48), (.56, .42, .35), (.34, .25, .21)]),
    "sign":   ([(.80, .07, .06), (.05, .22, .70), (.92, .72, .05), (.05, .22, .70), (.80, .07, .06)],
               [(.61, .21, .20), (.20, .29, .56), (.68, .57, .20), (.20, .29, .56), (.61, .21, .20)]),
}
# fmt: on


@dataclass(frozen=True)
class StreetGrammar:
    """What stands in a street, how often and how big: the same in both looks (shares: Cityscapes', rare ones lifted)."""

    half_width: tuple[float, float] = (3.6, 6.8)  # metres, of the road
    kerb: float = 0.14  # metres
    sidewalk: tuple[float, float] = (2.4, 4.8)  # metres
    bend: float = 0.008  # 1/metre, at most
    crossing_street: float = 0.45  # chance
    zebra: float = 0.30
    grass_strip: float = 0.42  # chance per side
    tramway: float = 0.12
    plot: tuple[float, float] = (8.0, 18.0)  # metres of street per house, wall, fence, hedge
    depth: float = 100.0  # metres of built street; a skyline stands behind
    # open plots, in the order of the draw: wall, fence, hedge, nothing (shares that sum to at most 1)
    walls: float = 0.38
    fences: float = 0.40
    hedges: float = 0.14
    barrier_height: tuple[float, float] = (1.9, 3.0)  # metres, walls and fences
    # how big things are: at 128x256 what is one to three pixels thin is not learnable
    person_scale: float = 1.18
    rider_scale: float = 1.35
    pole_radius: float = 0.13  # metres
    sign_radius: tuple[float, float] = (0.50, 0.68)  # metres
    light_scale: float = 1.6
    # how near: metres ahead of the camera
    nearest: float = 5.0
    people_to: float = 26.0
    signs_to: float = 24.0
    # how many per side of the street
    people: int = 5  # at most; each is there with the look's "pedestrians"
    signs: int = 2  # at most, each with chance 0.5
    lamps: int = 3
    trees: int = 6
    parked: int = 6
    bollards: float = 0.10
    parked_bicycles: float = 0.45
    parked_motorcycle: float = 0.09
    # traffic
    ahead: int = 3  # vehicles in one's own lane, at most
    oncoming: int = 3
    buses: float = 0.045  # share of moving vehicles
    trucks: float = 0.035
    parked_trucks: float = 0.012
    trains: float = 0.80  # chance of a tram on a tramway
    riders: float = 0.42  # chance
    second_rider: float = 0.14
    motorcycles: float = 0.32  # share of the riders


class Look(SimpleNamespace):
    """Every parameter of LOOKS at one gap, drawn for one scene: `look.focal`, `look.paint`, ..."""

    gap: float
    palettes: dict[str, list[tuple[float, float, float]]]  # PALETTES, mixed

    def palette(self, name: str, draws: Draws, jitter: float = 0.10) -> tuple[float, float, float]:
        """A colour of the palette, mixed between the looks, a little lighter or darker and a little off its hue."""
        rows = self.palettes[name]
        red, green, blue = rows[draws.index(len(rows))]
        level = 1 + draws(-jitter, jitter)
        return (
            min(max(red * level + draws(-0.025, 0.025), 0.02), 0.97),
            min(max(green * level + draws(-0.025, 0.025), 0.02), 0.97),
            min(max(blue * level + draws(-0.025, 0.025), 0.02), 0.97),
        )


def resolve(seed: int, gap: float, table: dict = LOOKS) -> Look:
    """Draw one scene's look and mix it: p = (1 - gap) p_game + gap p_camera, row by row."""
    draws = Draws.stream(seed, "look", 3 * len(table) + 8)
    uniforms = {name: draws() for name in table}
    look = Look(gap=float(gap), sun_side=draws(-1, 1), sun_behind=draws.chance(0.72), cloud_shift=draws(0, 500))
    for name, row in table.items():
        game, camera = (_value(entry, uniforms, name) for entry in row)
        setattr(look, name, (1 - gap) * game + gap * camera)
    look.sun = _sun_direction(look)
    look.palettes = {
        name: [tuple((1 - gap) * a + gap * b for a, b in zip(*pair)) for pair in zip(game, camera)]
        for name, (game, camera) in PALETTES.items()
    }
    return look


def _value(entry, uniforms: dict[str, float], name: str):
    if isinstance(entry, Range):
        return entry.at(uniforms[entry.by or name])
    return np.array(entry, np.float32) if isinstance(entry, tuple) else entry


def _sun_direction(look: Look) -> np.ndarray:
    """Unit vector to the sun, mostly oblique to the street so that the road and one row of houses are lit."""
    side, elevation = (1 if look.sun_side > 0 else -1), radians(look.sun_elevation)
    azimuth = radians(12 + 48 * abs(look.sun_side)) * side  # 0: behind the camera
    if not look.sun_behind:
        azimuth = pi * side - 0.8 * azimuth
    return np.array([sin(azimuth) * cos(elevation), sin(elevation), -cos(azimuth) * cos(elevation)], np.float32)
