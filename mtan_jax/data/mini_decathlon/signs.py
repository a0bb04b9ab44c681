"""The dataset `signs`: road signs seen from a car, at different distances, in sunlight and at dusk."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import UInt8

from mtan_jax.data.mini_decathlon.canvas import Canvas, Points, add_sensor_noise, paint
from mtan_jax.data.mini_decathlon.clutter import add_distractors, background, gradient
from mtan_jax.data.mini_decathlon.colours import contrasting, hue_colour
from mtan_jax.data.mini_decathlon.numerals import NUMERALS
from mtan_jax.data.mini_decathlon.outlines import arc, corners, place

_RED, _BLUE, _YELLOW = (0.0, 0.85, 0.75), (0.6, 0.8, 0.65), (0.13, 0.9, 0.9)  # hue, saturation, value
_WHITE, _BLACK = (0.0, 0.0, 0.92), (0.0, 0.0, 0.1)
_DISC = arc((0, 0), (1, 1), 0, 345)
_WARNING = corners(3) * 1.15 + [0, 0.2]

# Outline, colours of the border and of the field, and the width of the border as a fraction of the radius.
_PLATES = {
    "forbidden": (_DISC, _RED, _WHITE, 0.22),
    "command": (_DISC, _WHITE, _BLUE, 0.08),
    "warning": (_WARNING, _RED, _WHITE, 0.3),
    "yield": (-_WARNING, _RED, _WHITE, 0.3),
    "closed": (_DISC, _WHITE, _RED, 0.08),
    "stop": (place(corners(8), np.zeros(2), 1, np.pi / 8), _WHITE, _RED, 0.1),
    "priority": (corners(4) * 1.15, _WHITE, _YELLOW, 0.2),
}
_INK = {"command": _WHITE, "closed": _WHITE, "stop": _WHITE}  # black on the other plates

_UP = (np.array([(0, 0.6), (0, -0.5)]), np.array([(-0.35, -0.15), (0, -0.55), (0.35, -0.15)]))
_LEFT = tuple(line[:, ::-1] for line in _UP)
_BEND = (np.array([(0.15, 0.6), (0.15, 0.1), (-0.25, -0.25)]), np.array([(-0.28, 0.1), (-0.28, -0.28), (0.1, -0.3)]))


def _mirrored(lines: Sequence[Points]) -> tuple[Points, ...]:
    return tuple(line * [-1, 1] for line in lines)


def _limit(tens: int) -> tuple[Points, ...]:
    return tuple(NUMERALS[digit] * [0.42, 0.42] + [x, 0] for digit, x in ((tens, -0.29), (0, 0.29)))


# The plate and the lines on it, inside a radius of about 0.6.
_SIGNS: dict[str, tuple[str, tuple[Points, ...]]] = {
    "no_left": ("forbidden", _LEFT),
    "no_right": ("forbidden", _mirrored(_LEFT)),
    "limit_30": ("forbidden", _limit(3)),
    "limit_50": ("forbidden", _limit(5)),
    "limit_80": ("forbidden", _limit(8)),
    "no_vehicles": ("forbidden", ()),
    "go_left": ("command", _LEFT),
    "go_right": ("command", _mirrored(_LEFT)),
    "go_ahead": ("command", _UP),
    "bend_left": ("warning", _BEND),
    "bend_right": ("warning", _mirrored(_BEND)),
    "crossing": ("warning", (np.array([(-0.3, -0.2), (0.3, 0.5)]), np.array([(0.3, -0.2), (-0.3, 0.5)]))),
    "yield": ("yield", ()),
    "no_entry": ("closed", (np.array([(-0.5, 0), (0.5, 0)]),)),
    "stop": ("stop", tuple(np.array([(x, -0.3), (x, 0.3)]) for x in (-0.5, -0.17, 0.17, 0.5))),
    "priority": ("priority", ()),
}
CLASSES = tuple(_SIGNS)


def draw(canvas: Canvas, label: int, rng: np.random.Generator) -> UInt8[np.ndarray, "h w 3"]:
    """Draws a sign in front of a blurred street, in random light."""
    plate, lines = _SIGNS[CLASSES[label]]
    street = hue_colour(rng.choice([0.08, 0.25, 0.6]) + rng.normal(0, 0.04), rng.uniform(0, 0.5), rng.uniform(0.3, 0.9))
    picture = background(canvas, rng, (street, contrasting(rng, street, (0.05, 0.4))), period=(0.3, 1.5))
    picture = canvas.blur(add_distractors(canvas, rng, picture, (1, 5), (0.1, 0.5)), 0.06)

    centre, angle = rng.uniform(-0.22, 0.22, 2), rng.normal(0, 0.08)
    scale = rng.uniform(0.5, 0.85) * np.array([rng.uniform(0.8, 1), 1])
    outline, border, field, width = _PLATES[plate]
    wear = rng.uniform(0.5, 1)  # faded colours
    colours = [
        hue_colour(hue + rng.normal(0, 0.02), wear * saturation, value)
        for hue, saturation, value in (border, field, _INK.get(plate, _BLACK))
    ]
    inner = (outline - outline.mean(0)) * (1 - width) + outline.mean(0)
    for points, colour in zip((outline, inner), colours, strict=False):
        picture = paint(picture, canvas.area(place(points, centre, scale, angle)), colour)
    if lines:
        ink = canvas.strokes([place(line, centre, scale, angle) for line in lines], 0.2 * float(scale.min()))
        picture = paint(picture, ink, colours[2])
    light = np.float32(rng.choice([1, 1, 0.7, 0.4]) * rng.uniform(0.7, 1.1))
    picture = canvas.blur(picture * light * gradient(canvas, rng, (0, 0.5)), rng.uniform(0.02, 0.1))
    return add_sensor_noise(picture, rng, rng.uniform(0.01, 0.04))
