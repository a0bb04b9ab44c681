"""Which primitives can be seen at all, and which catch the sun: decided for all of them at once."""

import numpy as np
from jaxtyping import Bool, Float, Int

from mtan_jax.data.streets.camera import Camera
from mtan_jax.data.streets.primitives import Polygon, Primitive

_CORNERS = np.array([(x, y, z) for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)], float)


def drawing_order(primitives: list[Primitive], camera: Camera, near: float) -> Int[np.ndarray, "m"]:
    """Positions of the primitives that may be in sight, nearest first.

    Left out are primitives outside the image or nearer than `near` metres, and polygons seen from behind.
    """
    points = [p.vertices if isinstance(p, Polygon) else _CORNERS @ p.axes.T + p.centre for p in primitives]
    first = np.cumsum([0, *(len(p) for p in points[:-1])])
    x, y, z = camera.rotation @ (np.concatenate(points) - camera.eye).T * np.array([[camera.focal]] * 2 + [[1.0]])
    (height, width), (cx, cy) = camera.size, camera.centre
    # Each is positive for points on the image's side of a plane through the eye, or through the near distance.
    sides = np.stack([z - near, x + (cx + 1) * z, (width - cx) * z - x, (height - cy) * z + y, (cy + 1) * z - y])
    in_sight = (np.maximum.reduceat(sides, first, axis=1) > 0).all(0)
    seen = np.flatnonzero(in_sight & faces(primitives, camera.eye))
    nearest = np.minimum.reduceat(np.maximum(z, 0), first)
    return seen[np.argsort(nearest[seen], kind="stable")]


def faces(
    primitives: list[Primitive], point: Float[np.ndarray, "3"], *, infinite: bool = False
) -> Bool[np.ndarray, "n"]:
    """Whether each primitive turns its outer side to a point, or to a direction where `infinite`. Round bodies do."""
    result = np.ones(len(primitives), bool)
    places = [i for i, p in enumerate(primitives) if isinstance(p, Polygon) and p.inside is not None]
    if not places:
        return result
    corners = np.array([primitives[i].vertices[:3] for i in places])  # type: ignore[union-attr]
    inside = np.array([primitives[i].inside for i in places])  # type: ignore[union-attr]
    normal = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    towards = np.broadcast_to(point, inside.shape) if infinite else point - corners[:, 0]
    result[places] = (normal * towards).sum(1) * (normal * (inside - corners[:, 0])).sum(1) < 0
    return result
