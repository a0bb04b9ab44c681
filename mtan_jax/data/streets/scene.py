"""Draws the random layout of a scene: houses, vehicles, plants, people and street furniture."""

import dataclasses

import numpy as np

from mtan_jax.data.streets.buildings import bank, barrier, house, wall_colour
from mtan_jax.data.streets.camera import Camera, random_camera
from mtan_jax.data.streets.furniture import bollard, bush, foliage_colour, lamp, sign, traffic_light, tree, void_object
from mtan_jax.data.streets.ground import GroundLook, random_ground
from mtan_jax.data.streets.light import Light, random_light
from mtan_jax.data.streets.people import cyclist, person
from mtan_jax.data.streets.primitives import CONSTRUCTION, NATURE, Polygon, Primitive, Surface
from mtan_jax.data.streets.street import Street, random_street
from mtan_jax.data.streets.textures import Values, leaves, noise, rough
from mtan_jax.data.streets.vehicles import bus, car

_END = 110.0  # metres; only the horizon is farther away


@dataclasses.dataclass(frozen=True, eq=False)
class Scene:
    """Everything needed to render a scene."""

    camera: Camera
    light: Light
    street: Street
    ground: GroundLook
    primitives: list[Primitive]


def random_scene(rng: np.random.Generator, size: tuple[int, int]) -> Scene:
    """Draws a scene. Its layout does not depend on `size`, the height and width of the image in pixels."""
    street = random_street(rng)
    camera = random_camera(rng, size, np.arctan(street.heading))
    light, ground = random_light(rng), random_ground(rng)
    layout = _Layout(rng, street, light)
    primitives = [*layout.horizon(), *layout.houses(), *layout.traffic(), *layout.plants(), *layout.people()]
    return Scene(camera, light, street, ground, [*primitives, *layout.furniture()])


