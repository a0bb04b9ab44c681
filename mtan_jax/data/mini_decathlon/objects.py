"""The set `objects`: solid things with a surface, in front of textured grounds; the largest and most varied set."""

import numpy as np
from jaxtyping import UInt8

from mtan_jax.data.mini_decathlon.canvas import Canvas, Mask, paint, photographed
from mtan_jax.data.mini_decathlon.clutter import gradient, ground, scatter
from mtan_jax.data.mini_decathlon.colours import any_colour, apart
from mtan_jax.data.mini_decathlon.outlines import OUTLINES, Vector, arc, placed
from mtan_jax.data.mini_decathlon.patterns import Pattern, cells, checks, clouds, dots, plain, stripes, waves, wood

_KINDS = ("ball", "box", "star", "ring", "zigzag")
_SURFACES: dict[str, Pattern] = {"plain": plain, "striped": stripes, "dotted": dots, "checked": checks}
_GROUNDS = (clouds, clouds, wood, cells, waves)
CLASSES = tuple(f"{surface}_{kind}" for kind in _KINDS for surface in _SURFACES)


def draw(canvas: Canvas, label: int, rng: np.random.Generator) -> UInt8[np.ndarray, "h w 3"]:
    """A shaded thing of a kind and a surface, with its shadow; the class is both."""
    kind, surface = divmod(label, len(_SURFACES))
    first = any_colour(rng, value=(0.2, 0.85))
    picture = ground(canvas, rng, (first, apart(rng, first, (0.05, 0.3))), _GROUNDS[rng.integers(len(_GROUNDS))])
    picture = scatter(canvas, rng, picture * gradient(canvas, rng, (0, 0.3)), (0, 4), (0.1, 0.4))

    centre, angle = rng.uniform(-0.3, 0.3, 2), rng.uniform(0, 2 * np.pi)
    scale = rng.uniform(0.5, 0.8) * np.array([1, rng.uniform(0.75, 1)])
    thickness = rng.uniform()
    mask, shadow = (
        _mask(canvas, _KINDS[kind], place, scale, angle, thickness)
        for place in (centre, centre + rng.uniform(-0.15, 0.15, 2))
    )
    picture = paint(picture, shadow * np.float32(rng.uniform(0.2, 0.6)), np.zeros(3))

    colour = any_colour(rng, value=(0.25, 0.95))
    body = ground(
        canvas, rng, (colour, apart(rng, colour, (0.2, 0.45))), tuple(_SURFACES.values())[surface], (0.3, 0.5)
    )
    picture = paint(picture, mask, body * gradient(canvas, rng, (0.2, 0.7)))
    return photographed(canvas.blurred(picture, rng.uniform(0, 0.05)), rng, rng.uniform(0.01, 0.05))


def _mask(canvas: Canvas, kind: str, centre: Vector, scale: Vector, angle: float, thickness: float) -> Mask:
    """Where the thing is; `thickness`, 0..1, is that of rings and lines."""
    match kind:
        case "ball":
            return canvas.area(placed(OUTLINES["circle"], centre, scale * 1.05, angle))
        case "box":
            return canvas.area(placed(OUTLINES["square"], centre, scale, angle))
        case "star":
            return canvas.area(placed(OUTLINES["star"], centre, scale * 1.2, angle))
        case "ring":
            outer = placed(arc((0, 0), (1, 1), 0, 345), centre, scale * 1.1, angle)
            return canvas.area(outer, hole=(outer - centre) * (0.5 - 0.15 * thickness) + centre)
        case _:
            turns = np.array([(-1, 0.5), (-0.35, -0.6), (0.35, 0.6), (1, -0.5)])
            return canvas.strokes([placed(turns, centre, scale * 1.1, angle)], 0.3 + 0.12 * thickness)
