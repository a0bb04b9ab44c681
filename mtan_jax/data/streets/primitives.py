"""What scenes are made of: flat convex polygons and round bodies."""

import dataclasses
import functools
from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Bool, Float

from mtan_jax.data.streets.textures import Texture, Values

VOID, FLAT, CONSTRUCTION, OBJECT, NATURE, SKY, HUMAN, VEHICLE = range(-1, 7)

Points = Float[np.ndarray, "n 3"]
Keep = Callable[[Values, Values], Bool[np.ndarray, "n"]]


@dataclasses.dataclass(frozen=True, eq=False)
class Surface:
    """How a primitive looks.

    Attributes:
        category: position of the semantic class, -1 where void.
        texture: reflectance over the surface coordinates in metres.
        sunlit: share of the sunlight that arrives, or a function of the surface coordinates.
        keep: where the surface exists at all, by its surface coordinates; None is everywhere.
    """

    category: int
    texture: Texture
    sunlit: float | Callable[[Values, Values], Values] = 1.0
    keep: Keep | None = None


@dataclasses.dataclass(frozen=True, eq=False)
class Polygon:
    """A flat convex polygon. The surface coordinates start at its first vertex, u along its first edge.

    Attributes:
        vertices: at least 3, in order around the polygon, the first three not on a line.
        surface: see `Surface`.
        inside: a point behind the polygon, which is then seen from the other side only; None shows both sides.
        shadow: whether it throws a shadow.
    """

    vertices: Points
    surface: Surface
    inside: Float[np.ndarray, "3"] | None = None
    shadow: bool = False


@dataclasses.dataclass(frozen=True, eq=False)
class Quadric:
    """An ellipsoid, or a tube without ends.

    Attributes:
        centre: in metres.
        axes: columns are the half axes; the third is the axis of a tube.
        surface: see `Surface`; its coordinates are a horizontal one and the height above the centre.
        tube: whether it is a tube.
        shadow: whether it throws a shadow.
    """

    centre: Float[np.ndarray, "3"]
    axes: Float[np.ndarray, "3 3"]
    surface: Surface
    tube: bool = False
    shadow: bool = False


Primitive = Polygon | Quadric


@dataclasses.dataclass(frozen=True, eq=False)
class Frame:
    """Local axes of an object on the ground: `ahead`, `aside` (to its right) and up, as unit vectors."""

    origin: Float[np.ndarray, "3"]
    ahead: Float[np.ndarray, "3"]
    aside: Float[np.ndarray, "3"]

    def __call__(self, points: Sequence[Sequence[float]]) -> Points:
        """World coordinates of points (aside, up, ahead)."""
        return np.asarray(points, float) @ self._basis + self.origin

    @functools.cached_property
    def _basis(self) -> Float[np.ndarray, "3 3"]:
        return np.array([self.aside, (0.0, 1.0, 0.0), self.ahead])

    def moved(self, aside: float, up: float, ahead: float, turn: float = 0.0) -> "Frame":
        """The frame at another place, turned by `turn` radians to the right."""
        cos, sin = np.cos(turn), np.sin(turn)
        return Frame(
            self([(aside, up, ahead)])[0],
            cos * self.ahead + sin * self.aside,
            cos * self.aside - sin * self.ahead,
        )


def box(
    frame: Frame,
    size: tuple[float, float, float],
    surface: Surface,
    top: Surface | None = None,
    *,
    shadow: bool = False,
) -> list[Polygon]:
    """An upright box on the origin of `frame`: its four walls and its top.

    Args:
        frame: at the middle of the bottom.
        size: extents aside, up and ahead in metres.
        surface: of the walls.
        top: of the top; None is as the walls.
        shadow: whether it throws a shadow.
    """
    x, y, z = size[0] / 2, size[1], size[2] / 2
    low = [(-x, 0.0, -z), (x, 0.0, -z), (x, 0.0, z), (-x, 0.0, z)]
    high = [(a, y, c) for a, _, c in low]
    inside = frame([(0, y / 2, 0)])[0]
    walls = [frame([low[i], low[i - 3], high[i - 3], high[i]]) for i in range(4)]
    faces = [Polygon(wall, surface, inside, shadow) for wall in walls]
    return [*faces, Polygon(frame(high), top or surface, inside, shadow)]


def ellipsoid(
    frame: Frame, centre: Sequence[float], half: Sequence[float], surface: Surface, *, shadow: bool = False
) -> Quadric:
    """An ellipsoid with its axes along those of `frame`; `centre` and `half` axes as (aside, up, ahead)."""
    axes = np.array([frame.aside * half[0], (0.0, half[1], 0.0), frame.ahead * half[2]]).T
    return Quadric(frame([centre])[0], axes, surface, shadow=shadow)


def limb(
    frame: Frame,
    ends: Sequence[Sequence[float]],
    radius: float,
    surface: Surface,
    *,
    tube: bool = False,
    shadow: bool = False,
) -> Quadric:
    """A long round body between two points (aside, up, ahead): a tube, or an ellipsoid that reaches past both ends."""
    start, end = frame(ends)
    axis = (end - start) / 2
    unit = axis / np.linalg.norm(axis)
    helper = np.array([1.0, 0.0, 0.0]) if abs(unit[0]) < 0.8 else np.array([0.0, 0.0, 1.0])
    first = helper - unit * (helper @ unit)
    first /= np.linalg.norm(first)
    second = np.array(
        [
            unit[1] * first[2] - unit[2] * first[1],
            unit[2] * first[0] - unit[0] * first[2],
            unit[0] * first[1] - unit[1] * first[0],
        ]
    )
    axes = np.array([radius * first, radius * second, axis if tube else 1.1 * axis]).T
    return Quadric((start + end) / 2, axes, surface, tube=tube, shadow=shadow)
