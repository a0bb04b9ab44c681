"""The set `textures`: one pattern all over the picture."""

import numpy as np
from jaxtyping import UInt8

from mtan_jax.data.mini_decathlon.canvas import Canvas, photographed
from mtan_jax.data.mini_decathlon.clutter import gradient
from mtan_jax.data.mini_decathlon.colours import any_colour, apart, grey
from mtan_jax.data.mini_decathlon.patterns import PATTERNS, noise, turned

CLASSES = tuple(PATTERNS)


def draw(canvas: Canvas, label: int, rng: np.random.Generator) -> UInt8[np.ndarray, "h w 3"]:
    """A pattern of any direction, size and colours, a little bent, in slanting light."""
    x, y = canvas.grid()
    bend = np.float32(rng.uniform(0, 0.25))
    u, v = (line + bend * noise(1.5 * x + 10, 1.5 * y + 10, rng) for line in (x, y))
    values = PATTERNS[CLASSES[label]](*turned(u, v, rng, rng.uniform(0.28, 0.65)), rng)
    first = any_colour(rng, (0.1, 0.6)) if rng.random() < 0.5 else grey(rng.uniform(0.15, 0.9))
    second = apart(rng, first, (0.12, 0.5))
    picture = first + canvas.reduce(values)[..., None] * (second - first)
    return photographed(picture * gradient(canvas, rng, (0, 0.4)), rng, rng.uniform(0.02, 0.1))
