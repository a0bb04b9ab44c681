"""Vectorized culling: which primitives can be visible, and which face the sun."""

import numpy as np
from jaxtyping import Bool, Float, Int

from mtan_jax.data.streets.camera import Camera
from mtan_jax.data.streets.primitives import Polygon, Primitive

_CORNERS = np.array([(x, y, z) for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)], float)


def drawing_order(primitives: list[Primitive], camera: Camera, near: float) -> Int[np.ndarray, "m"]:
    """Returns the indices of the primitives that may be visible, nearest first.

    Primitives outside the image or nearer than `near` metres, and polygons seen from behind, are culled.
    """
    points = [p.vertices if isinstance(p, Polygon) else _CORNERS @ p.axes.T + p.centre for p in primitives]
    first = np.cumsum([0, *(len(p) for p in points[:-1])])
    x, y, z = camera.rotation @ (np.concatenate(points) - camera.eye).T * np.array([[camera.focal]] * 2 + [[1.0]])
    (height, width), (cx, cy) = camera.size, camera.centre
    # Each is positive on the visible side of a plane of the viewing frustum.
    sides = np.stack([z - near, x + (cx + 1) * z, (width - cx) * z - x, (height - cy) * z + y, (cy + 1) * z - y])
    in_sight = (np.maximum.reduceat(sides, first, axis=1) > 0).all(0)
    seen = np.flatnonzero(in_sight & faces(primitives, camera.eye))
    nearest = np.minimum.reduceat(np.maximum(z, 0), first)
    return seen[np.argsort(nearest[seen], kind="stable")]


def faces(
    primitives: list[Primitive], point: Float[np.ndarray, "3"], *, infinite: bool = False
) -> Bool[np.ndarray, "n"]:
    """Returns whether each primitive's outer side faces a point, or a direction if `infinite`; True for quadrics."""
    result = np.ones(len(primitives), bool)
    indices = [i for i, p in enumerate(primitives) if isinstance(p, Polygon) and p.inside is not None]
    if not indices:
        return result
    corners = np.array([primitives[i].vertices[:3] for i in indices])  # type: ignore[union-attr]
    inside = np.array([primitives[i].inside for i in indices])  # type: ignore[union-attr]
    normal = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    towards = np.broadcast_to(point, inside.shape) if infinite else point - corners[:, 0]
    result[indices] = (normal * towards).sum(1) * (normal * (inside - corners[:, 0])).sum(1) < 0
    return result
