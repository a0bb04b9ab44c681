"""Compares the rasterizer with slow ray casting, one ray at a time."""

import numpy as np
import pytest

from mtan_jax.data.streets.camera import Camera, random_camera
from mtan_jax.data.streets.canvas import Canvas
from mtan_jax.data.streets.culling import drawing_order
from mtan_jax.data.streets.light import random_light
from mtan_jax.data.streets.primitives import VEHICLE, Frame, Polygon, Quadric, Surface, box, limb
from mtan_jax.data.streets.scene import random_scene
from mtan_jax.data.streets.shadows import ShadowMap
from mtan_jax.data.streets.street import random_street
from mtan_jax.data.streets.textures import rough

GREY = Surface(VEHICLE, rough(np.full(3, 0.5)))
SIZE = (24, 48)


def _canvas(seed: int) -> Canvas:
    rng = np.random.default_rng(seed)
    return Canvas(random_camera(rng, SIZE, 0.1), random_light(rng))


def _rays(camera: Camera) -> np.ndarray:
    """Ray directions through all samples by the definition of a pinhole camera, with forward component 1."""
    y, x = np.mgrid[0 : 2 * SIZE[0] + 1, 0 : 2 * SIZE[1] + 1]
    x, y = (x - 1) / 2 - camera.centre[0], (y - 1) / 2 - camera.centre[1]
    local = np.stack([x / camera.focal, -y / camera.focal, np.ones_like(x)], -1)
    return (local @ camera.rotation).reshape(-1, 3)


def _triangle_depth(eye: np.ndarray, ray: np.ndarray, triangle: np.ndarray) -> float:
    """Möller-Trumbore ray-triangle intersection; infinite if there is none."""
    first, second = triangle[1] - triangle[0], triangle[2] - triangle[0]
    matrix = np.stack([-ray, first, second], 1)
    if abs(np.linalg.det(matrix)) < 1e-12:
        return np.inf
    depth, a, b = np.linalg.solve(matrix, eye - triangle[0])
    return depth if depth > 0 and a >= 0 and b >= 0 and a + b <= 1 else np.inf


def test_the_camera_axes_are_orthonormal_and_upright():
    for seed in range(5):
        camera = random_camera(np.random.default_rng(seed), SIZE, 0.3)
        np.testing.assert_allclose(camera.rotation @ camera.rotation.T, np.eye(3), atol=1e-12)
        assert camera.rotation[1, 1] > 0.9  # up is up
        assert camera.rotation[2, 2] > 0.8  # forward is along the street


def test_polygons_equal_ray_casting():
    canvas = _canvas(1)
    rng = np.random.default_rng(2)
    expected = np.zeros(canvas.inverse_depth.size)
    rays = _rays(canvas.camera)
    for _ in range(4):
        ring = np.sort(rng.uniform(0, 2 * np.pi, 5))
        centre, axes = np.array([rng.uniform(-2, 2), 1.5, rng.uniform(4, 9)]), rng.normal(size=(2, 3))
        vertices = centre + np.cos(ring)[:, None] * axes[0] + np.sin(ring)[:, None] * axes[1]
        canvas.draw(Polygon(vertices, GREY))
        for i, ray in enumerate(rays):
            depth = min(_triangle_depth(canvas.camera.eye, ray, vertices[[0, k, k + 1]]) for k in range(1, 4))
            expected[i] = max(expected[i], 1 / depth)
    assert (expected > 0).mean() > 0.05
    near = np.abs(canvas.inverse_depth - expected) < 1e-5
    assert near.mean() > 0.999  # float32 rounding can differ at edges


