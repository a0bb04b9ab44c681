"""The set `shapes`: filled and outlined figures, nearly without colour, on noise and clutter."""

import numpy as np
from jaxtyping import UInt8

from mtan_jax.data.mini_decathlon.canvas import Canvas, paint, photographed
from mtan_jax.data.mini_decathlon.clutter import ground, scatter
from mtan_jax.data.mini_decathlon.colours import apart, grey
from mtan_jax.data.mini_decathlon.outlines import OUTLINES, placed

CLASSES = tuple(OUTLINES)
_TINT = 0.1  # hardly any colour


def draw(canvas: Canvas, label: int, rng: np.random.Generator) -> UInt8[np.ndarray, "h w 3"]:
    """A figure turned, squeezed, shifted and partly covered; dark on bright or bright on dark."""
    dark = grey(rng.uniform(0.2, 0.8))
    back = ground(canvas, rng, (dark, apart(rng, dark, (0.02, 0.15), _TINT)), period=(0.15, 0.6))
    picture = scatter(canvas, rng, back, (2, 6), (0.1, 0.3), _TINT)

    squeeze = np.array([1, rng.uniform(0.7, 1)])[rng.permutation(2)]
    points = placed(
        OUTLINES[CLASSES[label]],
        rng.uniform(-0.35, 0.35, 2),
        rng.uniform(0.4, 0.75) * squeeze,
        rng.uniform(0, 2 * np.pi),
    )
    if rng.random() < 0.5:
        mask = canvas.area(points)
    else:
        mask = canvas.strokes([np.concatenate([points, points[:2]])], rng.uniform(0.08, 0.16))
    picture = paint(picture, mask, apart(rng, dark, (0.15, 0.45), _TINT))
    if rng.random() < 0.4:
        covering = canvas.strokes([rng.uniform(-1.2, 1.2, (2, 2))], rng.uniform(0.15, 0.3))
        picture = paint(picture, covering, back)
    # A tint of the film, the same all over.
    return photographed(picture * rng.uniform(0.92, 1.08, 3).astype(np.float32), rng, rng.uniform(0.03, 0.08))
