"""The grammar of a street: what stands where. One seed is one street; a gap changes shapes and numbers, not the plan.

Road coordinates: s metres right of the road's middle, z metres ahead of the camera; the road bends, so a point stands at
x = s + offset + bend z^2 / 2, and objects turn with it. `side` is -1 (left) or +1 (right).
"""

from math import atan, pi

import numpy as np

from . import people, roadside, vehicles
from .camera import Camera
from .classes import BUILDING, FENCE, VEGETATION, WALL
from .draws import Draws
from .houses import house
from .looks import Look, StreetGrammar
from .site import Site
from .solids import BOX, ELLIPSOID, FACADE, LEAF, MASONRY, PLANKS, SolidList

NOWHERE = 1e9  # where a crossing street lies that is not there
PLOTS_PER_METRE = 2
HOUSE, TREE, PERSON, RIDER, VEHICLE = 40, 44, 56, 60, 24  # how many draws each may take
DRAWS = 16_000  # of one street


class Street:
    """A street: `table`, its solids (frozen from `solids`, where they are collected), and the numbers of its ground."""

    def __init__(self, draws: Draws, look: Look, grammar: StreetGrammar):
        self.look, self.grammar, self.solids, self.instances = look, grammar, SolidList(), 0
        g = grammar
        self.half_width, self.kerb = draws(*g.half_width), g.kerb
        self.bend = draws(-1, 1) ** 3 * g.bend
        self.offset = -draws(0.9, max(1.0, self.half_width - 2.4))  # the camera drives in the right lane
        self.sidewalks = (draws(*g.sidewalk), draws(*g.sidewalk))  # left, right
        self.strips = tuple(draws(0.5, 1.4) * draws.chance(g.grass_strip) for _ in range(2))
        start, width = 12 + 28 * draws() ** 1.3, draws(7, 11)
        self.crossing = (start, width) if draws.chance(g.crossing_street) else (NOWHERE, 1.0)
        zebra_at = draws(7, 24)
        self.zebra = zebra_at if draws.chance(g.zebra) else None
        self.tramway = draws.chance(g.tramway)
        self.mark_width = draws(0.09, 0.15)
        self.open_plots = np.zeros((2, 120 * PLOTS_PER_METRE), bool)  # terrain behind the sidewalk, by side and z

        for side in (-1, 1):
            self._plots(draws.fork(4000), side)
            self._corners(draws.fork(300), side)
            self._trees(draws.fork(500), side)
            self._furniture(draws.fork(300), side)
            self._sidewalk_life(draws.fork(1000), side)
            self._parked(draws.fork(500), side)
        self._traffic(draws.fork(600))
        self._riders(draws.fork(300))
        self._people_on_zebra(draws.fork(300))
        self._skyline(draws.fork(400))
        self.table = self.solids.table()

    # ---- geometry

    def x_at(self, s: float, z: float) -> float:
        return s + self.offset + 0.5 * self.bend * z * z

    def yaw_at(self, z: float) -> float:
        return -atan(self.bend * z)

    def new_instance(self) -> int:
        self.instances += 1
        return self.instances

    def site(self, s: float, z: float, turn: float = 0.0, scale: float = 1.0) -> Site:
        """The frame of a new object at (s, z), turned with the street and by `turn`, standing on road or sidewalk."""
        ground = 0.0 if abs(s) < self.half_width else self.kerb
        yaw = self.yaw_at(z) + turn
        return Site(self.solids, (self.x_at(s, z), ground, z), yaw, self.new_instance(), scale)

    def clear(self, z: float) -> bool:
        """Whether the sidewalk is free of the crossing street at z."""
        start, width = self.crossing
        return not start - 1 < z < start + width + 1

    def sidewalk(self, side: int) -> float:
        return self.sidewalks[side > 0]

    # ---- what stands there

    def _plots(self, draws: Draws, side: int):
        """Houses, walls, fences, hedges and open ground, plot by plot into the distance."""
        look, g = self.look, self.grammar
        edge = self.half_width + self.sidewalk(side)
        z, fill = draws(-9, -2), 0.5 * (draws() - 0.5)  # some streets are more built up than others
        start, width = self.crossing
        while z < g.depth:
            plot = draws.fork(240)
            length, built, gap_after, has_gap = plot(*g.plot), plot(), plot(0.2, 2.5), plot.chance(0.25)
            if z < start + width + 2 and z + length > start - 2:  # the plot would lie on the crossing street
                if z < start - 6:
                    length = start - 2 - z
                else:
                    z = start + width + 2 + plot(0, 2)
                    continue
            end = z + length
            front, behind, set_back = plot(0, 0.8), plot.chance(0.75), plot(9, 14)
            if built < look.built_up + fill:
                house(self, plot.fork(HOUSE), look, side, z, end - (gap_after if has_gap else 0.0), edge + front)
            else:
                self._open_plot(plot.fork(20 + 3 * TREE), side, z, end, edge)
                if behind:
                    house(self, plot.fork(HOUSE), look, side, z, end, edge + set_back)
            z = end

    def _open_plot(self, draws: Draws, side: int, z: float, end: float, edge: float):
        look, g = self.look, self.grammar
        first, last = (int(max(v, 0) * PLOTS_PER_METRE) for v in (z, end))
        self.open_plots[int(side > 0), first : max(last, 1)] = True
        middle, half = (z + end) / 2, (end - z) / 2
        x, yaw, instance = self.x_at(side * (edge + 0.2), middle), self.yaw_at(middle), self.new_instance()
        kind, height, plank = draws(), draws(*g.barrier_height) / 2, draws(0.16, 0.34)
        phase = draws.index(512)
        wall, fence, leaf = (look.palette(name, draws) for name in ("wall", "fence", "leaf"))
        at = (x, height + 0.1, middle)
        if kind < g.walls:
            self.solids.add(BOX, at, (0.17, height, half), yaw, WALL, instance, wall, MASONRY, True, (0, 0, 0, phase))
        elif kind < g.walls + g.fences:
            self.solids.add(BOX, at, (0.08, height, half), yaw, FENCE, instance, fence, PLANKS, True, (plank, 0, 0, phase))
        elif kind < g.walls + g.fences + g.hedges:
            at = (x + side * 0.5, height + 0.1, middle)
            extra = (look.crown_holes, look.leaf_mottle, 0, phase)
            self.solids.add(BOX, at, (0.6, height, half), yaw, VEGETATION, instance, leaf, LEAF, True, extra)
        for _ in range(min(1 + int((end - z) / 7), 3) if middle < 60 else 0):  # trees behind it
            tree = draws.fork(TREE)
            at, back = z + tree(0.1, 0.9) * (end - z), edge + tree(2.0, 6.0)
            roadside.tree(self.site(side * back, at), tree, look, tree(0.95, 1.6))

    def _corners(self, draws: Draws, side: int):
        """The facades along a crossing street."""
        start, width = self.crossing
        if start > 60:
            return
        edge = self.half_width + self.sidewalk(side) + 13
        for z in (start - 2 - draws(5, 8), start + width + 2 + draws(0, 1)):
            for i in range(2):
                house(self, draws.fork(HOUSE), self.look, side, z, z + draws(6, 8), edge + i * 12 + draws(0, 2))

    def _trees(self, draws: Draws, side: int):
        """A row along the kerb."""
        row, z, spacing = draws.chance(self.look.tree_rows), draws(6, 15), draws(8, 12) * self.look.tree_spacing
        for _ in range(self.grammar.trees if row else 0):
            tree = draws.fork(TREE)
            if self.clear(z) and z < 60:
                site = self.site(side * (self.half_width + 0.75), z)
                roadside.tree(site, tree, self.look, tree(0.75, 1.1))
            z += spacing

    def _furniture(self, draws: Draws, side: int):
        """Street lamps, signs, bollards, traffic lights at the crossing street."""
        look, g, kerb, toward = self.look, self.grammar, self.half_width + 0.45, -side
        z, spacing = draws(7, 17), draws(15, 22)
        for i in range(g.lamps):
            if self.clear(z + i * spacing):
                roadside.lamp(self.site(side * (kerb - 0.1), z + i * spacing), draws.fork(4), look, g, toward)
        for _ in range(g.signs):
            sign = draws.fork(16)
            z, s = sign(g.nearest + 1, g.signs_to), side * (kerb + sign(0, 0.3))
            if sign.chance(0.5) and self.clear(z):
                roadside.sign(self.site(s, z), sign, look, g)
        row, z = draws.chance(g.bollards), draws(6, 10)
        for i in range(4 if row else 0):
            roadside.bollard(self.site(side * (self.half_width + 0.3), z + 2 * i), look, g)
        start, width = self.crossing
        if start < 60:
            near, far = (start - 0.6, start + width + 0.8) if side > 0 else (start + width + 0.6, start - 0.7)
            both = draws.chance(0.6)
            roadside.traffic_light(self.site(side * kerb, near), draws.fork(4), look, g, toward)
            if both:
                roadside.traffic_light(self.site(side * (kerb + 0.1), far), draws.fork(4), look, g, toward)

    def _sidewalk_life(self, draws: Draws, side: int):
        """People walking, alone or in pairs; parked bicycles; a parked motorcycle."""
        look, g = self.look, self.grammar
        low, high = self.half_width + 0.8, self.half_width + self.sidewalk(side) - 0.4
        for _ in range(g.people):
            walker = draws.fork(2 * PERSON + 8)
            there, s = walker.chance(look.pedestrians), walker(low, high)
            z = g.nearest + (g.people_to - g.nearest) * walker() ** 1.4
            turn, pair = walker(-0.4, 0.4) + (0 if walker.chance(0.5) else pi), walker.chance(0.3)
            for i in range(1 + pair if there else 0):
                site = self.site(side * (s - 0.65 * i), z + 0.15 * i, turn, g.person_scale)
                people.person(site, walker.fork(PERSON), look)
        rack = draws.fork(40)
        there, z, turn = rack.chance(g.parked_bicycles), rack(7, 17), rack(-0.3, 0.3) + rack.chance(0.7) * pi / 2
        s, count = rack(0.8, 1.2), 1 + rack.chance(0.4) + rack.chance(0.3)
        for i in range(count if there else 0):
            people.bicycle(self.site(side * (self.half_width + s), z + 1.1 * i, turn, g.person_scale), rack.fork(6), look)
        lone = draws.fork(16)
        if lone.chance(g.parked_motorcycle):
            site = self.site(side * (self.half_width - 0.6), lone(6, 14), lone(-0.4, 0.4), g.rider_scale)
            people.motorcycle(site, lone, look)

    def _parked(self, draws: Draws, side: int):
        """A row of parked cars, where the road is wide enough."""
        look, g = self.look, self.grammar
        row, z, most = draws.chance(look.parked), draws(5.5, 13), 1 + draws.index(g.parked)
        for _ in range(most if row and self.half_width > 4.2 else 0):
            space = draws.fork(VEHICLE + 8)
            truck, step = space.chance(g.parked_trucks), space(5.6, 8.5)
            if self.clear(z - 2) and self.clear(z + 2):
                if truck:
                    vehicles.truck(self.site(side * (self.half_width - 1.3), z + 3), space, look)
                else:
                    site = self.site(side * (self.half_width - 1.05), z, 0 if side > 0 else pi)
                    vehicles.car(site, space, look)
            z += step

    def _vehicle(self, draws: Draws, s: float, z: float, turn: float):
        kind, g = draws(), self.grammar
        if kind < g.buses:
            vehicles.bus(self.site(s, z + 5, turn), draws, self.look)
        elif kind < g.buses + g.trucks:
            vehicles.truck(self.site(s, z + 4, turn), draws, self.look)
        else:
            vehicles.car(self.site(s, z, turn), draws, self.look)

    def _traffic(self, draws: Draws):
        """Vehicles ahead in one's lane, oncoming ones, a tram, a car on the crossing street."""
        look, g = self.look, self.grammar
        lane = max(self.half_width - (2.3 if self.half_width > 4.2 else 0.0) - 1.3, 0.9)
        z, mine = draws(9, 20), min(max(-self.offset, 0.9), lane)
        for _ in range(g.ahead):
            vehicle = draws.fork(VEHICLE + 8)
            aside, step = vehicle(-0.2, 0.2), vehicle(10, 20)
            if vehicle.chance(look.traffic):
                self._vehicle(vehicle, mine + aside, z, 0.0)
            z += step
        z, opposite, tram = draws(7, 26), -max(0.75 * lane, 1.4), draws.fork(16)
        if self.tramway and tram.chance(g.trains):
            vehicles.tram(self.site(opposite, z + 4), tram, look)
            z += 34
        for _ in range(g.oncoming):
            vehicle = draws.fork(VEHICLE + 8)
            step = vehicle(10, 22)
            if vehicle.chance(look.traffic):
                self._vehicle(vehicle, opposite, z, pi)
            z += step
        across = draws.fork(VEHICLE + 8)
        there, s, forth, turn = across.chance(0.4), across(-3, 3), across(-1, 1), across.sign() * pi / 2
        start, width = self.crossing
        if there and start < 35:
            vehicles.car(self.site(s, start + width / 2 + forth, turn), across, look)

    def _riders(self, draws: Draws):
        g = self.grammar
        for chance in (g.riders, g.second_rider):
            one = draws.fork(RIDER + 12)
            there, z, turn, side = one.chance(chance), one(6, 20), one(-0.12, 0.12) + (not one.chance(0.7)) * pi, one.sign(0.7)
            s = side * (self.half_width - one(0.6, 1.0) - (2.0 if self.half_width > 4.2 else 0.0))
            motor = one.chance(g.motorcycles)
            if there:
                vehicle, body = (self.site(s, z, turn, g.rider_scale) for _ in range(2))
                people.rider(vehicle, body, one, self.look, motor)

    def _people_on_zebra(self, draws: Draws):
        there, count = draws.chance(0.6), 1 + draws.index(3)
        for _ in range(count if there and self.zebra else 0):
            one = draws.fork(PERSON + 8)
            s, z, turn = one(-0.8, 0.8) * self.half_width, self.zebra + one(0.4, 2.6), one.sign() * pi / 2
            people.person(self.site(s, z, turn, self.grammar.person_scale), one, self.look)

    def _skyline(self, draws: Draws):
        """Houses and treetops that close the view."""
        x, instance = -90.0, self.new_instance()
        while x < 90:
            piece = draws.fork(20)
            width, z, built = piece(8, 18), piece(122, 150), piece.chance(0.55)
            middle, rise, half_height, phase = piece(4, 11), piece(5, 9), piece(4, 12), piece.index(512)
            if built:
                at, half = (x + width / 2, middle, z), (width / 2, half_height, 5)
                extra = (3.0, 3.2, 0.5, phase)
                paint = self.look.palette("house", piece)
                self.solids.add(BOX, at, half, 0, BUILDING, instance, paint, FACADE, False, extra)
            else:
                at, half, leaf = (x + width / 2, 2, z), (0.75 * width, rise, 4), self.look.palette("leaf", piece)
                extra = (self.look.crown_holes, self.look.leaf_mottle, 0, phase)
                self.solids.add(ELLIPSOID, at, half, 0, VEGETATION, instance, leaf, LEAF, False, extra)
            x += width


def camera_in(street: Street, size: tuple[int, int]) -> Camera:
    """The camera that the street's look asks for: on the road's right half, 1.3 to 2.2 m high."""
    look, (height, width) = street.look, size
    return Camera(
        focal=look.focal * width,
        cx=look.vanishing_column * width,
        cy=look.horizon_row * height,
        height=look.camera_height,
        size=size,
    )