class _Layout:
    """Places objects along a street and keeps track of occupied positions."""

    def __init__(self, rng: np.random.Generator, street: Street, light: Light):
        self.rng, self.street = rng, street
        self.built = rng.choice([0.98, 0.8, 0.3], p=[0.6, 0.25, 0.15])  # fraction of the frontage with houses
        self.storeys = (
            rng.uniform(5, 9) if rng.random() < 0.3 else rng.uniform(9, 22)
        )  # mean height of houses in metres
        across = float(light.to_sun @ street.frame(0, 0).aside)
        self.sun_side = np.sign(across)
        self.sun_slope = light.to_sun[1] / max(abs(across), 1e-3)
        self.closed = street.crossing[0] < 90 and rng.random() < 0.15  # houses across the end of the street
        self.end = street.crossing[1] if self.closed else _END
        self.occupied: list[tuple[float, float]] = []

    def house_line(self, side: float) -> float:
        """Returns the distance of the house fronts from the centre of the road."""
        return self.street.half_road + self.street.pavement + self.street.setback[int(side > 0)]

    def shade_top(self, lateral: float) -> float:
        """Returns the height up to which the houses on the sunny side cast shade."""
        if self.built < 0.5:
            return -1.0
        distance = self.house_line(self.sun_side) - self.sun_side * lateral
        return self.storeys - distance * self.sun_slope

    def sunlit(self, lateral: float) -> float:
        return 0.1 if self.shade_top(lateral) > 1.2 else 1.0

    def horizon(self) -> list[Primitive]:
        """Builds a distant line of trees, hills or roofs."""
        rng, top = self.rng, self.rng.uniform(5, 22)
        rugged, period, shift = rng.uniform(0.5, 4), rng.uniform(60, 400), rng.uniform(0, 300)
        blocks = rng.random() < 0.35
        base = 0.5 * self.street.profile * 200**2 - 30

        def keep(u: Values, v: Values) -> np.ndarray:
            column = np.floor(u / 9) * 9 if blocks else u
            return v < 30 + top + rugged * noise(column + shift, 0 * u, period, 1.1)

        texture = rough(wall_colour(rng), 0.1, 60.0) if blocks else leaves(rng, foliage_colour(rng))
        surface = Surface(CONSTRUCTION if blocks else NATURE, texture, keep=keep)
        corners = [(-500, base, 200), (500, base, 200), (500, base + 90, 200), (-500, base + 90, 200)]
        return [Polygon(np.array(corners, float), surface)]

    def houses(self) -> list[Primitive]:
        """Builds both rows of houses with their gaps, and the houses across the end of the street."""
        parts: list[Primitive] = []
        for side in (-1.0, 1.0):
            z = -9.0
            while z < self.end:
                z = self._frontage(parts, side, z)
        if self.closed:
            lateral = -32.0
            while lateral < 32:
                length, depth = self.rng.uniform(7, 15), self.rng.uniform(8, 12)
                z = self.street.crossing[1] + self.street.pavement + depth / 2 + self.rng.uniform(0, 2)
                frame = self.street.frame(0, z, raised=False).moved(lateral + length / 2, 0, 0, np.pi / 2)
                height = self.storeys * self.rng.uniform(0.7, 1.3)
                parts += house(self.rng, frame, (depth, height, length), -1.0)
                lateral += length + self.rng.choice([0.0, 3.0], p=[0.8, 0.2])
        return parts

    def _frontage(self, parts: list[Primitive], side: float, z: float) -> float:
        """Adds the next house or open plot of a row; returns the position of its end."""
        rng, street = self.rng, self.street
        length = rng.uniform(5.5, 10) if self.storeys < 9 else rng.uniform(8, 20)
        if z < street.crossing[1] and z + length > street.crossing[0] - street.pavement:
            if street.crossing[0] - street.pavement - z < 4:
                return street.crossing[1] + street.pavement + 0.01
            length = street.crossing[0] - street.pavement - z
        middle, line = z + length / 2, self.house_line(side)
        if rng.random() < self.built:
            depth = rng.uniform(7, 13)
            lateral = side * (line + depth / 2 + rng.choice([0.0, rng.uniform(0, 1.0)], p=[0.8, 0.2]))
            height = max(2.8, self.storeys * rng.uniform(0.8, 1.2))
            frame = street.frame(lateral, middle, raised=False)
            shade = self.shade_top(side * line) if side != self.sun_side else -9.0
            parts += house(rng, frame, (depth, height, length), shade)
            if street.setback[int(side > 0)] > 2 and rng.random() < 0.8:
                front = street.frame(side * (street.half_road + street.pavement + 0.5), middle)
                parts += barrier(rng, front, 0.96 * length, self.sunlit(front.origin[0]))
            gap = rng.choice([0.0, 1.0], p=[0.9, 0.1]) * rng.uniform(1, 4)
            return z + length + gap
        edge = street.half_road + street.pavement + rng.uniform(0.2, 1.5)
        kind = rng.choice(["barrier", "bank", "trees", "nothing"], p=[0.3, 0.55, 0.1, 0.05])
        frame = street.frame(side * edge, middle)
        if kind == "barrier":
            parts += barrier(rng, frame, length, 1.0)
        elif kind == "bank":
            parts += bank(rng, frame, length, side)
        if kind in ("trees", "barrier"):
            for _ in range(rng.integers(1, 4)):
                spot = street.frame(side * (edge + rng.uniform(2.5, 9)), z + rng.uniform(0, length))
                if spot.origin[2] > 9:
                    parts += tree(rng, spot, 1.0)
        return z + length

    def _occupy(self, lateral: float, z: float, radius: float) -> bool:
        """Returns whether a position has no object within `radius` metres, and if so, occupies it."""
        if any(abs(z - other) < radius and abs(lateral - beside) < 1.7 for beside, other in self.occupied):
            return False
        self.occupied.append((lateral, z))
        return True

    def traffic(self) -> list[Primitive]:
        """Places parked and moving vehicles."""
        rng, street = self.rng, self.street
        parts: list[Primitive] = []
        lane = -street.centre
        for side in (-1, 1):
            if street.half_road < 3.6 or rng.random() < 0.15:
                continue
            share, z = rng.uniform(0.5, 0.95), rng.uniform(7, 12)
            lateral = side * (street.half_road - 1.05)
            while z < 70:
                if rng.random() < share and not street.in_crossing(z, 6) and self._occupy(lateral, z, 5.0):
                    frame = street.frame(lateral, z).moved(rng.uniform(-0.1, 0.1), 0, 0, rng.normal(0, 0.03))
                    turn = np.pi if rng.random() < (0.15 if side * lane > 0 else 0.8) else 0.0
                    parts += car(rng, frame.moved(0, 0, 0, turn), self.sunlit(lateral))
                z += rng.uniform(5.3, 7.5)
        for lateral, turn in ((lane, 0.0), (-lane, np.pi)):
            z = rng.uniform(9, 40)
            for _ in range(rng.integers(0, 4)):
                if self._occupy(lateral, z, 5.5):
                    frame = street.frame(lateral, z, raised=False).moved(0, 0, 0, turn + rng.normal(0, 0.05))
                    large = rng.random() < 0.12 and z > 12
                    parts += (bus if large else car)(rng, frame, self.sunlit(lateral))
                z += rng.uniform(8, 25)
        if 16 < street.crossing[0] < 70 and rng.random() < 0.45:
            z = rng.uniform(street.crossing[0] + 1.5, street.crossing[1] - 1.5)
            frame = street.frame(rng.uniform(-9, 9), z).moved(0, 0, 0, rng.choice([-1, 1]) * np.pi / 2)
            parts += car(rng, frame, 1.0)
        return parts

    def plants(self) -> list[Primitive]:
        """Places trees along the pavement, and bushes."""
        rng, street = self.rng, self.street
        parts: list[Primitive] = []
        for side in (-1, 1):
            if street.pavement > 1.6 and rng.random() < 0.35:
                lateral, z, step = side * (street.half_road + 0.7), rng.uniform(9, 20), rng.uniform(6, 15)
                while z < 75:
                    if not street.in_crossing(z, 3) and z < self.end and self._occupy(lateral, z, 0.8):
                        parts += tree(rng, street.frame(lateral, z), self.sunlit(lateral))
                    z += step + rng.uniform(-1, 1)
            if street.setback[int(side > 0)] > 1.5:
                for z in rng.uniform(5, 50, rng.integers(0, 5)):
                    inner = street.half_road + street.pavement
                    lateral = side * (inner + rng.uniform(0.4, street.setback[int(side > 0)]))
                    if not street.in_crossing(z, 2):
                        parts += bush(rng, street.frame(lateral, z), self.sunlit(lateral))
        return parts

    def _pavement_position(self, near: float, far: float, radius: float) -> tuple[float, float] | None:
        """Returns a free position on a pavement, log-uniform in distance so that near and far are equally frequent."""
        side = self.rng.choice([-1, 1])
        z = np.exp(self.rng.uniform(np.log(near), np.log(far)))
        lateral = side * (self.street.half_road + self.rng.uniform(0.35, max(0.5, self.street.pavement - 0.3)))
        if self.street.in_crossing(z) or z > self.end or not self._occupy(lateral, z, radius):
            return None
        return lateral, z

    def people(self) -> list[Primitive]:
        """Places pedestrians on the pavements and the road, alone and in groups, and cyclists."""
        rng, street = self.rng, self.street
        parts: list[Primitive] = []
        for _ in range(min(rng.poisson(7.0), 13)):
            if rng.random() < 0.22:
                z = np.exp(rng.uniform(np.log(8), np.log(40)))
                if rng.random() < 0.6 and 9 < street.crossing[0] < 60:
                    z = street.crossing[0] - rng.uniform(1.5, 4)
                spot, turn = (rng.uniform(-1, 1) * street.half_road, z), rng.choice([-1, 1]) * np.pi / 2
                if not self._occupy(*spot, 1.2):
                    continue
            else:
                position = self._pavement_position(5.0, 18, 0.5)
                if position is None:
                    continue
                spot, turn = position, rng.choice([0, np.pi]) + rng.normal(0, 0.5)
            for _ in range(rng.choice([1, 2, 3], p=[0.7, 0.22, 0.08])):
                aside, ahead = rng.normal(0, 0.35, 2)
                frame = street.frame(spot[0] + aside, spot[1] + ahead).moved(0, 0, 0, turn + rng.normal(0, 0.2))
                parts += person(rng, frame, self.sunlit(spot[0]))
        if rng.random() < 0.3:
            away = rng.random() < 0.5
            lateral, z = rng.uniform(0.45, 0.7) * street.half_road * (1 if away else -1), rng.uniform(7, 28)
            if self._occupy(lateral, z, 3.0):
                turn = (0 if away else np.pi) + rng.normal(0, 0.3)
                parts += cyclist(rng, street.frame(lateral, z).moved(0, 0, 0, turn), self.sunlit(lateral))
        return parts

    def furniture(self) -> list[Primitive]:
        """Places lamps, signs, traffic lights, bollards and objects without a class."""
        rng, street = self.rng, self.street
        parts: list[Primitive] = []
        side, z, step = rng.choice([-1, 1]), rng.uniform(6, 16), rng.uniform(9, 22)
        both = rng.random() < 0.5
        while z < min(95, self.end):
            lateral = side * (street.half_road + 0.35)
            if not street.in_crossing(z, 1) and self._occupy(lateral, z, 0.5):
                parts += lamp(rng, street.frame(lateral, z), side, self.sunlit(lateral))
            side, z = (-side if both else side), z + step
        for _ in range(rng.integers(2, 7)):
            position = self._pavement_position(5.5, 20, 0.6)
            if position is not None:
                frame = street.frame(*position).moved(0, 0, 0, rng.normal(0, 0.25))
                parts += sign(rng, frame, self.sunlit(position[0]))
        if 10 < street.crossing[0] < 80 and rng.random() < 0.6:
            for side in (-1, 1):
                lateral = side * (street.half_road + 0.5)
                parts += traffic_light(rng, street.frame(lateral, street.crossing[0] - 0.8), self.sunlit(lateral))
        if rng.random() < 0.35:
            side, z, step = rng.choice([-1, 1]), rng.uniform(5, 14), rng.uniform(1.3, 2.5)
            for _ in range(rng.integers(3, 9)):
                if not street.in_crossing(z):
                    parts += bollard(rng, street.frame(side * (street.half_road + 0.3), z), self.sunlit(side))
                z += step
        for _ in range(rng.integers(0, 3)):
            position = self._pavement_position(6, 30, 1.2)
            if position is not None:
                parts += void_object(rng, street.frame(*position), self.sunlit(position[0]))
        return parts
