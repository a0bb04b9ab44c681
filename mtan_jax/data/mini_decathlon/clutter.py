"""Backgrounds and distractors around the object to classify."""

import numpy as np
from jaxtyping import Float

from mtan_jax.data.mini_decathlon.canvas import Canvas, Picture, paint
from mtan_jax.data.mini_decathlon.colours import Colour, Range, contrasting
from mtan_jax.data.mini_decathlon.outlines import corners, place
from mtan_jax.data.mini_decathlon.patterns import Pattern, clouds, random_coordinates


def background(
    canvas: Canvas,
    rng: np.random.Generator,
    colours: tuple[Colour, Colour],
    pattern: Pattern = clouds,
    period: Range = (0.4, 1.6),
) -> Picture:
    """Draws a background: a pattern in two colours."""
    u, v = random_coordinates(*canvas.grid(), rng, rng.uniform(*period))
    values = canvas.reduce(pattern(u, v, rng))[..., None]
    return colours[0] + values * (colours[1] - colours[0])


def gradient(canvas: Canvas, rng: np.random.Generator, strength: Range) -> Float[np.ndarray, "h w 1"]:
    """Returns a brightness factor that changes linearly in a random direction."""
    x, y = canvas.grid()
    angle = rng.uniform(0, 2 * np.pi)
    slope = canvas.reduce(np.float32(np.cos(angle)) * x + np.float32(np.sin(angle)) * y)
    return 1 + np.float32(rng.uniform(*strength)) * slope[..., None]


def add_distractors(
    canvas: Canvas,
    rng: np.random.Generator,
    picture: Picture,
    count: tuple[int, int],
    distance: Range,
    tint: float = 0.5,
) -> Picture:
    """Draws small polygons and lines at random positions over the picture."""
    for _ in range(rng.integers(*count, endpoint=True)):
        centre = rng.uniform(-1, 1, 2)
        if rng.random() < 0.5:
            points = place(corners(int(rng.integers(3, 6))), centre, rng.uniform(0.08, 0.25, 2), rng.uniform(0, 6.3))
            mask = canvas.area(points)
        else:
            mask = canvas.strokes([centre + rng.uniform(-0.6, 0.6, (2, 2))], rng.uniform(0.05, 0.12))
        colour = contrasting(rng, picture.mean((0, 1)), distance, tint)
        picture = paint(picture, mask, colour)
    return picture
