"""Outlines with a radius of about 1 around (0, 0), and their placement."""

import numpy as np
from jaxtyping import Float

from mtan_jax.data.mini_decathlon.canvas import Points

Vector = Float[np.ndarray, "2"]


def arc(centre: tuple[float, float], radius: tuple[float, float], first: float, last: float) -> Points:
    """Returns points on an elliptical arc between two angles in degrees; 0 is right, 90 is down."""
    angle = np.radians(np.linspace(first, last, max(3, round(abs(last - first) / 15) + 1)))
    return np.array(centre) + np.array(radius) * np.stack([np.cos(angle), np.sin(angle)], -1)


def corners(count: int) -> Points:
    """Returns a regular polygon with a corner on top."""
    angle = 2 * np.pi * np.arange(count) / count
    return np.stack([np.sin(angle), -np.cos(angle)], -1)


def star(points: int = 5, inner: float = 0.42) -> Points:
    """Returns a star with a point on top; `inner` is the radius of the corners between the points."""
    return corners(2 * points) * np.where(np.arange(2 * points) % 2, inner, 1.0)[:, None]


def _heart() -> Points:
    t = np.linspace(0, 2 * np.pi, 40, endpoint=False)
    y = 13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t)
    return np.stack([16 * np.sin(t) ** 3, -y - 2], -1) / 16


def _moon() -> Points:
    return np.concatenate([arc((-0.2, 0), (1, 1), 60, 300), arc((0.25, 0), (0.78, 0.87), 270, 90)])


def _mirrored(*right: tuple[float, float]) -> Points:
    """Returns the outline with this right half, given from top to bottom."""
    half = np.array(right)
    return np.concatenate([half, half[::-1] * [-1, 1]])


OUTLINES: dict[str, Points] = {
    "circle": arc((0, 0), (0.9, 0.9), 0, 345),
    "square": np.array([(-0.8, -0.8), (0.8, -0.8), (0.8, 0.8), (-0.8, 0.8)]),
    "triangle": corners(3) * 1.1 + [0, 0.15],
    "star": star() * 1.15,
    "cross": _mirrored((0.3, -1), (0.3, -0.3), (1, -0.3), (1, 0.3), (0.3, 0.3), (0.3, 1)),
    "heart": _heart(),
    "moon": _moon(),
    "arrow": _mirrored((0, -1.1), (0.8, -0.1), (0.3, -0.1), (0.3, 1)),
    "drop": np.concatenate([arc((0, 0.35), (0.7, 0.7), -30, 210), [(0, -1.2)]]),
    "hourglass": _mirrored((0.75, -1), (0.12, 0), (0.75, 1)),
}


def place(points: Points, centre: Vector, scale: float | Vector, angle: float) -> Points:
    """Scales the points (in x and y, before rotation), rotates them clockwise by `angle` radians, and moves them."""
    c, s = np.cos(angle), np.sin(angle)
    return (points * scale) @ np.array([(c, s), (-s, c)]) + centre