def test_a_polygon_that_extends_behind_the_camera_is_clipped():
    canvas = _canvas(3)
    ground = np.array([(-50.0, 0, -50), (50, 0, -50), (50, 0, 90), (-50, 0, 90)])
    canvas.draw(Polygon(ground, GREY))
    rays, eye = _rays(canvas.camera), canvas.camera.eye
    height_per_metre = np.minimum(rays[:, 1], -1e-9)
    depth = -eye[1] / height_per_metre
    points = np.abs(eye + depth[:, None] * rays)
    there = (rays[:, 1] < 0) & (points[:, 0] < 49) & (points[:, 2] < 89)
    np.testing.assert_allclose(canvas.inverse_depth[there], 1 / depth[there], rtol=1e-4)
    assert there.mean() > 0.3


@pytest.mark.parametrize("tube", [False, True])
def test_quadrics_satisfy_their_equation(tube):
    canvas = _canvas(4)
    centre = np.array([0.4, 1.6, 6.0])
    axes = np.linalg.qr(np.random.default_rng(5).normal(size=(3, 3)))[0] * [0.8, 0.8 if tube else 0.5, 1.3]
    canvas.draw(Quadric(centre, axes, GREY, tube=tube))
    drawn = canvas.inverse_depth > 0
    points = canvas.camera.eye + _rays(canvas.camera)[drawn] / canvas.inverse_depth[drawn, None]
    unit = (points - centre) @ np.linalg.inv(axes).T
    used = unit[:, :2] if tube else unit
    assert drawn.sum() > 100
    np.testing.assert_allclose((used**2).sum(1), 1, atol=1e-4)
    assert np.abs(unit[:, 2]).max() < 1.0001
    if tube:
        unit[:, 2] = 0
    gradient = unit @ np.linalg.inv(axes)
    gradient /= np.linalg.norm(gradient, axis=1, keepdims=True)
    np.testing.assert_allclose(canvas.normal[:, drawn].T, gradient, atol=1e-4)
    assert ((gradient * _rays(canvas.camera)[drawn]).sum(1) < 1e-3).all()  # the near side


def test_a_limb_reaches_both_ends():
    frame = Frame(np.zeros(3), np.array([0.0, 0, 1]), np.array([1.0, 0, 0]))
    body = limb(frame, [(0, 0, 5), (0.3, 1.2, 5.2)], 0.1, GREY, tube=True)
    np.testing.assert_allclose(body.centre + body.axes[:, 2], (0.3, 1.2, 5.2))
    np.testing.assert_allclose(body.axes[:, :2].T @ body.axes, [[0.01, 0, 0], [0, 0.01, 0]], atol=1e-12)


def test_drawing_order_and_culling_do_not_change_the_result():
    scene = random_scene(np.random.default_rng(6), SIZE)
    kept = drawing_order(scene.primitives, scene.camera, 0.5)
    assert 0 < len(kept) < 0.9 * len(scene.primitives)
    culled, backwards = Canvas(scene.camera, scene.light), Canvas(scene.camera, scene.light)
    for i in kept:
        culled.draw(scene.primitives[i])
    for primitive in scene.primitives[::-1]:
        backwards.draw(primitive)
    # Only single samples on the far side of thin or sunken bodies can differ.
    assert (np.abs(culled.inverse_depth - backwards.inverse_depth) < 1e-6).mean() > 0.998
    assert (culled.category == backwards.category).mean() > 0.998


def test_the_shadow_of_a_box_is_as_long_as_its_height_with_the_sun_at_45_degrees():
    street = random_street(np.random.default_rng(7))
    shadows = ShadowMap(street, np.array([-1.0, 1, 0]) / np.sqrt(2))
    frame = Frame(np.array([0.0, 0.5 * street.profile * 100, 10]), np.array([0.0, 0, 1]), np.array([1.0, 0, 0]))
    for side in box(frame, (2.0, 3.0, 2.0), GREY):
        shadows.add(side)
    x = np.array([-1.5, -0.5, 1.5, 3.5, 4.5])
    np.testing.assert_allclose(shadows.at(x, np.full(5, 10.0)), [1, 0, 0, 0, 1], atol=0.05)
    np.testing.assert_allclose(shadows.at(x, np.full(5, 12.0)), 1, atol=0.05)
