"""Best constant predictions for the constant baseline.

Each function takes the labelled target pixels of a split and returns the prediction of one pixel.
"""

import numpy as np
from jaxtyping import Float, Float32, Int

MAX_POINTS = 100_000


def majority_class(values: Int[np.ndarray, "n"], num_classes: int) -> Float32[np.ndarray, "c"]:
    """Log-probabilities of the most frequent class.

    It has the highest pixel accuracy and the highest mean IoU of all constant classes: predicting class k everywhere
    gives class k an IoU equal to its frequency and the other classes 0.
    """
    winner = np.bincount(values, minlength=num_classes).argmax()
    return np.where(np.arange(num_classes) == winner, 0, -np.inf).astype(np.float32)


def median_value(values: Float[np.ndarray, "n c"]) -> Float32[np.ndarray, "c"]:
    """Median per channel, which minimizes the mean absolute error."""
    return np.median(values, axis=0).astype(np.float32)


def median_direction(values: Float[np.ndarray, "n 3"]) -> Float32[np.ndarray, "3"]:
    """Direction with the smallest mean angle to the given directions.

    The mean angle can have several local minima on the sphere (walls, floor). The search evaluates 1,000 evenly spread
    directions, the mean and the most frequent direction, then descends from the best one with steps that shrink to
    0.001 degrees. Above 100,000 pixels, it uses every third, fifth, ... pixel.
    """
    points = _thin(values, MAX_POINTS).astype(np.float64)
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    rounded, counts = np.unique(points.round(3), axis=0, return_counts=True)
    mode = points[np.abs(points - rounded[counts.argmax()]).sum(axis=1).argmin()]
    mean = points.mean(axis=0)
    candidates = np.concatenate([_spiral(1_000), mode[None], mean[None] / max(np.linalg.norm(mean), 1e-12)])
    # A few thousand pixels distinguish directions 5 degrees apart. The mode is often the minimum, as on a flat road.
    best = candidates[_mean_angles(candidates, _thin(points, 4_000)).argmin()]

    lowest = _mean_angles(best[None], points)[0]
    step = np.radians(5)
    while step > np.radians(0.001):
        ring = _ring(best, step)
        angles = _mean_angles(ring, points)
        if angles.min() < lowest:
            best, lowest = ring[angles.argmin()], angles.min()
        else:
            step /= 2
    return best.astype(np.float32)


def _thin(values: Float[np.ndarray, "n 3"], count: int) -> Float[np.ndarray, "m 3"]:
    """At most `count` values with an odd stride; an even one would only select some columns of the images."""
    return values[:: -(-len(values) // count) | 1]


def _mean_angles(directions: Float[np.ndarray, "k 3"], points: Float[np.ndarray, "n 3"]) -> Float[np.ndarray, "k"]:
    """Mean angle in radians between each direction and the points."""
    return np.array([np.arccos(np.clip(points @ direction, -1, 1)).mean() for direction in directions])


def _spiral(count: int) -> Float[np.ndarray, "count 3"]:
    """Directions spread evenly over the sphere, on a Fibonacci spiral."""
    position = np.arange(count) + 0.5
    z = 1 - 2 * position / count
    longitude = np.pi * (1 + np.sqrt(5)) * position
    radius = np.sqrt(1 - z**2)
    return np.stack([radius * np.cos(longitude), radius * np.sin(longitude), z], axis=1)


def _ring(centre: Float[np.ndarray, "3"], radius: float) -> Float[np.ndarray, "8 3"]:
    """Eight directions at an angle of `radius` radians to the centre."""
    first = np.cross(centre, np.eye(3)[np.abs(centre).argmin()])
    first /= np.linalg.norm(first)
    second = np.cross(centre, first)
    turn = np.arange(8)[:, None] * np.pi / 4
    ring = np.cos(radius) * centre + np.sin(radius) * (np.cos(turn) * first + np.sin(turn) * second)
    return ring / np.linalg.norm(ring, axis=1, keepdims=True)
