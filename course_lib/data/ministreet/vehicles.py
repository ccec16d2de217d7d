"""Cars, trucks, buses and trams, put together from boxes, cut boxes and wheels.

Local frame: x right, y up, z ahead (the nose), metres; the origin lies on the road under the middle of the vehicle.
"""

from .classes import BUS, CAR, TRAIN, TRUCK
from .draws import Draws
from .looks import Look
from .site import Site, shade
from .solids import BAND, BOX, CABIN, CONVEX, ELLIPSOID, LAMP, WHEEL

RUBBER, DARK, PLATE = (0.05, 0.05, 0.055), (0.10, 0.10, 0.11), (0.85, 0.85, 0.80)
RED, WHITE = (0.78, 0.05, 0.04), (0.95, 0.95, 0.88)
DETAIL = 26.0  # metres: lamps, plates and mirrors of farther vehicles are not drawn
GLOW = 0.35  # how much a lamp shines of its own


def wheels(site: Site, label: int, half_track: float, along, radius: float, thickness: float):
    for z in along:
        for side in (-1, 1):
            site.put(
                ELLIPSOID, (side * half_track, radius, z), (thickness, radius, radius), label, RUBBER, WHEEL, False
            )


def lamps(site: Site, label: int, x: float, y: float, back: float, front: float, size: float):
    for side in (-1, 1):
        site.put(BOX, (side * x, y, back), (size * 1.2, size * 0.65, 0.04), label, RED, LAMP, False, (GLOW,))
        site.put(BOX, (side * x, y - 0.03, front), (size * 1.3, size * 0.6, 0.05), label, WHITE, LAMP, False, (GLOW,))


def car(site: Site, draws: Draws, look: Look):
    """A saloon, a hatchback, or a tall SUV; body and glass house are two cut boxes."""
    width, length, roof = draws(0.84, 0.93), draws(1.95, 2.3), draws(1.38, 1.5)  # half, half, full
    hatch = 0.95 if draws.chance(look.hatchbacks) else 0.2
    tall = draws.chance(look.tall_cars)
    paint = look.palette("car", draws)
    if tall:
        roof, width = roof + 0.32, width + 0.04
    length -= 0.22 * hatch
    belt = 0.82 + (0.16 if tall else 0.0)  # where the glass begins
    floor = 0.22 + (0.08 if tall else 0.0)

    half = (belt - floor) / 2
    bonnet, boot = (0.0, 0.94, 0.34), (0.0, 0.94, -0.34)  # both ends of the body slope
    site.put(
        CONVEX, (0, floor + half, 0), (width, half, length), CAR, paint,
        planes=[(*bonnet, 0.94 * half + 0.34 * length - 0.16), (*boot, 0.94 * half + 0.34 * length - 0.10)],
    )  # fmt: skip

    rise = (roof - belt) / 2
    nose, tail = length - (1.0 if tall else 1.15), -length + 0.12 + (0.5 - 0.5 * hatch)
    reach, upright = (nose - tail) / 2, 0.75 - 0.5 * hatch  # a hatchback's rear window stands
    lean = 0.94 * width + 0.34 * rise - 0.56 * rise  # the sides lean in
    site.put(
        CONVEX, (0, belt + rise, (nose + tail) / 2), (width, rise, reach), CAR, paint, CABIN,
        planes=[
            (0.0, 0.62, 0.78, 0.78 * reach + 0.62 * rise - 0.93 * rise),  # windscreen
            (0.0, 0.75, -0.66, 0.66 * reach + 0.75 * rise - upright * rise * 1.5),  # rear window
            (0.94, 0.34, 0.0, lean),
            (-0.94, 0.34, 0.0, lean),
        ],
    )  # fmt: skip

    radius = 0.33 + (0.04 if tall else 0.0)
    wheels(site, CAR, width - 0.09, (0.75 - length, length - 0.75), radius, 0.13)
    if site.distance > DETAIL:
        return
    lamps(site, CAR, width - 0.2, belt - 0.22, -length + 0.02, length - 0.02, 0.13)
    for end in (-1, 1):
        site.put(BOX, (0, belt - 0.38, end * (length + 0.005)), (0.25, 0.06, 0.02), CAR, PLATE, shadow=False)
        site.put(BOX, (0, floor + 0.08, end * (length - 0.01)), (0.96 * width, 0.09, 0.04), CAR, DARK, shadow=False)
        mirror = (end * (width + 0.06), belt + 0.08, nose - 0.25)
        site.put(BOX, mirror, (0.08, 0.06, 0.04), CAR, shade(paint, 0.6), shadow=False)


def truck(site: Site, draws: Draws, look: Look):
    """A cargo box behind a cab."""
    paint, cab = look.palette("truck", draws), look.palette("truck", draws)
    length, half = draws(2.2, 3.6), draws(1.15, 1.45)
    site.put(BOX, (0, 0.95 + half, -1.0), (1.26, half, length), TRUCK, paint)
    site.put(BOX, (0, 0.75, -1.0), (1.1, 0.16, length + 0.1), TRUCK, DARK, shadow=False)
    site.put(BOX, (0, 0.95 + half, -1.0 - length), (0.02, 0.96 * half, 0.02), TRUCK, (0.2, 0.2, 0.2), shadow=False)
    windscreen = (0.0, 0.30, 0.954, 0.954 + 0.30 * 1.05 - 0.22)
    site.put(CONVEX, (0, 1.45, length + 0.2), (1.2, 1.05, 1.0), TRUCK, cab, CABIN, planes=[windscreen])
    wheels(site, TRUCK, 1.1, (-length - 0.1, 1.0 - length, length + 0.2), 0.48, 0.16)
    lamps(site, TRUCK, 0.95, 0.78, -1.03 - length, length + 1.2, 0.14)


def bus(site: Site, draws: Draws, look: Look):
    """One box with a band of windows (metres 1.45 to 2.6 above the road)."""
    paint, length = look.palette("bus", draws), draws(4.8, 6.2)
    site.put(BOX, (0, 1.72, 0), (1.26, 1.4, length), BUS, paint, BAND, True, (1.45, 2.6))
    site.put(BOX, (0, 0.32, 0), (1.22, 0.12, length - 0.02), BUS, DARK, shadow=False)
    site.put(BOX, (0, 3.2, -0.5), (0.9, 0.12, 0.6 * length), BUS, shade(paint, 0.85), shadow=False)
    wheels(site, BUS, 1.16, (2.0 - length, length - 2.2), 0.48, 0.16)
    lamps(site, BUS, 0.98, 0.75, -length - 0.01, length + 0.01, 0.15)


def tram(site: Site, draws: Draws, look: Look):
    """Two or three coupled cars with bellows between them, a pantograph deck on the roof."""
    paint = look.palette("train", draws)
    for i in range(2 + draws.index(2)):
        z = 8.4 * i
        site.put(BOX, (0, 1.85, z), (1.25, 1.55, 4.05), TRAIN, paint, BAND, True, (1.5, 2.7))
        site.put(BOX, (0, 3.5, z), (0.8, 0.15, 2.6), TRAIN, (0.3, 0.3, 0.32), shadow=False)
        site.put(BOX, (0, 1.7, z + 4.2), (1.1, 1.3, 0.16), TRAIN, (0.12, 0.12, 0.13), shadow=False)
        site.put(BOX, (0, 0.2, z), (1.1, 0.16, 3.4), TRAIN, DARK, shadow=False)
    lamps(site, TRAIN, 0.95, 0.8, -4.06, 4.06, 0.15)
