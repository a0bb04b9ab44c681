"""The dataset `objects`: shaded, textured objects on textured backgrounds; the largest and most varied dataset."""

import numpy as np
from jaxtyping import UInt8

from mtan_jax.data.mini_decathlon.canvas import Canvas, Mask, add_sensor_noise, paint
from mtan_jax.data.mini_decathlon.clutter import add_distractors, background, gradient
from mtan_jax.data.mini_decathlon.colours import contrasting, random_colour
from mtan_jax.data.mini_decathlon.outlines import OUTLINES, Vector, arc, place
from mtan_jax.data.mini_decathlon.patterns import Pattern, cells, checks, clouds, dots, plain, stripes, waves, wood

_KINDS = ("ball", "box", "star", "ring", "zigzag")
_SURFACES: dict[str, Pattern] = {"plain": plain, "striped": stripes, "dotted": dots, "checked": checks}
_BACKGROUNDS = (clouds, clouds, wood, cells, waves)
CLASSES = tuple(f"{surface}_{kind}" for kind in _KINDS for surface in _SURFACES)


def draw(canvas: Canvas, label: int, rng: np.random.Generator) -> UInt8[np.ndarray, "h w 3"]:
    """Draws a shaded object with its shadow. The class is the combination of shape and surface."""
    kind, surface = divmod(label, len(_SURFACES))
    first = random_colour(rng, value=(0.2, 0.85))
    picture = background(
        canvas, rng, (first, contrasting(rng, first, (0.05, 0.3))), _BACKGROUNDS[rng.integers(len(_BACKGROUNDS))]
    )
    picture = add_distractors(canvas, rng, picture * gradient(canvas, rng, (0, 0.3)), (0, 4), (0.1, 0.4))

    centre, angle = rng.uniform(-0.3, 0.3, 2), rng.uniform(0, 2 * np.pi)
    scale = rng.uniform(0.5, 0.8) * np.array([1, rng.uniform(0.75, 1)])
    thickness = rng.uniform()
    mask, shadow = (
        _mask(canvas, _KINDS[kind], position, scale, angle, thickness)
        for position in (centre, centre + rng.uniform(-0.15, 0.15, 2))
    )
    picture = paint(picture, shadow * np.float32(rng.uniform(0.2, 0.6)), np.zeros(3))

    colour = random_colour(rng, value=(0.25, 0.95))
    body = background(
        canvas, rng, (colour, contrasting(rng, colour, (0.2, 0.45))), tuple(_SURFACES.values())[surface], (0.3, 0.5)
    )
    picture = paint(picture, mask, body * gradient(canvas, rng, (0.2, 0.7)))
    return add_sensor_noise(canvas.blur(picture, rng.uniform(0, 0.05)), rng, rng.uniform(0.01, 0.05))


def _mask(canvas: Canvas, kind: str, centre: Vector, scale: Vector, angle: float, thickness: float) -> Mask:
    """Returns the mask of the object; `thickness` in 0..1 applies to "ring" and "zigzag"."""
    match kind:
        case "ball":
            return canvas.area(place(OUTLINES["circle"], centre, scale * 1.05, angle))
        case "box":
            return canvas.area(place(OUTLINES["square"], centre, scale, angle))
        case "star":
            return canvas.area(place(OUTLINES["star"], centre, scale * 1.2, angle))
        case "ring":
            outer = place(arc((0, 0), (1, 1), 0, 345), centre, scale * 1.1, angle)
            return canvas.area(outer, hole=(outer - centre) * (0.5 - 0.15 * thickness) + centre)
        case _:
            turns = np.array([(-1, 0.5), (-0.35, -0.6), (0.35, 0.6), (1, -0.5)])
            return canvas.strokes([place(turns, centre, scale * 1.1, angle)], 0.3 + 0.12 * thickness)
