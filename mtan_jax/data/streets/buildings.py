"""Houses, walls and fences."""

import numpy as np

from mtan_jax.data.streets.primitives import CONSTRUCTION, NATURE, Frame, Polygon, Primitive, Surface, box
from mtan_jax.data.streets.textures import Values, facade, leaves, noise, rough, striped


def wall_colour(rng: np.random.Generator) -> np.ndarray:
    """Returns a random wall colour: plaster, brick, concrete or stone, occasionally painted."""
    if rng.random() < 0.08:
        return rng.uniform(0.08, 0.6, 3)
    warmth = rng.uniform(0, 1)
    return rng.uniform(0.12, 0.55) * np.array([1.0, 1 - 0.45 * warmth, 1 - 0.65 * warmth])


def house(
    rng: np.random.Generator, frame: Frame, size: tuple[float, float, float], shadow_top: float
) -> list[Primitive]:
    """Builds a house with a flat or pitched roof.

    Args:
        rng: random generator of the scene.
        frame: frame at the centre of the base, with `aside` perpendicular to the street.
        size: depth from the street, height to the eaves, and length along the street, in metres.
        shadow_top: height up to which the houses opposite shade the front, in metres.
    """
    depth, height, length = size
    colour = wall_colour(rng)
    sunk = 1.5  # metres below ground, so that no gap shows where the ground falls

    def sunlit(u: Values, v: Values) -> Values:
        return np.clip((v - sunk - shadow_top) * 2 + 0.1 * noise(u, v, 20.0), 0, 1)

    front = Surface(CONSTRUCTION, facade(rng, colour, length, height + sunk), sunlit)
    gable = Surface(CONSTRUCTION, facade(rng, colour, depth, height + sunk), sunlit)
    roof_colour = rng.uniform(0.06, 0.3) * np.array([1.0, rng.uniform(0.45, 1.0), rng.uniform(0.3, 1.05)])
    roof = Surface(CONSTRUCTION, striped(roof_colour, 0.75 * roof_colour, rng.uniform(0.25, 0.5), 0.3))
    x, z = depth / 2, length / 2
    corners = [(-x, -z), (x, -z), (x, z), (-x, z)]
    inside = frame([(0, height / 2, 0)])[0]
    parts: list[Primitive] = []
    for i, surface in enumerate((gable, front, gable, front)):
        (x0, z0), (x1, z1) = corners[i], corners[i - 3]
        wall = [(x0, -sunk, z0), (x1, -sunk, z1), (x1, height, z1), (x0, height, z0)]
        parts.append(Polygon(frame(wall), surface, inside, shadow=True))
    if rng.random() < 0.35:
        return [*parts, *_pitched_roof(rng, frame, size, roof, gable, inside)]
    parts.append(Polygon(frame([(a, height, b) for a, b in corners]), roof, inside, shadow=True))
    if rng.random() < 0.4:
        parapet = frame.moved(rng.uniform(-0.2, 0.2) * depth, height, rng.uniform(-0.2, 0.2) * length)
        hut = Surface(CONSTRUCTION, rough(wall_colour(rng)))
        parts += box(parapet, (depth * 0.4, rng.uniform(1, 3), length * 0.3), hut)
    return parts


def _pitched_roof(
    rng: np.random.Generator,
    frame: Frame,
    size: tuple[float, float, float],
    roof: Surface,
    gable: Surface,
    inside: np.ndarray,
) -> list[Primitive]:
    """Builds two slopes with the ridge along the street, two gables, and sometimes a chimney."""
    depth, height, length = size
    x, z = depth / 2, length / 2
    ridge = height + x * rng.uniform(0.5, 1.1)
    over = 0.3
    drop = over * (ridge - height) / x
    parts: list[Primitive] = []
    for side in (-1, 1):
        eave = side * (x + over)
        slope = [(eave, height - drop, -z), (eave, height - drop, z), (0, ridge, z), (0, ridge, -z)]
        parts.append(Polygon(frame(slope), roof, inside, shadow=True))
        triangle = frame([(-x, height, side * z), (x, height, side * z), (0, ridge, side * z)])
        parts.append(Polygon(triangle, gable, inside, shadow=True))
    if rng.random() < 0.5:
        chimney = frame.moved(rng.uniform(-0.3, 0.3) * depth, height, rng.uniform(-0.4, 0.4) * length)
        parts += box(chimney, (0.7, ridge - height + 0.9, 0.8), Surface(CONSTRUCTION, rough(wall_colour(rng))))
    return parts


def barrier(rng: np.random.Generator, frame: Frame, length: float, sunlit: float) -> list[Primitive]:
    """Builds a hedge, wall or fence along the street, centred at `frame`."""
    kind = rng.choice(["hedge", "hedge", "hedge", "wall", "fence"])
    height = rng.uniform(1.0, 2.8)
    if kind == "hedge":
        green = rng.uniform(0.12, 0.34) * np.array([rng.uniform(0.25, 0.75), 1.0, rng.uniform(0.05, 0.25)])
        surface = Surface(NATURE, leaves(rng, green), sunlit)
        return [*box(frame, (rng.uniform(0.6, 1.2), height, length), surface, shadow=True)]
    if kind == "wall":
        surface = Surface(CONSTRUCTION, rough(wall_colour(rng), 0.1), sunlit)
        return [*box(frame, (0.3, height, length), surface, shadow=True)]
    colour = wall_colour(rng)
    surface = Surface(CONSTRUCTION, striped(colour, 0.45 * colour, rng.uniform(0.12, 0.3), 0.25), sunlit)
    return [*box(frame, (0.08, height, length), surface, shadow=True)]


def bank(rng: np.random.Generator, frame: Frame, length: float, side: float) -> list[Primitive]:
    """Builds a grass slope that rises away from the street on `side` (-1 left, 1 right)."""
    width, rise = rng.uniform(4, 9), rng.uniform(2, 6)
    grass = rng.uniform(0.12, 0.32) * np.array([rng.uniform(0.35, 0.9), 1.0, rng.uniform(0.1, 0.35)])
    near, far = 0.0, side * width
    slope = [(near, -0.05, -length / 2), (near, -0.05, length / 2), (far, rise, length / 2), (far, rise, -length / 2)]
    inside = frame([(far, -1.0, 0)])[0]
    ends = [[(near, -0.05, e), (far, -0.05, e), (far, rise, e)] for e in (-length / 2, length / 2)]
    surface = Surface(NATURE, leaves(rng, grass))
    return [Polygon(frame(slope), surface, inside), *(Polygon(frame(end), surface, inside) for end in ends)]
