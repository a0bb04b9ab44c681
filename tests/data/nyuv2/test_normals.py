"""Normals of planes, of the corner of a room, and of noisy and incomplete depth maps."""

import numpy as np
import pytest
from scipy import ndimage

from mtan_jax.data.nyuv2.normals import NYUV2_CAMERA, Camera, normals_from_depth

# Planes a x + b y + c z = d in metres (camera axes x right, y down, z forward); with d > 0 the camera is inside.
WALL = ((0, 0, 1), 3.0)
FLOOR = ((0, 1, 0), 1.4)
CORNER = [((0, 1, 0.1), 1.4), ((0.1, -0.1, 1), 3.5), ((1, 0, 0.2), 1.5)]


def cast(planes, camera=NYUV2_CAMERA, size=(480, 640)):
    """Returns the depth of the nearest plane on each ray and its normal (x right, y forward, z up)."""
    rows, columns = np.mgrid[: size[0], : size[1]]
    rays = np.stack([(columns - camera.cx) / camera.fx, (rows - camera.cy) / camera.fy, np.ones(size)], -1)
    units = np.array([np.array(normal) / np.linalg.norm(normal) for normal, _ in planes])
    distances = np.array([d / np.linalg.norm(normal) for normal, d in planes])
    with np.errstate(divide="ignore"):
        depths = np.where(rays @ units.T > 0, distances / (rays @ units.T), np.inf)
    right, down, forward = -np.moveaxis(units[depths.argmin(-1)], -1, 0)
    depth = depths.min(-1)
    return np.where(np.isfinite(depth), depth, 0).astype(np.float32), np.stack([right, forward, -down], -1)


def degrees(a, b):
    return np.degrees(2 * np.arcsin(np.clip(np.linalg.norm(a - b, axis=-1) / 2, 0, 1)))


def test_axes_of_normals():
    depth, _ = cast([WALL])
    np.testing.assert_allclose(normals_from_depth(depth, NYUV2_CAMERA)[240, 320], (0, -1, 0), atol=1e-4)
    depth, _ = cast([FLOOR])
    np.testing.assert_allclose(normals_from_depth(depth, NYUV2_CAMERA)[450, 320], (0, 0, 1), atol=1e-3)
    depth, _ = cast([((1, 0, 0.2), 2.0)])  # a wall to the right faces left
    assert normals_from_depth(depth, NYUV2_CAMERA)[240, 600, 0] < -0.95


@pytest.mark.parametrize("seed", range(4))
def test_plane_is_exact(seed):
    rng = np.random.default_rng(seed)
    camera = Camera(fx=300.0, fy=310.0, cx=90.0, cy=50.0)
    depth, expected = cast([((*rng.uniform(-1, 1, 2), 1), rng.uniform(1, 5))], camera, (120, 160))
    error = degrees(normals_from_depth(depth, camera), expected)[depth > 0]
    assert error.max() < 0.1


def test_corner_of_a_room_stays_sharp():
    depth, expected = cast(CORNER)
    error = degrees(normals_from_depth(depth, NYUV2_CAMERA), expected)
    assert np.median(error) < 0.02
    assert (error > 5).mean() < 0.01
    # Errors are at the creases; they are small more than 8 pixels away from them.
    spread = [
        ndimage.maximum_filter(expected[..., i], 17) - ndimage.minimum_filter(expected[..., i], 17) for i in range(3)
    ]
    inner = np.max(spread, axis=0) == 0
    assert inner.mean() > 0.9
    assert error[inner].max() < 4


def test_corner_as_the_sensor_sees_it():
    depth, expected = cast(CORNER)
    readings = 8 * 580 * 0.075 / depth + np.random.default_rng(0).normal(0, 0.5, depth.shape)
    noisy = (8 * 580 * 0.075 / np.round(readings)).astype(np.float32)
    error = degrees(normals_from_depth(noisy, NYUV2_CAMERA), expected)
    assert np.median(error) < 0.3
    assert (error > 11.25).mean() < 0.03


def test_holes_are_undefined_and_do_not_spread():
    depth, expected = cast([((0.2, 0.3, 1), 2.5)])
    holes = np.random.default_rng(0).random(depth.shape) < 0.3
    holes[100:300, 200:400] = True
    depth[holes] = 0
    normal = normals_from_depth(depth, NYUV2_CAMERA)
    assert (normal[holes] == 0).all()
    assert degrees(normal, expected)[~holes].max() < 0.1


def test_depth_without_defined_pixels_gives_no_normals():
    assert (normals_from_depth(np.zeros((48, 64), np.float32), NYUV2_CAMERA) == 0).all()
