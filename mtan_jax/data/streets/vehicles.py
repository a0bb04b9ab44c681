"""Cars, vans and buses."""

import dataclasses

import numpy as np

from mtan_jax.data.streets.primitives import VEHICLE, Frame, Polygon, Primitive, Surface, box
from mtan_jax.data.streets.textures import Colours, Texture, Values, noise, rough

_WHEEL = np.linspace(0, 2 * np.pi, 12, endpoint=False)
_TYRE, _TRIM = np.array([0.02, 0.02, 0.022]), np.array([0.25, 0.25, 0.26])


@dataclasses.dataclass(frozen=True)
class _Shape:
    """The dimensions of a car in metres; z runs from the rear (0) to the front (`length`)."""

    length: float
    half: float
    clearance: float
    belt: float  # height of the lower edge of the windows
    roof: float
    rear: tuple[float, float]  # z of the lower and upper edge of the rear window
    front: tuple[float, float]  # z of the upper and lower edge of the windscreen
    nose: float  # height of the front edge of the bonnet
    tail: float  # height of the rear edge of the boot
    wheel: float


def _random_shape(rng: np.random.Generator) -> _Shape:
    scale = rng.uniform(0.9, 1.1)
    if rng.random() < 0.22:  # van
        length, roof, belt = 5.0 * scale, rng.uniform(1.9, 2.5), rng.uniform(1.05, 1.25)
        rear, front, nose = (0.02, 0.1), (0.78, 0.9), rng.uniform(0.85, 1.0)
        tail = belt
    else:
        length, roof, belt = 4.3 * scale, rng.uniform(1.38, 1.72), rng.uniform(0.84, 0.98)
        estate = rng.random() < 0.55
        rear = (0.02, 0.12) if estate else (0.16, 0.3)
        front, nose = (0.55, rng.uniform(0.7, 0.78)), rng.uniform(0.62, 0.75)
        tail = belt - (0 if estate else 0.06)
    half = rng.uniform(0.82, 0.96)
    z_rear, z_front = (length * rear[0], length * rear[1]), (length * front[0], length * front[1])
    return _Shape(
        length, half, rng.uniform(0.16, 0.26), belt, roof, z_rear, z_front, nose, tail, rng.uniform(0.29, 0.36)
    )


def _paint(rng: np.random.Generator) -> np.ndarray:
    if rng.random() < 0.4:
        return rng.choice([0.02, 0.06, 0.14, 0.3, 0.55, 0.75]) * rng.uniform(0.8, 1.2) * rng.uniform(0.93, 1.07, 3)
    return rng.uniform(0.2, 0.7) * rng.dirichlet([0.5, 0.35, 0.7]) ** 0.8


def _end(paint: np.ndarray, lamp: np.ndarray, width: float) -> Texture:
    """Returns the texture of a front or rear: lamps at both sides, a number plate, a dark lower edge."""
    base = paint.astype(np.float32)[:, None]

    def texture(u: Values, v: Values, footprint: Values) -> Colours:
        del footprint
        colours = base * (1 + 0.04 * noise(u, v, 3.0))
        side = np.abs(u - width / 2)
        colours[:, v < 0.16] = 0.05
        colours[:, (side > 0.6 * width / 2) & (v > 0.28) & (v < 0.5)] = lamp[:, None]
        colours[:, (side < 0.26) & (v > 0.18) & (v < 0.3)] = 0.6
        return colours

    return texture


def _glass(rng: np.random.Generator) -> Texture:
    dark, bright, shift = rng.uniform(0.015, 0.05), rng.uniform(0.05, 0.3), rng.uniform(0, 50)

    def texture(u: Values, v: Values, footprint: Values) -> Colours:
        del footprint
        tone = dark + bright * np.clip(0.4 + 0.5 * noise(u + shift, v, 5.0, 1.6) + 0.4 * v, 0, 1) ** 2
        return tone * np.array([[0.9], [1.0], [1.1]], np.float32)

    return texture


