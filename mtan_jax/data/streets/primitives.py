"""Geometric primitives: planar convex polygons and quadrics."""

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
    """The appearance of a primitive.

    Attributes:
        category: index of the semantic class, -1 for void.
        texture: reflectance as a function of the surface coordinates in metres.
        sunlit: fraction of the sunlight that arrives, constant or as a function of the surface coordinates.
        keep: whether the surface exists, as a function of the surface coordinates; None is everywhere.
    """

    category: int
    texture: Texture
    sunlit: float | Callable[[Values, Values], Values] = 1.0
    keep: Keep | None = None


@dataclasses.dataclass(frozen=True, eq=False)
class Polygon:
    """A planar convex polygon. The origin of its surface coordinates is the first vertex; u is along the first edge.

    Attributes:
        vertices: at least 3, in order around the polygon; the first three are not collinear.
        surface: appearance.
        inside: a point behind the polygon, which is then only visible from the other side; None shows both sides.
        shadow: whether it casts a shadow.
    """

    vertices: Points
    surface: Surface
    inside: Float[np.ndarray, "3"] | None = None
    shadow: bool = False


@dataclasses.dataclass(frozen=True, eq=False)
class Quadric:
    """An ellipsoid, or a tube without end caps.

    Attributes:
        centre: in metres.
        axes: the columns are the semi-axes; the third is the axis of a tube.
        surface: appearance; its coordinates are a horizontal one and the height above the centre.
        tube: whether it is a tube.
        shadow: whether it casts a shadow.
    """

    centre: Float[np.ndarray, "3"]
    axes: Float[np.ndarray, "3 3"]
    surface: Surface
    tube: bool = False
    shadow: bool = False


Primitive = Polygon | Quadric


@dataclasses.dataclass(frozen=True, eq=False)
class Frame:
    """A local coordinate frame on the ground, with unit vectors `ahead`, `aside` (to the right) and up."""

    origin: Float[np.ndarray, "3"]
    ahead: Float[np.ndarray, "3"]
    aside: Float[np.ndarray, "3"]

    def __call__(self, points: Sequence[Sequence[float]]) -> Points:
        """Converts points (aside, up, ahead) to world coordinates."""
        return np.asarray(points, float) @ self._basis + self.origin

    @functools.cached_property
    def _basis(self) -> Float[np.ndarray, "3 3"]:
        return np.array([self.aside, (0.0, 1.0, 0.0), self.ahead])

    def moved(self, aside: float, up: float, ahead: float, turn: float = 0.0) -> "Frame":
        """Returns the frame moved to a local position and turned by `turn` radians to the right."""
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
    """Builds the four walls and the top of an upright box.

    Args:
        frame: frame at the centre of the base.
        size: extents aside, up and ahead in metres.
        surface: appearance of the walls.
        top: appearance of the top; None is that of the walls.
        shadow: whether it casts a shadow.
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
    """Builds an ellipsoid aligned with `frame`; `centre` and the semi-axes `half` are (aside, up, ahead)."""
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
    """Builds a tube between two points (aside, up, ahead), or an ellipsoid that extends beyond both."""
    start, end = frame(ends)
    axis = (end - start) / 2
    unit = axis / np.linalg.norm(axis)
    other = np.array([1.0, 0.0, 0.0]) if abs(unit[0]) < 0.8 else np.array([0.0, 0.0, 1.0])
    first = other - unit * (other @ unit)
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
