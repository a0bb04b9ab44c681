"""The dataset `digits`: a coloured numeral between parts of others, like a house number."""

import numpy as np
from jaxtyping import UInt8

from mtan_jax.data.mini_decathlon.canvas import Canvas, Points, add_sensor_noise, paint
from mtan_jax.data.mini_decathlon.clutter import add_distractors, background, gradient
from mtan_jax.data.mini_decathlon.colours import contrasting, random_colour
from mtan_jax.data.mini_decathlon.numerals import NUMERALS
from mtan_jax.data.mini_decathlon.outlines import Vector, place

CLASSES = tuple(str(digit) for digit in range(10))


def draw(canvas: Canvas, label: int, rng: np.random.Generator) -> UInt8[np.ndarray, "h w 3"]:
    """Draws the numeral of the class in the middle, and parts of others at the sides."""
    wall = random_colour(rng, value=(0.2, 0.9))
    picture = background(canvas, rng, (wall, contrasting(rng, wall, (0, 0.15))), period=(0.8, 2))
    picture = add_distractors(canvas, rng, picture, (0, 5), (0.05, 0.3))

    centre, angle = rng.uniform(-0.16, 0.16, 2), rng.normal(0, 0.15)
    scale = rng.uniform(0.45, 0.75) * np.array([rng.uniform(0.75, 1.2), 1])
    step = scale[0] * rng.uniform(1.4, 1.9) * np.array([np.cos(angle), np.sin(angle)])
    lines = [_numeral(label, centre, scale, angle, rng)]
    for side in (-1, 1):
        if rng.random() < 0.75:
            lines.append(_numeral(int(rng.integers(10)), centre + side * step, scale, angle, rng))
    thickness = rng.uniform(0.12, 0.24)
    colour = contrasting(rng, wall, (0.12, 0.45))
    picture = paint(picture, canvas.strokes(lines, thickness), colour) * gradient(canvas, rng, (0, 0.4))
    return add_sensor_noise(canvas.blur(picture, rng.uniform(0.02, 0.09)), rng, rng.uniform(0.02, 0.06))


def _numeral(digit: int, centre: Vector, scale: Vector, angle: float, rng: np.random.Generator) -> Points:
    slanted = NUMERALS[digit] @ np.array([(1, 0), (rng.uniform(-0.15, 0.05), 1)])
    return place(slanted + rng.normal(0, 0.05, slanted.shape), centre, scale, angle)
