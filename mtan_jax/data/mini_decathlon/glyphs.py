"""The dataset `glyphs`: black characters of an invented alphabet on white; many classes with few examples."""

import functools
from collections.abc import Iterable

import numpy as np
from jaxtyping import UInt8

from mtan_jax.data.mini_decathlon.canvas import Canvas, Points, add_sensor_noise

_COUNT = 36
_ALPHABET_SEED = 3  # fixed, so that all seeds of the dataset share the alphabet
_MIN_DISTANCE = 0.155  # mean distance from a point of a character to another character
_MIN_LENGTH = 2.5  # total length of a character's strokes
CLASSES = tuple(f"glyph{index:02d}" for index in range(_COUNT))

Glyph = tuple[Points, ...]  # four control points per stroke


@functools.cache
def alphabet() -> tuple[Glyph, ...]:
    """Returns the control points of each stroke of each character, roughly in -0.7..0.7."""
    rng = np.random.default_rng(_ALPHABET_SEED)
    glyphs: list[Glyph] = []
    traces: list[Points] = []
    while len(glyphs) < _COUNT:
        glyph = _character(rng)
        lines = _lines(glyph)
        trace = np.concatenate(lines)
        length = sum(np.hypot(*np.diff(line, axis=0).T).sum() for line in lines)
        if length > _MIN_LENGTH and min((_distance(trace, other) for other in traces), default=1) > _MIN_DISTANCE:
            glyphs.append(glyph)
            traces.append(trace)
    return tuple(glyphs)


def draw(canvas: Canvas, label: int, rng: np.random.Generator) -> UInt8[np.ndarray, "h w 3"]:
    """Draws a character with random handwriting variations."""
    turn, slant = rng.normal(0, 0.2), rng.normal(0, 0.2)
    width, height = rng.uniform(0.7, 1.1, 2)
    hand = np.array([(np.cos(turn), np.sin(turn)), (-np.sin(turn), np.cos(turn))]) @ np.array([(1, 0), (slant, 1)])
    shift = rng.uniform(-0.2, 0.2, 2)
    written = []
    for stroke in alphabet()[label]:
        jittered = stroke + rng.normal(0, 0.08, stroke.shape) + rng.normal(0, 0.06, 2)
        written.append(jittered * (width, height) @ hand + shift)
    ink = canvas.strokes(_lines(written), rng.uniform(0.07, 0.15))
    picture = np.repeat(1 - ink[..., None] * np.float32(rng.uniform(0.75, 1)), 3, axis=2)
    return add_sensor_noise(picture, rng, 0.01)


def _character(rng: np.random.Generator) -> Glyph:
    """Draws 2 to 4 random strokes, with the bounding box of their control points centred at (0, 0)."""
    strokes = np.stack([_stroke(rng) for _ in range(rng.integers(2, 5))])
    return tuple(strokes - (strokes.max((0, 1)) + strokes.min((0, 1))) / 2)


def _stroke(rng: np.random.Generator) -> Points:
    """Draws control points on a 4 x 4 lattice, since strokes of a script start and end at few places."""
    while True:
        points = rng.integers(0, 4, (4, 2)) * 0.46 - 0.69
        if rng.random() < 0.3:  # straight
            points = points[0] + (points[3] - points[0]) * np.linspace(0, 1, 4)[:, None]
        if np.hypot(*(points[3] - points[0])) > 0.6:
            return points


def _distance(trace: Points, other: Points) -> float:
    """Returns the mean distance from the points of each trace to the nearest point of the other."""
    distance = np.hypot(*(trace[:, None] - other).transpose(2, 0, 1))
    return (distance.min(0).mean() + distance.min(1).mean()) / 2


_T = np.linspace(0, 1, 10)[:, None]
_BEZIER = np.concatenate([(1 - _T) ** 3, 3 * _T * (1 - _T) ** 2, 3 * _T**2 * (1 - _T), _T**3], 1)


def _lines(glyph: Iterable[Points]) -> list[Points]:
    """Returns the Bezier curves of the strokes."""
    return [_BEZIER @ stroke for stroke in glyph]
