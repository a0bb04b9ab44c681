"""Procedural patterns: functions from two coordinates, with a period of 1, to values in 0..1."""

from collections.abc import Callable

import numpy as np
from jaxtyping import Float

Values = Float[np.ndarray, "a b"]
Pattern = Callable[[Values, Values, np.random.Generator], Values]

_TABLE = 64  # after so many periods, noise comes again


def _above(values: Values, level: float, softness: float = 0.25) -> Values:
    """1 where the values are above a level, 0 below, with a ramp between them."""
    return np.clip((values - level) / softness + 0.5, 0, 1)


def noise(u: Values, v: Values, rng: np.random.Generator) -> Values:
    """Smooth noise, uncorrelated over more than a period."""
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
    u = u + 0.5 * (np.floor(v) % 2) * rng.integers(2)  # every other row half a period aside, or not
    return _above(-np.hypot(u - np.floor(u) - 0.5, v - np.floor(v) - 0.5), -rng.uniform(0.25, 0.36), 0.12)


def grid(u: Values, v: Values, rng: np.random.Generator) -> Values:
    """Thin lines that cross."""
    nearest = np.minimum(abs(u - np.rint(u)), abs(v - np.rint(v)))
    return _above(-nearest, -rng.uniform(0.08, 0.14), 0.1)


def waves(u: Values, v: Values, rng: np.random.Generator) -> Values:
    """Stripes that bend to and fro."""
    return stripes(u + rng.uniform(0.28, 0.4) * np.sin(np.pi * v), v, rng)


def zigzag(u: Values, v: Values, rng: np.random.Generator) -> Values:
    """Stripes that turn sharply to and fro."""
    corner = 2 * abs(v / 2 - np.rint(v / 2))  # 0..1 and back in two periods
    return stripes(u + rng.uniform(1.0, 1.4) * corner, v, rng)


def rings(u: Values, v: Values, rng: np.random.Generator) -> Values:
    """Stripes around a point."""
    return stripes(np.hypot(u - rng.uniform(-1, 1), v - rng.uniform(-1, 1)), v, rng)


def bricks(u: Values, v: Values, rng: np.random.Generator) -> Values:
    """Thin joints between bricks, a row half a brick aside from the next."""
    row = 1.6 * v
    along = u * 0.8 + 0.5 * (np.floor(row) % 2)
    joint = np.minimum(abs(along - np.rint(along)) / 0.8, abs(row - np.rint(row)) / 1.6)
    return _above(joint, rng.uniform(0.07, 0.1), 0.1)


def weave(u: Values, v: Values, rng: np.random.Generator) -> Values:
    """Strands that run across and down in turns."""
    over = (np.floor(u) + np.floor(v)) % 2 > 0
    across = np.where(over, u, v)
    strands = rng.integers(1, 3)
    return np.abs(np.sin(np.pi * strands * across)) * np.where(over, 1.0, rng.uniform(0.5, 0.8))


def cells(u: Values, v: Values, rng: np.random.Generator) -> Values:
    """Borders between the areas that are nearest to one of scattered points."""
    table = rng.random((2, 16, 16), np.float32)
    column, row = np.floor(u).astype(np.int32), np.floor(v).astype(np.int32)
    nearest, second = np.full_like(u, np.inf), np.full_like(u, np.inf)
    for down in (-1, 0, 1):
        for right in (-1, 0, 1):
            c, r = column + right, row + down
            place = (r & 15, c & 15)
            distance = np.hypot(u - c - table[0][place], v - r - table[1][place])
            second = np.minimum(second, np.maximum(nearest, distance))
            nearest = np.minimum(nearest, distance)
    return _above(second - nearest, 0.14, 0.14)


def clouds(u: Values, v: Values, rng: np.random.Generator) -> Values:
    """Noise at several scales."""
    octaves = [noise(u * 2**k, v * 2**k, rng) * 0.6**k for k in range(3)]
    return np.clip(1.6 * (sum(octaves[1:], octaves[0]) / 1.96 - 0.5) + 0.5, 0, 1)


def wood(u: Values, v: Values, rng: np.random.Generator) -> Values:
    """Noise drawn out along one direction."""
    return _above(noise(u * 2.5, v * 0.3, rng) + 0.4 * noise(u * 5, v * 0.6, rng), 0.7, 0.6)


PATTERNS: dict[str, Pattern] = {
    pattern.__name__: pattern
    for pattern in (stripes, checks, dots, grid, waves, zigzag, rings, bricks, weave, cells, clouds, wood)
}


def turned(u: Values, v: Values, rng: np.random.Generator, period: float) -> tuple[Values, Values]:
    """Coordinates with a period of this length, turned by any angle and shifted."""
    angle = rng.uniform(0, 2 * np.pi)
    c, s = np.float32(np.cos(angle) / period), np.float32(np.sin(angle) / period)
    du, dv = rng.uniform(0, 4, 2).astype(np.float32)
    return c * u + s * v + du, c * v - s * u + dv
