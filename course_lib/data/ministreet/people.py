"""People on foot and on two wheels, put together from ellipsoids.

Local frame: x right, y up, z the way they face, metres before the site's scale; the origin lies between the feet.
"""

from .classes import BICYCLE, MOTORCYCLE, PERSON, RIDER
from .draws import Draws
from .looks import Look
from .site import Site, shade
from .solids import BOX, CYLINDER, ELLIPSOID, WHEEL

SHOE, BLACK, STEEL, GRIP = (0.10, 0.08, 0.07), (0.06, 0.06, 0.07), (0.25, 0.25, 0.27), (0.10, 0.10, 0.10)
DETAIL = 22.0  # metres: arms and feet of farther people are not drawn


def upper_body(site: Site, draws: Draws, look: Look, label: int, hips: float, z: float, lean: float, size: float):
    """Torso, arms, neck, head and hair above the hips; `lean` moves the head ahead."""
    coat, skin = look.palette("cloth", draws), look.palette("skin", draws)
    hair = (draws(0.10, 0.30), draws(0.07, 0.16), 0.06)
    swing, width, torso = draws(0.02, 0.10), look.shoulders, 0.33 * size
    long_coat = draws.chance(look.coats)
    neck = hips + 1.85 * torso
    site.put(ELLIPSOID, (0, hips + torso, z + 0.55 * lean), (width, 0.95 * torso, 0.15), label, coat)
    skirt = coat if long_coat else shade(coat, 0.55)
    drop = 0.34 if long_coat else 0.19
    at = hips + 0.15 * torso - (0.12 if long_coat else 0.0)
    site.put(ELLIPSOID, (0, at, z + 0.1 * lean), (0.86 * width, drop * size, 0.15), label, skirt, shadow=False)
    site.put(CYLINDER, (0, neck, z + 0.9 * lean), (0.06, 0.09, 0.06), label, skin, shadow=False)
    site.put(ELLIPSOID, (0, neck + 0.11, z + lean), (0.115, 0.145, 0.13), label, skin)
    site.put(ELLIPSOID, (0, neck + 0.16, z + lean - 0.03), (0.12, 0.115, 0.13), label, hair, shadow=False)
    if site.distance < DETAIL:
        for side in (-1, 1):
            arm = (side * (width + 0.03), hips + 0.72 * torso, z + 0.8 * lean + side * swing)
            half = (0.07, 0.95 * torso, 0.075 + 0.5 * abs(lean))
            site.put(ELLIPSOID, arm, half, label, shade(coat, 0.88), shadow=False)


def person(site: Site, draws: Draws, look: Look):
    """Someone walking or standing; one in twelve is a child; some carry a bag."""
    size = draws(0.92, 1.06) * (0.74 if draws.chance(0.08) else 1.0)
    stride, trousers = draws(0.02, 0.17), shade(look.palette("cloth", draws), 0.55)
    bag, bag_colour = draws.chance(0.3), look.palette("cloth", draws)
    for side in (-1, 1):
        leg = (side * 0.095, 0.43 * size, side * stride)
        site.put(ELLIPSOID, leg, (0.095, 0.46 * size, 0.11), PERSON, trousers)
        if site.distance < DETAIL:
            foot = (side * 0.095, 0.045, side * 1.9 * stride + 0.05)
            site.put(BOX, foot, (0.055, 0.05, 0.14), PERSON, SHOE, shadow=False)
    upper_body(site, draws.fork(30), look, PERSON, 0.80 * size, 0.0, 0.6 * stride, size)
    if bag and site.distance < DETAIL:
        site.put(ELLIPSOID, (0.32, 0.75 * size, 0), (0.10, 0.17, 0.15), PERSON, bag_colour, shadow=False)


def bicycle(site: Site, draws: Draws, look: Look):
    """Two wheels, a frame, a saddle and a handlebar, all thicker than life so that they are seen."""
    frame = look.palette("car", draws)
    for z in (-0.52, 0.52):
        site.put(ELLIPSOID, (0, 0.35, z), (0.055, 0.35, 0.35), BICYCLE, BLACK, WHEEL)
    for at, half in (
        ((0, 0.64, 0.02), (0.04, 0.05, 0.45)),  # top tube
        ((0, 0.45, -0.20), (0.04, 0.20, 0.045)),  # seat tube
        ((0, 0.50, 0.16), (0.04, 0.045, 0.34)),  # down tube
        ((0, 0.80, 0.46), (0.04, 0.20, 0.045)),  # head tube
    ):
        site.put(BOX, at, half, BICYCLE, frame, shadow=False)
    site.put(BOX, (0, 1.0, 0.44), (0.28, 0.04, 0.04), BICYCLE, GRIP, shadow=False)
    site.put(ELLIPSOID, (0, 0.90, -0.22), (0.09, 0.06, 0.15), BICYCLE, BLACK, shadow=False)
    site.put(BOX, (0, 0.70, -0.62), (0.16, 0.10, 0.14), BICYCLE, shade(frame, 0.5), shadow=False)  # carrier


def motorcycle(site: Site, draws: Draws, look: Look):
    """Thick wheels, tank and engine, saddle, handlebar, lamp."""
    paint = look.palette("car", draws)
    for z in (-0.65, 0.65):
        site.put(ELLIPSOID, (0, 0.33, z), (0.11, 0.33, 0.33), MOTORCYCLE, BLACK, WHEEL)
    site.put(ELLIPSOID, (0, 0.64, 0.08), (0.21, 0.26, 0.58), MOTORCYCLE, paint)
    site.put(ELLIPSOID, (0, 0.84, -0.38), (0.18, 0.11, 0.40), MOTORCYCLE, BLACK, shadow=False)
    site.put(BOX, (0, 1.04, 0.42), (0.36, 0.04, 0.05), MOTORCYCLE, GRIP, shadow=False)
    site.put(ELLIPSOID, (0, 0.90, 0.57), (0.14, 0.14, 0.11), MOTORCYCLE, (0.80, 0.80, 0.75), shadow=False)
    site.put(BOX, (0, 0.42, 0), (0.17, 0.16, 0.32), MOTORCYCLE, STEEL, shadow=False)
    site.put(BOX, (0, 0.60, -0.95), (0.10, 0.07, 0.04), MOTORCYCLE, (0.75, 0.06, 0.05), shadow=False)


def rider(vehicle_site: Site, body_site: Site, draws: Draws, look: Look, motor: bool):
    """A rider (an instance of its own) on a bicycle or a motorcycle (another one)."""
    (motorcycle if motor else bicycle)(vehicle_site, draws.fork(8), look)
    saddle = 0.88 if motor else 0.93
    trousers, helmet, wears = shade(look.palette("cloth", draws), 0.5), look.palette("car", draws), draws.chance(0.6)
    for side in (-1, 1):
        leg = (side * 0.15, 0.62, 0.08 * side - 0.02)
        body_site.put(ELLIPSOID, leg, (0.10, 0.36, 0.14), RIDER, trousers)
    upper_body(body_site, draws.fork(30), look, RIDER, saddle, -0.24, 0.17, 1.0)
    if wears:
        head = (0, saddle + 0.33 * 1.85 + 0.20, -0.09)
        body_site.put(ELLIPSOID, head, (0.145, 0.12, 0.165), RIDER, helmet, shadow=False)

