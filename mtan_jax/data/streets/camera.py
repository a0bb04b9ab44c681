"""The camera of a street scene and the rays through its samples."""

import dataclasses
import functools

import numpy as np
from jaxtyping import Float

Vector = Float[np.ndarray, "3"]


@dataclasses.dataclass(frozen=True, eq=False)
class Camera:
    """A pinhole camera in a world with x to the right, y up and z along the street, in metres.

    The centre of the pixel in row i and column j is (x, y) = (j, i). Samples are half a pixel apart and extend half a
    pixel beyond the first and last centres, in `2 h + 1` rows and `2 w + 1` columns. Pixel centres have odd indices.
    The image is a tent filter of the samples; the maps are the samples with odd indices.

    Attributes:
        size: height and width of the image in pixels.
        eye: position in metres; the ground below the camera is at y = 0.
        rotation: the rows are the unit vectors to the right, up and forward.
        focal: focal length in pixels, equal for both axes.
        centre: principal point (x, y) in pixels.
        baseline: distance to a hypothetical second camera in metres, for formats that store disparity.
    """

    size: tuple[int, int]
    eye: Vector
    rotation: Float[np.ndarray, "3 3"]
    focal: float
    centre: tuple[float, float]
    baseline: float

    @property
    def samples(self) -> tuple[int, int]:
        """Number of rows and columns of samples."""
        return 2 * self.size[0] + 1, 2 * self.size[1] + 1

    @functools.cached_property
    def ray(self) -> Float[np.ndarray, "3 3"]:
        """Columns a, b, c, so that the ray through the sample in row r and column q has the direction a + q b + r c.

        Its forward component is 1, so that the point at depth z is `eye + z (a + q b + r c)`.
        """
        right, up, forward = self.rotation
        x, y = self.centre
        origin = forward - right * (0.5 + x) / self.focal + up * (0.5 + y) / self.focal
        return np.stack([origin, right / (2 * self.focal), -up / (2 * self.focal)], axis=1)

    def project(self, points: Float[np.ndarray, "n 3"]) -> Float[np.ndarray, "n 2"]:
        """Returns sample coordinates (column, row) of points in camera coordinates (right, up, forward > 0)."""
        scaled = points[:, :2] / points[:, 2:] * self.focal
        return 2 * np.stack([scaled[:, 0] + self.centre[0], self.centre[1] - scaled[:, 1]], axis=1) + 1


def random_camera(rng: np.random.Generator, size: tuple[int, int], ahead: float) -> Camera:
    """Draws a car-mounted camera with random height, direction, roll and focal length, independent of `size`.

    Args:
        rng: random generator; the number of draws is fixed.
        size: height and width in pixels.
        ahead: heading of the street at the camera in radians.
    """
    height, width = size
    yaw = ahead + np.radians(rng.uniform(-4, 4))
    pitch = np.radians(rng.uniform(-1.5, 2.5))
    roll = np.radians(np.clip(rng.normal(0, 1.0), -2.5, 2.5))
    forward = np.array([np.sin(yaw) * np.cos(pitch), np.sin(pitch), np.cos(yaw) * np.cos(pitch)])
    level = np.array([np.cos(yaw), 0.0, -np.sin(yaw)])
    above = np.array([-np.sin(yaw) * np.sin(pitch), np.cos(pitch), -np.cos(yaw) * np.sin(pitch)])
    right = np.cos(roll) * level + np.sin(roll) * above
    up = np.cos(roll) * above - np.sin(roll) * level
    eye = np.array([0.0, rng.uniform(1.25, 1.6), 0.0])
    focal = rng.uniform(0.7, 0.95) * width
    centre = (width * rng.uniform(0.48, 0.52) - 0.5, height * rng.uniform(0.46, 0.54) - 0.5)
    return Camera(size, eye, np.stack([right, up, forward]), focal, centre, rng.uniform(0.18, 0.22))
