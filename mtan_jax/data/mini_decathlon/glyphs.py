"""The set `glyphs`: characters of an invented alphabet, black on white; many classes of few examples."""

import functools
from collections.abc import Iterable

import numpy as np
from jaxtyping import UInt8

from mtan_jax.data.mini_decathlon.canvas import Canvas, Points, photographed

_COUNT = 36
_ALPHABET_SEED = 3  # of the alphabet, which is one and the same for all seeds of the set
_LEAST_APART = 0.155  # mean distance from a point of a character to the other character
_LEAST_LENGTH = 2.5  # of the strokes of a character together
CLASSES = tuple(f"glyph{index:02d}" for index in range(_COUNT))

Glyph = tuple[Points, ...]  # four control points a stroke


@functools.cache
def alphabet() -> tuple[Glyph, ...]:
    """The control points of every stroke of every character, about in -0.7..0.7."""
    rng = np.random.default_rng(_ALPHABET_SEED)
    glyphs: list[Glyph] = []
    traces: list[Points] = []
    while len(glyphs) < _COUNT:
        glyph = _character(rng)
        lines = _lines(glyph)
        trace = np.concatenate(lines)
        length = sum(np.hypot(*np.diff(line, axis=0).T).sum() for line in lines)
        if length > _LEAST_LENGTH and min((_apart(trace, other) for other in traces), default=1) > _LEAST_APART:
            glyphs.append(glyph)
            traces.append(trace)
    return tuple(glyphs)


def draw(canvas: Canvas, label: int, rng: np.random.Generator) -> UInt8[np.ndarray, "h w 3"]:
    """A character as another hand would write it."""
    turn, slant = rng.normal(0, 0.2), rng.normal(0, 0.2)
    width, height = rng.uniform(0.7, 1.1, 2)
    hand = np.array([(np.cos(turn), np.sin(turn)), (-np.sin(turn), np.cos(turn))]) @ np.array([(1, 0), (slant, 1)])
    shift = rng.uniform(-0.2, 0.2, 2)
    written = []
    for stroke in alphabet()[label]:
        unsteady = stroke + rng.normal(0, 0.08, stroke.shape) + rng.normal(0, 0.06, 2)
        written.append(unsteady * (width, height) @ hand + shift)
    ink = canvas.strokes(_lines(written), rng.uniform(0.07, 0.15))
    picture = np.repeat(1 - ink[..., None] * np.float32(rng.uniform(0.75, 1)), 3, axis=2)
    return photographed(picture, rng, 0.01)


def _character(rng: np.random.Generator) -> Glyph:
    """Some strokes, with the middle of their ends and control points at (0, 0)."""
    strokes = np.stack([_stroke(rng) for _ in range(rng.integers(2, 5))])
    return tuple(strokes - (strokes.max((0, 1)) + strokes.min((0, 1))) / 2)


def _stroke(rng: np.random.Generator) -> Points:
    """Control points on a lattice of 4 x 4, as strokes of a script begin and end in few places."""
    while True:
        points = rng.integers(0, 4, (4, 2)) * 0.46 - 0.69
        if rng.random() < 0.3:  # straight
            points = points[0] + (points[3] - points[0]) * np.linspace(0, 1, 4)[:, None]
        if np.hypot(*(points[3] - points[0])) > 0.6:
            return points


def _apart(trace: Points, other: Points) -> float:
    """Mean distance from the points of either trace to the nearest of the other one."""
    distance = np.hypot(*(trace[:, None] - other).transpose(2, 0, 1))
    return (distance.min(0).mean() + distance.min(1).mean()) / 2


_T = np.linspace(0, 1, 10)[:, None]
_BEZIER = np.concatenate([(1 - _T) ** 3, 3 * _T * (1 - _T) ** 2, 3 * _T**2 * (1 - _T), _T**3], 1)


def _lines(glyph: Iterable[Points]) -> list[Points]:
    """The Bezier curves of the strokes."""
    return [_BEZIER @ stroke for stroke in glyph]
