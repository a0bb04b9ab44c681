"""Pairs of pixels: how they are joined, which images are, a whole network in pairs, and that CPUs use none."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from mtan_jax import tasks
from mtan_jax.commands.hlo import count_instructions
from mtan_jax.models import ARCHITECTURES, Numerics, ops
from mtan_jax.models.backbones import segnet
from mtan_jax.models.ops import pixel_pairs

FLOAT64 = Numerics(None, jnp.float64, jnp.float64)


@pytest.fixture(autouse=True)
def double_precision():
    with jax.enable_x64(True):
        yield


def draw(*shape):
    return jnp.asarray(np.random.default_rng(0).normal(size=shape))


def assert_close(found, expected, tolerance=1e-12):
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance * max(np.abs(b).max(), 1))


def test_joined_pixels_keep_their_order():
    x = jnp.arange(24).reshape(1, 2, 4, 3)
    np.testing.assert_array_equal(pixel_pairs.join(x)[0, 0, 1], [6, 7, 8, 9, 10, 11])
    np.testing.assert_array_equal(pixel_pairs.split(pixel_pairs.join(x)), x)


@pytest.mark.parametrize("size", [1, 3, 5, 7])
def test_pair_kernel(size):
    x, kernel = draw(2, 6, 8, 3), draw(size, size, 3, 4)
    convolution = functools.partial(
        jax.lax.conv_general_dilated, window_strides=(1, 1), dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    wide = pixel_pairs.pair_kernel(kernel)
    rows, columns = size // 2, wide.shape[1] // 2
    found = convolution(pixel_pairs.join(x), wide, padding=((rows, rows), (columns, columns)))
    assert_close(pixel_pairs.split(found), convolution(x, kernel, padding=((rows, rows), (rows, rows))))


def test_wide_images_alone_are_joined():
    assert pixel_pairs.applies(256, 128)
    assert not pixel_pairs.applies(254, 64)
    assert not pixel_pairs.applies(257, 64)
    assert not pixel_pairs.applies(256, 129)
    assert not pixel_pairs.applies(256, 13)  # classes
    assert pixel_pairs.applies(256, 3, among=pixel_pairs.CONV_CHANNELS)
    assert not pixel_pairs.applies(256, 65, among=pixel_pairs.CONV_CHANNELS)


@pytest.mark.parametrize("train", [True, pytest.param(False, marks=pytest.mark.long)])
def test_a_network_and_its_gradient(train, as_on):
    task_list = (tasks.semantic(3), tasks.depth())
    model: nn.Module = ARCHITECTURES["mtan"](segnet.segnet(widths=(8, 16), numerics=FLOAT64), task_list)
    image = draw(2, 8, 16, 3)
    variables = model.init(jax.random.key(0), image, train=False)

    def loss(params, image):
        state = {"params": params, "batch_stats": variables["batch_stats"]}
        predictions, new = model.apply(state, image, train=train, mutable=["batch_stats"])
        return sum(jnp.sin(3 * y).sum() for y in predictions.values()), (predictions, new)

    def gradient():
        def traced_anew(params, image):
            return loss(params, image)

        return jax.jit(jax.grad(traced_anew, argnums=(0, 1), has_aux=True))(variables["params"], image)

    expected = gradient()
    ran = as_on("tpu")
    assert_close(gradient(), expected, 1e-9)
    assert ran.count("paired") > 50
    assert "stored_channels_first" in ran


def test_programs_for_cpus_compute_with_single_pixels():
    def program(width):
        def loss(x, kernel, scale, bias):
            y = ops.normalize_batch(ops.conv(x, kernel), scale, bias, None, "relu")[0]
            return ops.max_pool(y)[0].sum()

        shapes = [(1, 2, width, 4), (3, 3, 4, 4), (4,), (4,)]
        arguments = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
        return jax.jit(jax.grad(loss, argnums=(0, 1, 2, 3))).lower(*arguments).compile()

    # On either side of the width from which TPUs take pairs.
    wide, narrow = program(256), program(254)
    assert count_instructions(wide.as_text()) == count_instructions(narrow.as_text())
    assert wide.cost_analysis()["bytes accessed"] == pytest.approx(narrow.cost_analysis()["bytes accessed"], rel=0.02)
    assert "128,8]" not in wide.as_text()
