"""A shadow map of the ground, seen from above."""

import numpy as np
from jaxtyping import Float

from mtan_jax.data.streets.primitives import Polygon, Primitive
from mtan_jax.data.streets.street import Street

_CELL = 0.2  # metres
_REACH = 50.0  # metres; objects farther away cast no shadow
_LEFT, _NEAR, _COLUMNS, _ROWS = -30.0, 0.0, 300, 400
_RING = np.linspace(0, 2 * np.pi, 8, endpoint=False)


class ShadowMap:
    """The fraction of the sunlight that reaches the ground, in cells of 0.2 m.

    Shadows are projected onto the ground level below the object that casts them.
    """

    def __init__(self, street: Street, to_sun: Float[np.ndarray, "3"]):
        self._street = street
        self._away = to_sun[[0, 2]] / to_sun[1]
        self._to_sun = to_sun
        self.sunlit = np.ones((_ROWS, _COLUMNS), np.float32)

    @staticmethod
    def reaches(primitive: Primitive) -> bool:
        """Returns whether a primitive is near enough to cast a shadow."""
        z = primitive.vertices[0, 2] if isinstance(primitive, Polygon) else primitive.centre[2]
        return z < _REACH

    def add(self, primitive: Primitive) -> None:
        """Adds the shadow of a primitive."""
        if isinstance(primitive, Polygon):
            outline = primitive.vertices
        elif primitive.tube:
            side = primitive.axes[:, 2][[2, 1, 0]] * (1, 0, -1) if primitive.axes[1, 2] ** 2 < 1e-3 else np.zeros(3)
            across = np.array([self._to_sun[2], 0.0, -self._to_sun[0]]) if not side.any() else side
            across *= np.linalg.norm(primitive.axes[:, 0]) / max(float(np.linalg.norm(across)), 1e-9)
            end = primitive.axes[:, 2]
            outline = primitive.centre + np.stack([-end - across, -end + across, end + across, end - across])
        else:
            # The outline seen from the sun is the great circle perpendicular to it on the unit sphere.
            pole = np.linalg.solve(primitive.axes, self._to_sun)
            basis = np.linalg.svd(pole[None])[2][1:]
            circle = np.cos(_RING)[:, None] * basis[0] + np.sin(_RING)[:, None] * basis[1]
            outline = primitive.centre + circle @ primitive.axes.T
        level = 0.5 * self._street.profile * outline[:, 2].mean() ** 2
        height = np.maximum(outline[:, 1] - level, 0)[:, None]
        self.darken(outline[:, [0, 2]] - height * self._away)

    def darken(self, outline: Float[np.ndarray, "n 2"]) -> None:
        """Marks a convex region (x, z) of the ground as shaded."""
        cells = (outline - (_LEFT, _NEAR)) / _CELL - 0.5
        left, top = np.maximum(np.floor(cells.min(0)), 0).astype(int)
        right, bottom = np.minimum(np.ceil(cells.max(0)) + 1, (_COLUMNS, _ROWS)).astype(int)
        if left >= right or top >= bottom:
            return
        edge = np.vstack([cells[1:], cells[:1]]) - cells
        turned = edge[:-1, 0] * edge[1:, 1] - edge[:-1, 1] * edge[1:, 0]
        sense = 1.0 if turned.sum() > 0 else -1.0
        column, row = np.arange(left, right), np.arange(top, bottom)
        inside = np.ones((bottom - top, right - left), bool)
        for (x, y), (dx, dy) in zip(cells, sense * edge, strict=True):
            inside &= dx * (row - y)[:, None] >= dy * (column - x)
        self.sunlit[top:bottom, left:right][inside] = 0

    def at(self, x: Float[np.ndarray, "n"], z: Float[np.ndarray, "n"]) -> Float[np.ndarray, "n"]:
        """Returns the sunlight at points of the ground, interpolated bilinearly."""
        column = np.clip((x - _LEFT) / _CELL - 0.5, 0, _COLUMNS - 1.001)
        row = np.clip((z - _NEAR) / _CELL - 0.5, 0, _ROWS - 1.001)
        j, i = column.astype(np.int32), row.astype(np.int32)
        fx, fy = column - j, row - i
        flat, place = self.sunlit.ravel(), i * _COLUMNS + j
        above = flat[place] * (1 - fx) + flat[place + 1] * fx
        below = flat[place + _COLUMNS] * (1 - fx) + flat[place + _COLUMNS + 1] * fx
        return above * (1 - fy) + below * fy
