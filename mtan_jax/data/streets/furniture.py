"""Trees, bushes, lamps, traffic signs and lights, bollards, and objects without a class."""

import numpy as np

from mtan_jax.data.streets.primitives import (
    NATURE,
    OBJECT,
    VOID,
    Frame,
    Keep,
    Polygon,
    Primitive,
    Surface,
    box,
    ellipsoid,
    limb,
)
from mtan_jax.data.streets.textures import Colours, Texture, Values, leaves, noise, rough


def _ragged(rng: np.random.Generator, density: float) -> Keep:
    """Returns a random mask with holes between leaves."""
    shift, period = rng.uniform(0, 50), rng.uniform(3, 6)

    def keep(u: Values, v: Values) -> np.ndarray:
        return noise(u + shift, v, period, 0.9) < density

    return keep


def foliage_colour(rng: np.random.Generator) -> np.ndarray:
    """Returns a random green, sometimes an autumn colour."""
    if rng.random() < 0.1:
        return rng.uniform(0.12, 0.3) * np.array([1.0, rng.uniform(0.35, 0.75), rng.uniform(0.1, 0.25)])
    return rng.uniform(0.12, 0.36) * np.array([rng.uniform(0.25, 0.75), 1.0, rng.uniform(0.05, 0.25)])


def tree(rng: np.random.Generator, frame: Frame, sunlit: float) -> list[Primitive]:
    """Builds a deciduous tree with a round crown, or a conifer."""
    size = rng.uniform(0.7, 1.35)
    bark = Surface(NATURE, rough(rng.uniform(0.04, 0.2) * np.array([1.0, 0.8, 0.62]), 0.25, 3.0, 0.8), sunlit)
    crown = Surface(NATURE, leaves(rng, foliage_colour(rng)), sunlit, _ragged(rng, rng.uniform(1.1, 2.2)))
    if rng.random() < 0.2:
        tall, wide = 7.5 * size, 1.5 * size
        cone = [(0.2 + 0.25 * i, 1.0 - 0.24 * i) for i in range(4)]
        layers = [
            ellipsoid(frame, (0, tall * y, 0), (wide * w, 0.2 * tall, wide * w), crown, shadow=True) for y, w in cone
        ]
        return [limb(frame, [(0, -0.3, 0), (0, 0.4 * tall, 0)], 0.14 * size, bark, tube=True), *layers]
    stem, spread = rng.uniform(2.0, 3.4) * size, rng.uniform(1.7, 2.7) * size
    lean = rng.uniform(-0.2, 0.2, 2)
    top = (lean[0], stem + 0.7 * spread, lean[1])
    parts: list[Primitive] = [
        limb(frame, [(0, -0.3, 0), top], rng.uniform(0.1, 0.25) * size, bark, tube=True, shadow=True)
    ]
    for i in range(rng.integers(1, 4)):
        aside, ahead = rng.normal(0, 0.4 * spread, 2) if i else (0.0, 0.0)  # the first and largest one is on the trunk
        at = (top[0] + aside, top[1] + spread * rng.uniform(-0.1, 0.4), top[2] + ahead)
        half = spread * rng.uniform(0.5, 0.75, 3) * (1.0 if i else 1.6)
        parts.append(ellipsoid(frame, at, (half[0], 0.85 * half[1], half[2]), crown, shadow=True))
    return parts


def bush(rng: np.random.Generator, frame: Frame, sunlit: float) -> list[Primitive]:
    """Builds a low round bush."""
    half = rng.uniform(0.4, 1.2, 3)
    surface = Surface(NATURE, leaves(rng, foliage_colour(rng)), sunlit, _ragged(rng, 1.6))
    return [ellipsoid(frame, (0, 0.6 * half[1], 0), tuple(half), surface, shadow=True)]


def _metal(rng: np.random.Generator, sunlit: float) -> Surface:
    colour = rng.choice([0.03, 0.1, 0.25, 0.4]) * rng.uniform(0.85, 1.15, 3)
    return Surface(OBJECT, rough(colour, 0.06, 3.0), sunlit)


def lamp(rng: np.random.Generator, frame: Frame, side: float, sunlit: float) -> list[Primitive]:
    """Builds a street lamp on `side` (-1 left, 1 right) with an arm over the road."""
    metal, height, reach = _metal(rng, sunlit), rng.uniform(4.5, 8.5), rng.uniform(0, 2.2)
    head = Surface(OBJECT, rough(np.full(3, rng.uniform(0.2, 0.7))), sunlit)
    radius = rng.uniform(0.09, 0.17)
    end = (-side * (reach + 0.3), height + 0.15, 0)
    return [
        limb(frame, [(0, -0.3, 0), (0, height, 0)], radius, metal, tube=True, shadow=True),
        limb(frame, [(0, -0.3, 0), (0, rng.uniform(0.6, 1.4), 0)], 1.6 * radius, metal, tube=True),
        limb(frame, [(0, height, 0), end], 0.05, metal, tube=True),
        ellipsoid(frame, end, (0.4, 0.13, 0.17), head),
    ]


