"""Houses: a facade box with a cornice or a pitched roof, awnings, balconies."""

from math import hypot

from .classes import BUILDING
from .draws import Draws
from .looks import Look
from .site import shade
from .solids import BOX, CONVEX, FACADE, ROOF

FAR = 70.0  # metres: no awnings beyond


def house(street, draws: Draws, look: Look, side: int, z1: float, z2: float, edge: float):
    """A house on one side of the street between z1 and z2, its facade `edge` metres from the middle of the road."""
    solids, base, instance = street.solids, street.kerb, street.new_instance()
    paint, roof = look.palette("house", draws), look.palette("roof", draws)
    deep, tall = draws(4.0, 6.0), draws(5.5, 12.0) + look.storeys_more
    tower, tower_height = draws.chance(0.35), draws(3.0, 11.0)
    pitch_factor, storey, pitched, ridge = draws(0.85, 1.15), draws(2.8, 3.4), draws.chance(look.gables), draws(1.6, 3.0)
    awning, awning_colour, balconies = draws.chance(look.awnings), look.palette("car", draws), draws.chance(look.balconies)
    style, number = draws(), draws.index(997)  # which ornaments, which windows: materials.py
    tall += tower_height if tower else 0.0

    middle, half = (z1 + z2) / 2, (z2 - z1) / 2
    x, yaw = street.x_at(side * (edge + deep), middle), street.yaw_at(middle)
    extra = (look.window_pitch * pitch_factor, storey, style, number)
    solids.add(
        BOX, (x, base + tall / 2, middle), (deep, tall / 2, half), yaw, BUILDING, instance, paint, FACADE, True, extra
    )
    if tall < 14 and pitched:  # the ridge runs along the street
        slope = hypot(ridge, deep)
        planes = [(s * ridge / slope, deep / slope, 0.0, deep * ridge / 2 / slope) for s in (1, -1)]
        at, size = (x, base + tall + ridge / 2, middle), (deep + 0.3, ridge / 2, half + 0.02)
        solids.add(CONVEX, at, size, yaw, BUILDING, instance, roof, ROOF, True, (0, 0, 0, number), planes)
    else:  # a flat roof with a cornice
        at, size = (x, base + tall, middle), (deep + 0.2, 0.24, half + 0.02)
        solids.add(BOX, at, size, yaw, BUILDING, instance, shade(paint, 0.8), shadow=False)

    facade = street.x_at(side * edge, middle)
    if awning and middle < FAR:
        at, size = (facade - side * 0.5, base + 3.0, middle), (0.55, 0.08, 0.85 * half)
        solids.add(BOX, at, size, yaw, BUILDING, instance, awning_colour)
    if balconies and middle < 40:
        for storey_index in range(1 + int((min(tall, 14) - 6) // 3.2)):
            for along in (-0.5, 0.5):
                at = (facade - side * 0.4, base + 4.1 + 3.2 * storey_index, middle + along * half)
                size = (0.42, 0.48, min(1.3, 0.35 * half))
                solids.add(BOX, at, size, yaw, BUILDING, instance, shade(paint, 0.72))
