"""Procedural patterns: functions of two coordinates, with a period of about 1, with values in 0..1."""

from collections.abc import Callable

import numpy as np
from jaxtyping import Float

Values = Float[np.ndarray, "a b"]
Pattern = Callable[[Values, Values, np.random.Generator], Values]

_TABLE = 64  # noise repeats after this many periods


def _above(values: Values, level: float, softness: float = 0.25) -> Values:
    """Returns 1 where the values are above a level and 0 below, with a linear ramp in between."""
    return np.clip((values - level) / softness + 0.5, 0, 1)


def noise(u: Values, v: Values, rng: np.random.Generator) -> Values:
    """Smooth noise, uncorrelated over distances above one period."""
    table = rng.random((_TABLE, _TABLE), np.float32)
    column, row = np.floor(u).astype(np.int32), np.floor(v).astype(np.int32)
    a, b = u - column, v - row
    a, b = a * a * (3 - 2 * a), b * b * (3 - 2 * b)
    column, row = column & (_TABLE - 1), row & (_TABLE - 1)
    right, below = (column + 1) & (_TABLE - 1), (row + 1) & (_TABLE - 1)
    top = table[row, column] * (1 - a) + table[row, right] * a
    return top * (1 - b) + (table[below, column] * (1 - a) + table[below, right] * a) * b


def plain(u: Values, v: Values, rng: np.random.Generator) -> Values:
    """No pattern."""
    del v, rng
    return np.zeros_like(u)


def stripes(u: Values, v: Values, rng: np.random.Generator) -> Values:
    """Straight stripes, of equal widths or not."""
    del v
    return _above(np.sin(2 * np.pi * u), rng.uniform(-0.4, 0.4), 0.6)


def checks(u: Values, v: Values, rng: np.random.Generator) -> Values:
    """A chessboard."""
    del rng
    return _above(np.sin(np.pi * u) * np.sin(np.pi * v), 0, 0.4)


def dots(u: Values, v: Values, rng: np.random.Generator) -> Values:
    """Round dots on a lattice."""
    u = u + 0.5 * (np.floor(v) % 2) * rng.integers(2)  # optionally shifts every other row by half a period
    return _above(-np.hypot(u - np.floor(u) - 0.5, v - np.floor(v) - 0.5), -rng.uniform(0.25, 0.36), 0.12)


def grid(u: Values, v: Values, rng: np.random.Generator) -> Values:
    """Thin crossing lines."""
    nearest = np.minimum(abs(u - np.rint(u)), abs(v - np.rint(v)))
    return _above(-nearest, -rng.uniform(0.08, 0.14), 0.1)


def waves(u: Values, v: Values, rng: np.random.Generator) -> Values:
    """Wavy stripes."""
    return stripes(u + rng.uniform(0.28, 0.4) * np.sin(np.pi * v), v, rng)


def zigzag(u: Values, v: Values, rng: np.random.Generator) -> Values:
    """Zigzag stripes."""
    corner = 2 * abs(v / 2 - np.rint(v / 2))  # 0..1 and back in two periods
    return stripes(u + rng.uniform(1.0, 1.4) * corner, v, rng)


def rings(u: Values, v: Values, rng: np.random.Generator) -> Values:
    """Concentric stripes around a point."""
    return stripes(np.hypot(u - rng.uniform(-1, 1), v - rng.uniform(-1, 1)), v, rng)


def bricks(u: Values, v: Values, rng: np.random.Generator) -> Values:
    """Thin joints between bricks; alternate rows are shifted by half a brick."""
    row = 1.6 * v
    along = u * 0.8 + 0.5 * (np.floor(row) % 2)
    joint = np.minimum(abs(along - np.rint(along)) / 0.8, abs(row - np.rint(row)) / 1.6)
    return _above(joint, rng.uniform(0.07, 0.1), 0.1)


def weave(u: Values, v: Values, rng: np.random.Generator) -> Values:
    """Strands that alternate between horizontal and vertical."""
    over = (np.floor(u) + np.floor(v)) % 2 > 0
    across = np.where(over, u, v)
    strands = rng.integers(1, 3)
    return np.abs(np.sin(np.pi * strands * across)) * np.where(over, 1.0, rng.uniform(0.5, 0.8))


def cells(u: Values, v: Values, rng: np.random.Generator) -> Values:
    """Borders of the Voronoi cells of random points."""
    table = rng.random((2, 16, 16), np.float32)
    column, row = np.floor(u).astype(np.int32), np.floor(v).astype(np.int32)
    nearest, second = np.full_like(u, np.inf), np.full_like(u, np.inf)
    for down in (-1, 0, 1):
        for right in (-1, 0, 1):
            c, r = column + right, row + down
            cell = (r & 15, c & 15)
            distance = np.hypot(u - c - table[0][cell], v - r - table[1][cell])
            second = np.minimum(second, np.maximum(nearest, distance))
            nearest = np.minimum(nearest, distance)
    return _above(second - nearest, 0.14, 0.14)


def clouds(u: Values, v: Values, rng: np.random.Generator) -> Values:
    """Noise at several scales (octaves)."""
    octaves = [noise(u * 2**k, v * 2**k, rng) * 0.6**k for k in range(3)]
    return np.clip(1.6 * (sum(octaves[1:], octaves[0]) / 1.96 - 0.5) + 0.5, 0, 1)


def wood(u: Values, v: Values, rng: np.random.Generator) -> Values:
    """Noise stretched along one direction."""
    return _above(noise(u * 2.5, v * 0.3, rng) + 0.4 * noise(u * 5, v * 0.6, rng), 0.7, 0.6)


PATTERNS: dict[str, Pattern] = {
    pattern.__name__: pattern
    for pattern in (stripes, checks, dots, grid, waves, zigzag, rings, bricks, weave, cells, clouds, wood)
}


def random_coordinates(u: Values, v: Values, rng: np.random.Generator, period: float) -> tuple[Values, Values]:
    """Scales coordinates to the given period, with a random rotation and shift."""
    angle = rng.uniform(0, 2 * np.pi)
    c, s = np.float32(np.cos(angle) / period), np.float32(np.sin(angle) / period)
    du, dv = rng.uniform(0, 4, 2).astype(np.float32)
    return c * u + s * v + du, c * v - s * u + dv