def car(rng: np.random.Generator, frame: Frame, sunlit: float) -> list[Primitive]:
    """Builds a car or van centred at `frame` on the road, driving `ahead`."""
    s = _random_shape(rng)
    frame = frame.moved(0, 0, -s.length / 2)
    paint = _paint(rng)
    body = Surface(VEHICLE, rough(paint, 0.04, 5.0, 1.5), sunlit)
    glass = Surface(VEHICLE, _glass(rng), 0.4 * sunlit)
    pillar = 0.78 if rng.random() < 0.8 else 0.0  # 0: a van without side windows
    lamps = rng.uniform(0.5, 1.6)
    front_end = Surface(VEHICLE, _end(paint, lamps * np.array([0.6, 0.6, 0.5]), 2 * s.half), sunlit)
    rear_end = Surface(VEHICLE, _end(paint, lamps * np.array([0.35, 0.02, 0.02]), 2 * s.half), sunlit)
    inside = frame([(0, 0.6 * s.belt, s.length / 2)])[0]
    inside_cabin = frame([(0, s.belt, (s.rear[1] + s.front[0]) / 2)])[0]
    parts: list[Primitive] = []

    def across(z0: float, y0: float, z1: float, y1: float, w0: float, w1: float, surface: Surface, cabin: bool) -> None:
        strip = [(-w0, y0, z0), (w0, y0, z0), (w1, y1, z1), (-w1, y1, z1)]
        parts.append(Polygon(frame(strip), surface, inside_cabin if cabin else inside, shadow=cabin))

    w, top, end = s.half, 0.86 * s.half, s.length
    across(0.06, s.clearance, 0, s.tail, w, w, rear_end, False)
    across(end - 0.06, s.clearance, end, s.nose, w, w, front_end, False)
    across(0, s.tail, s.rear[0], s.belt, w, w, body, False)
    across(end, s.nose, s.front[1], s.belt, w, w, body, False)
    across(s.rear[0], s.belt, s.rear[1], s.roof, w, top, glass, True)
    across(s.front[1], s.belt, s.front[0], s.roof, w, top, glass, True)
    across(s.rear[1], s.roof, s.front[0], s.roof, top, top, body, True)
    for side in (-1, 1):
        low = s.clearance
        outline = [
            *((0.06, low), (end - 0.06, low), (end, s.nose)),
            *((s.front[1], s.belt), (s.rear[0], s.belt), (0, s.tail)),
        ]
        parts.append(Polygon(frame([(side * w, y, z) for z, y in outline]), body, inside, shadow=True))
        cabin = [(s.rear[0], s.belt, w), (s.front[1], s.belt, w), (s.front[0], s.roof, top), (s.rear[1], s.roof, top)]
        parts.append(Polygon(frame([(side * x, y, z) for z, y, x in cabin]), body, inside_cabin, shadow=True))
        if pillar:
            parts.append(_side_window(frame, s, side, pillar, top, glass, inside_cabin))
        for z in (0.2 * end, 0.81 * end):
            parts += _wheel(frame, side * (w + 0.01), z, s.wheel, inside, sunlit)
    return parts


def _side_window(
    frame: Frame, s: _Shape, side: int, share: float, top: float, glass: Surface, inside: np.ndarray
) -> Polygon:
    """Builds the side windows: the side of the cabin, shrunk about its centre and slightly offset outwards."""
    cabin = np.array(
        [
            (s.half, s.belt, s.rear[0]),
            (s.half, s.belt, s.front[1]),
            (top, s.roof, s.front[0]),
            (top, s.roof, s.rear[1]),
        ]
    )
    cabin = cabin.mean(0) + share * (cabin - cabin.mean(0))
    cabin[:, 0] = side * (cabin[:, 0] + 0.01)
    return Polygon(frame(cabin.tolist()), glass, inside)


def _wheel(frame: Frame, x: float, z: float, radius: float, inside: np.ndarray, sunlit: float) -> list[Primitive]:
    parts: list[Primitive] = []
    for r, colour, out in ((radius, _TYRE, 1.0), (0.6 * radius, _TRIM, 1.01)):
        rim = [(x * out, radius + r * np.sin(a), z + r * np.cos(a)) for a in _WHEEL]
        parts.append(Polygon(frame(rim), Surface(VEHICLE, rough(colour), sunlit), inside))
    return parts


def bus(rng: np.random.Generator, frame: Frame, sunlit: float) -> list[Primitive]:
    """Builds a bus or lorry: a large box with or without a band of windows."""
    length, width, height = rng.uniform(6.5, 11.5), rng.uniform(2.3, 2.55), rng.uniform(2.5, 3.2)
    paint = _paint(rng)
    windows = rng.random() < 0.6
    base = paint.astype(np.float32)[:, None]
    bay, shift = rng.uniform(1.2, 1.8), rng.uniform(0, 50)

    def texture(u: Values, v: Values, footprint: Values) -> Colours:
        del footprint
        colours = base * (1 + 0.05 * noise(u + shift, v, 8.0))
        if windows:
            colours[:, (v > 0.42 * height) & (v < 0.82 * height) & (u / bay % 1 > 0.06)] = 0.04
        colours[:, v < 0.12] = 0.04
        return colours

    middle = frame.moved(0, 0.35, 0)
    surface = Surface(VEHICLE, texture, sunlit)
    parts: list[Primitive] = [*box(middle, (width, height, length), surface, shadow=True)]
    inside = frame([(0, 1, 0)])[0]
    for side in (-1, 1):
        for z in (-0.33 * length, 0.33 * length):
            parts += _wheel(frame, side * (width / 2 + 0.01), z, 0.48, inside, sunlit)
    return parts
