"""What stands behind and around the thing to recognise."""

import numpy as np
from jaxtyping import Float

from mtan_jax.data.mini_decathlon.canvas import Canvas, Picture, paint
from mtan_jax.data.mini_decathlon.colours import Colour, Range, apart
from mtan_jax.data.mini_decathlon.outlines import corners, placed
from mtan_jax.data.mini_decathlon.patterns import Pattern, clouds, turned


def ground(
    canvas: Canvas,
    rng: np.random.Generator,
    colours: tuple[Colour, Colour],
    pattern: Pattern = clouds,
    period: Range = (0.4, 1.6),
) -> Picture:
    """A background of a pattern in two colours."""
    u, v = turned(*canvas.grid(), rng, rng.uniform(*period))
    values = canvas.reduce(pattern(u, v, rng))[..., None]
    return colours[0] + values * (colours[1] - colours[0])


def gradient(canvas: Canvas, rng: np.random.Generator, strength: Range) -> Float[np.ndarray, "h w 1"]:
    """A factor of the brightness that changes along a line."""
    x, y = canvas.grid()
    angle = rng.uniform(0, 2 * np.pi)
    slope = canvas.reduce(np.float32(np.cos(angle)) * x + np.float32(np.sin(angle)) * y)
    return 1 + np.float32(rng.uniform(*strength)) * slope[..., None]


def scatter(
    canvas: Canvas,
    rng: np.random.Generator,
    picture: Picture,
    count: tuple[int, int],
    distance: Range,
    tint: float = 0.5,
) -> Picture:
    """The picture with small polygons and lines over it, anywhere."""
    for _ in range(rng.integers(*count, endpoint=True)):
        centre = rng.uniform(-1, 1, 2)
        if rng.random() < 0.5:
            points = placed(corners(int(rng.integers(3, 6))), centre, rng.uniform(0.08, 0.25, 2), rng.uniform(0, 6.3))
            mask = canvas.area(points)
        else:
            mask = canvas.strokes([centre + rng.uniform(-0.6, 0.6, (2, 2))], rng.uniform(0.05, 0.12))
        colour = apart(rng, picture.mean((0, 1)), distance, tint)
        picture = paint(picture, mask, colour)
    return picture
