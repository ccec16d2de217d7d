"""What stands beside the road: trees, street lamps, traffic lights, signs, bollards.

Local frame: x right, y up, z ahead, metres; `toward` is the direction of x that points to the road (+1 or -1).
"""

from math import cos, pi, sin

from .classes import POLE, TRAFFIC_LIGHT, TRAFFIC_SIGN, VEGETATION
from .draws import Draws
from .looks import Look, StreetGrammar
from .site import Site, shade
from .solids import BARK, BOX, CONVEX, CYLINDER, ELLIPSOID, LAMP, LEAF, SIGN

SIGNALS = ((0.98, 0.10, 0.06), (0.98, 0.70, 0.08), (0.10, 0.95, 0.40))  # red, amber, green from top to bottom
ROUND, ARROW, TRIANGLE, PANEL = range(4)  # the pictures on signs
DARK = (0.05, 0.06, 0.05)


def tree(site: Site, draws: Draws, look: Look, size: float = 1.0):
    """A trunk and five to seven clumps of leaves: a round crown in the game, a ragged tapering one before the camera."""
    leaf = look.palette("leaf", draws)
    trunk, radius, clumps = draws(2.0, 3.0) * size, draws(1.3, 2.0) * size * look.crown_width, 4 + draws.index(3)
    thick, tall, taper = 0.17 * size, look.crown_height, look.crown_taper
    phase = draws.index(512)
    half = trunk / 2 + 0.5
    site.put(CYLINDER, (0, half, 0), (thick, half, thick), VEGETATION, tuple(look.trunk), BARK)
    core = radius * (0.85 - 0.2 * taper)
    heart = (0, trunk + radius * (0.7 + 0.35 * (tall - 0.8)), 0)
    extra = (look.crown_holes, look.leaf_mottle, 0, phase)
    site.put(ELLIPSOID, heart, (core, core * tall, core), VEGETATION, leaf, LEAF, True, extra)
    for i in range(clumps):
        angle, level = 2 * pi * (i + draws()) / clumps, (i + draws(0.2, 0.8)) / clumps  # level: 0 lowest, 1 top
        narrow = 1 - taper * level
        clump = radius * draws(0.52, 0.70) * (1 - 0.35 * taper * level)
        at = (
            cos(angle) * radius * 0.62 * narrow,
            trunk + radius * (0.15 + 1.1 * level * (0.55 + 0.6 * tall)),
            sin(angle) * radius * 0.62 * narrow,
        )
        colour = shade(leaf, draws(0.82, 1.2))
        half, extra = (clump, clump * (0.5 + 0.45 * tall), clump), (look.crown_holes, look.leaf_mottle, 0, phase + 37 * i)
        site.put(ELLIPSOID, at, half, VEGETATION, colour, LEAF, False, extra)


def post(site: Site, look: Look, height: float, radius: float):
    site.put(CYLINDER, (0, height / 2, 0), (radius, height / 2, radius), POLE, tuple(look.pole_colour))


def lamp(site: Site, draws: Draws, look: Look, grammar: StreetGrammar, toward: int):
    """A street lamp: post, arm, head."""
    height, radius = draws(5.5, 7.5), grammar.pole_radius
    post(site, look, height, radius)
    site.put(BOX, (toward * 0.8, height, 0), (0.8, 0.07, 0.09), POLE, tuple(look.pole_colour))
    site.put(BOX, (toward * 1.6, height - 0.03, 0), (0.36, 0.10, 0.17), POLE, (0.7, 0.7, 0.68), shadow=False)


def traffic_light(site: Site, draws: Draws, look: Look, grammar: StreetGrammar, toward: int):
    """Signals at the post, and for some a second one on an arm over the road."""
    overhead, reach, state = draws.chance(0.45), draws(2.0, 3.4), draws.index(3)
    height, radius = (6.0 if overhead else 3.9), grammar.pole_radius
    post(site, look, height, radius)
    signal(site, 0.0, 3.2, state, grammar.light_scale)
    if overhead:
        arm = (toward * reach / 2, height - 0.05, 0)
        site.put(BOX, arm, (reach / 2, 0.09, 0.09), POLE, tuple(look.pole_colour), shadow=False)
        signal(site, toward * reach, height - 0.8, state, grammar.light_scale)


def signal(site: Site, x: float, y: float, state: int, k: float):
    """A dark case with three lenses, one of them lit, facing the camera (-z)."""
    site.put(BOX, (x, y, -0.16), (0.22 * k, 0.54 * k, 0.13), TRAFFIC_LIGHT, DARK)
    for i, colour in enumerate(SIGNALS):
        lit = i == state
        at, half = (x, y + (0.32 - 0.32 * i) * k, -0.29), (0.13 * k, 0.13 * k, 0.06)
        colour = colour if lit else shade(colour, 0.13)
        site.put(ELLIPSOID, at, half, TRAFFIC_LIGHT, colour, LAMP, False, (1.6 if lit else 0.0,))


def sign(site: Site, draws: Draws, look: Look, grammar: StreetGrammar):
    """A round, triangular or square sign on a post, sometimes with a plate below it."""
    height, radius, kind = draws(2.4, 3.1), draws(*grammar.sign_radius), draws.index(5)
    plate, variant = draws.chance(0.35), draws()
    colour = look.palettes["sign"][kind]  # the colour belongs to the kind of sign
    post(site, look, height, 0.6 * grammar.pole_radius)
    at, thin = (0, height - 0.1, -0.12), 0.03
    if kind < 2:
        site.put(ELLIPSOID, at, (radius, radius, thin), TRAFFIC_SIGN, colour, SIGN, True, (kind, variant))
    elif kind == 4:
        sides = [(s * 0.866, 0.5, 0.0, 0.46 * radius) for s in (-1, 1)]
        half = (1.1 * radius, 0.95 * radius, thin)
        site.put(CONVEX, at, half, TRAFFIC_SIGN, colour, SIGN, True, (TRIANGLE, variant), sides)
    else:
        half = (radius, radius * (0.75 if kind == 2 else 1.0), thin)
        site.put(BOX, at, half, TRAFFIC_SIGN, colour, SIGN, True, (PANEL, variant))
    if plate:
        below = (0, at[1] - radius - 0.24, -0.12)
        site.put(BOX, below, (0.8 * radius, 0.17, thin), TRAFFIC_SIGN, tuple(look.sign_white), SIGN, False, (PANEL, 1.0))


def bollard(site: Site, look: Look, grammar: StreetGrammar):
    half = (grammar.pole_radius, 0.5, grammar.pole_radius)
    site.put(CYLINDER, (0, 0.5, 0), half, POLE, tuple(look.bollard))