def _board(border: np.ndarray, field: np.ndarray, size: float, round_board: bool) -> Texture:
    colours = np.stack([border, field], axis=1).astype(np.float32)

    def texture(u: Values, v: Values, footprint: Values) -> Colours:
        del footprint
        x, y = (u / size - 0.5) * 2, (v / size - 0.5) * 2
        out = np.hypot(x, y) if round_board else np.maximum(np.abs(x), np.abs(y))
        result = colours[:, (out < 0.75).astype(int)]
        result[:, (np.abs(x) < 0.3) & (np.abs(y) < 0.12)] = 0.05
        return result

    return texture


def sign(rng: np.random.Generator, frame: Frame, sunlit: float) -> list[Primitive]:
    """Builds a round, square or triangular traffic sign that faces against `ahead`."""
    metal, height, size = _metal(rng, sunlit), rng.uniform(1.9, 2.9), rng.uniform(0.65, 1.1)
    red, blue, white = np.array([0.5, 0.02, 0.03]), np.array([0.02, 0.08, 0.4]), np.full(3, 0.75)
    border, field = [(red, white), (white, blue), (blue, white), (red, red), (np.full(3, 0.1), white * (1, 0.7, 0.1))][
        rng.integers(5)
    ]
    kind = rng.choice(["round", "square", "triangle"])
    half = size / 2
    back = frame([(0, height, 1)])[0]
    corners = [
        (-half, height, -0.08),
        (half, height, -0.08),
        (half, height + size, -0.08),
        (-half, height + size, -0.08),
    ]
    if kind == "triangle":
        corners = [*corners[:2], (0.0, height + size, -0.08)]

    def disc(u: Values, v: Values) -> np.ndarray:
        return np.hypot(u - half, v - half) < half

    front = Surface(OBJECT, _board(border, field, size, kind == "round"), sunlit, disc if kind == "round" else None)
    behind = Surface(OBJECT, rough(np.full(3, 0.3)), sunlit, front.keep)
    return [
        limb(
            frame, [(0, -0.3, 0), (0, height + 0.9 * size, 0)], rng.uniform(0.045, 0.08), metal, tube=True, shadow=True
        ),
        Polygon(frame(corners), front, back),
        Polygon(frame([(x, y, -0.07) for x, y, _ in corners]), behind, frame([(0, height, -1)])[0]),
    ]


def traffic_light(rng: np.random.Generator, frame: Frame, sunlit: float) -> list[Primitive]:
    """Builds a traffic light: a pole with a box of three lamps, one of them lit."""
    metal, height = _metal(rng, sunlit), rng.uniform(2.1, 2.8)
    lit = int(rng.choice([0, 2]))
    lamps = np.array([[0.1, 2.0, 0.4], [0.08, 0.06, 0.02], [2.2, 0.1, 0.05]], np.float32)
    lamps[[i for i in range(3) if i != lit]] = 0.05

    def texture(u: Values, v: Values, footprint: Values) -> Colours:
        del footprint
        lamp = np.clip((v / 0.3).astype(int), 0, 2)
        lit_area = np.hypot(u - 0.17, v - 0.3 * lamp - 0.15) < 0.1
        return np.where(lit_area, lamps[lamp].T, np.float32(0.03))

    pole = limb(frame, [(0, -0.3, 0), (0, height + 0.9, 0)], 0.09, metal, tube=True, shadow=True)
    head = box(frame.moved(0, height, -0.2), (0.38, 0.9, 0.3), Surface(OBJECT, texture, sunlit))
    return [pole, *head]


def bollard(rng: np.random.Generator, frame: Frame, sunlit: float) -> list[Primitive]:
    """Builds a bollard: a short post with a round top."""
    surface, height, radius = _metal(rng, sunlit), rng.uniform(0.7, 1.1), rng.uniform(0.06, 0.12)
    return [
        limb(frame, [(0, -0.2, 0), (0, height, 0)], radius, surface, tube=True, shadow=True),
        ellipsoid(frame, (0, height, 0), (radius, 0.7 * radius, radius), surface),
    ]


def void_object(rng: np.random.Generator, frame: Frame, sunlit: float) -> list[Primitive]:
    """Builds a bin, crate or cabinet, which has no class and is void in the class map."""
    surface = Surface(VOID, rough(rng.uniform(0.03, 0.5, 3), 0.1), sunlit)
    return [*box(frame, (rng.uniform(0.5, 1.1), rng.uniform(0.6, 1.4), rng.uniform(0.5, 1.3)), surface, shadow=True)]
