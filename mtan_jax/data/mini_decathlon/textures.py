"""The dataset `textures`: one pattern over the whole image."""

import numpy as np
from jaxtyping import UInt8

from mtan_jax.data.mini_decathlon.canvas import Canvas, add_sensor_noise
from mtan_jax.data.mini_decathlon.clutter import gradient
from mtan_jax.data.mini_decathlon.colours import contrasting, grey, random_colour
from mtan_jax.data.mini_decathlon.patterns import PATTERNS, noise, random_coordinates

CLASSES = tuple(PATTERNS)


def draw(canvas: Canvas, label: int, rng: np.random.Generator) -> UInt8[np.ndarray, "h w 3"]:
    """Draws a pattern of random direction, size and colours, slightly warped, in uneven light."""
    x, y = canvas.grid()
    bend = np.float32(rng.uniform(0, 0.25))
    u, v = (line + bend * noise(1.5 * x + 10, 1.5 * y + 10, rng) for line in (x, y))
    values = PATTERNS[CLASSES[label]](*random_coordinates(u, v, rng, rng.uniform(0.28, 0.65)), rng)
    first = random_colour(rng, (0.1, 0.6)) if rng.random() < 0.5 else grey(rng.uniform(0.15, 0.9))
    second = contrasting(rng, first, (0.12, 0.5))
    picture = first + canvas.reduce(values)[..., None] * (second - first)
    return add_sensor_noise(picture * gradient(canvas, rng, (0, 0.4)), rng, rng.uniform(0.02, 0.1))
