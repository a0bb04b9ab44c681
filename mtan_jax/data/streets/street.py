"""The geometry of a street: its course, its profile and its cross-section."""

import dataclasses

import numpy as np
from jaxtyping import Float

from mtan_jax.data.streets.primitives import Frame

FAR = 250.0  # metres; the ground ends there


@dataclasses.dataclass(frozen=True, eq=False)
class Street:
    """A curved street over concave or convex ground, with one side road.

    Attributes:
        heading: slope dx/dz of the street at the camera.
        bend: change of the heading in 1/m.
        profile: change of the ground's slope dy/dz in 1/m; the ground below the camera is level.
        centre: x of the centre of the road at the camera in metres.
        half_road: half the width of the road in metres.
        pavement: width of each pavement in metres.
        setback: distances from the pavement to the house fronts on the left and on the right, in metres.
        kerb: height of the pavement above the road in metres.
        crossing: start and end of the side road along the street in metres.
    """

    heading: float
    bend: float
    profile: float
    centre: float
    half_road: float
    pavement: float
    setback: tuple[float, float]
    kerb: float
    crossing: tuple[float, float]

    def middle(self, z: Float[np.ndarray, "*n"]) -> Float[np.ndarray, "*n"]:
        """Returns the x coordinate of the centre of the road."""
        return self.centre + z * (self.heading + 0.5 * self.bend * z)

    def lateral(self, x: Float[np.ndarray, "*n"], z: Float[np.ndarray, "*n"]) -> Float[np.ndarray, "*n"]:
        """Returns the distance to the right of the centre of the road in metres."""
        slope = self.heading + self.bend * z
        return (x - self.middle(z)) / np.sqrt(1 + slope * slope)

    def road(self, x: Float[np.ndarray, "*n"], z: Float[np.ndarray, "*n"]) -> Float[np.ndarray, "*n"]:
        """Returns the distance in metres to the nearest edge of the street or side road; negative off the road."""
        street = self.half_road - np.abs(self.lateral(x, z))
        side_road = np.minimum(z - self.crossing[0], self.crossing[1] - z)
        return np.maximum(street, side_road)

    def frame(self, lateral: float, z: float, *, raised: bool = True) -> Frame:
        """Returns a frame along the street at a point of the ground.

        Args:
            lateral: metres to the right of the centre of the road.
            z: metres along the street.
            raised: whether the origin is raised to the height of the pavement if the point is off the road.
        """
        slope = self.heading + self.bend * z
        ahead = np.array([slope, 0.0, 1.0]) / np.hypot(slope, 1.0)
        aside = np.array([ahead[2], 0.0, -ahead[0]])
        origin = np.array([float(self.middle(np.asarray(z))), 0.0, z]) + lateral * aside
        off_road = raised and self.road(origin[0], origin[2]) < 0
        origin[1] = 0.5 * self.profile * origin[2] ** 2 + (self.kerb if off_road else 0.0)
        return Frame(origin, ahead, aside)

    def in_crossing(self, z: float, margin: float = 0.0) -> bool:
        return self.crossing[0] - margin < z < self.crossing[1] + margin


def random_street(rng: np.random.Generator) -> Street:
    """Draws a random street, from a narrow lane to a boulevard, straight or curved, level or not."""
    half_road = rng.uniform(3.2, 6.2)
    lane = half_road * rng.uniform(0.3, 0.6) * rng.choice([-1.0, 1.0], p=[0.2, 0.8])
    gardens = rng.random() < 0.55
    setback = rng.uniform(2.0, 6.0, 2) if gardens else rng.uniform(0, 1.5, 2)
    start = rng.uniform(16, 70)
    if rng.random() < 0.6:
        start = 1000.0
    return Street(
        heading=rng.uniform(-0.03, 0.03),
        bend=rng.choice([0.0, 1.0]) * rng.uniform(-0.007, 0.007),
        profile=rng.choice([0.0, 1.0], p=[0.4, 0.6]) * rng.uniform(-4e-4, 8e-4),
        centre=-lane,
        half_road=half_road,
        pavement=rng.uniform(1.4, 4.5),
        setback=(setback[0], setback[1]),
        kerb=rng.uniform(0.06, 0.17),
        crossing=(start, start + rng.uniform(6, 13)),
    )
