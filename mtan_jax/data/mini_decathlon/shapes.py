"""The dataset `shapes`: filled and outlined figures, almost without colour, on noise and clutter."""

import numpy as np
from jaxtyping import UInt8

from mtan_jax.data.mini_decathlon.canvas import Canvas, add_sensor_noise, paint
from mtan_jax.data.mini_decathlon.clutter import add_distractors, background
from mtan_jax.data.mini_decathlon.colours import contrasting, grey
from mtan_jax.data.mini_decathlon.outlines import OUTLINES, place

CLASSES = tuple(OUTLINES)
_TINT = 0.1  # almost grey


def draw(canvas: Canvas, label: int, rng: np.random.Generator) -> UInt8[np.ndarray, "h w 3"]:
    """Draws a rotated, squeezed, shifted and partly occluded figure; dark on bright or vice versa."""
    dark = grey(rng.uniform(0.2, 0.8))
    back = background(canvas, rng, (dark, contrasting(rng, dark, (0.02, 0.15), _TINT)), period=(0.15, 0.6))
    picture = add_distractors(canvas, rng, back, (2, 6), (0.1, 0.3), _TINT)

    squeeze = np.array([1, rng.uniform(0.7, 1)])[rng.permutation(2)]
    points = place(
        OUTLINES[CLASSES[label]],
        rng.uniform(-0.35, 0.35, 2),
        rng.uniform(0.4, 0.75) * squeeze,
        rng.uniform(0, 2 * np.pi),
    )
    if rng.random() < 0.5:
        mask = canvas.area(points)
    else:
        mask = canvas.strokes([np.concatenate([points, points[:2]])], rng.uniform(0.08, 0.16))
    picture = paint(picture, mask, contrasting(rng, dark, (0.15, 0.45), _TINT))
    if rng.random() < 0.4:
        covering = canvas.strokes([rng.uniform(-1.2, 1.2, (2, 2))], rng.uniform(0.15, 0.3))
        picture = paint(picture, covering, back)
    # A uniform colour cast.
    return add_sensor_noise(picture * rng.uniform(0.92, 1.08, 3).astype(np.float32), rng, rng.uniform(0.03, 0.08))
