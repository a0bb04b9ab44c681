"""Pairs of pixels, which TPUs compute with: the same numbers as of single ones."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from mtan_jax import tasks
from mtan_jax.commands.hlo import count_instructions
from mtan_jax.models import ARCHITECTURES, Numerics
from mtan_jax.models.backbones import segnet
from mtan_jax.models.layers import batch_norm
from mtan_jax.models.ops import pixel_pairs, resample
from mtan_jax.models.ops.convolution import convolve

FLOAT64 = Numerics(None, jnp.float64, jnp.float64)


@pytest.fixture(autouse=True)
def double_precision():
    with jax.enable_x64(True):
        yield


@pytest.fixture
def as_on_tpus(monkeypatch):
    """From its call on, images of 8 columns and more are computed with in pairs, on the CPU."""

    def start():
        chosen = []

        def on_tpus(in_pairs, otherwise, *arrays):
            del otherwise
            if in_pairs.__name__ != "_product":  # what TPUs compute without pairs
                chosen.append(in_pairs.__name__)
            return in_pairs(*arrays)

        monkeypatch.setattr(pixel_pairs, "LEAST_WIDTH", 8)
        monkeypatch.setitem(pixel_pairs.suits.__kwdefaults__, "among", range(5, 129))
        monkeypatch.setattr(pixel_pairs, "on_tpus", on_tpus)
        return chosen

    return start


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
def test_kernel_of_pairs(size):
    x, kernel = draw(2, 6, 8, 3), draw(size, size, 3, 4)
    convolution = functools.partial(
        jax.lax.conv_general_dilated, window_strides=(1, 1), dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    wide = pixel_pairs.kernel_of_pairs(kernel)
    rows, columns = size // 2, wide.shape[1] // 2
    found = convolution(pixel_pairs.join(x), wide, padding=((rows, rows), (columns, columns)))
    assert_close(pixel_pairs.split(found), convolution(x, kernel, padding=((rows, rows), (rows, rows))))


OPERATIONS = {
    "convolution": (lambda x, kernel: convolve(x, kernel), ((3, 3, 5, 4),)),
    "product": (lambda x, kernel: convolve(x, kernel), ((1, 1, 5, 4),)),
    "moments": (lambda x: batch_norm.batch_moments(x, None), ()),
    "normalise": (lambda x, *four: batch_norm.normalise(x, four[0], four[1] ** 2, *four[2:], "sigmoid"), ((5,),) * 4),
    "normalise_batch": (
        lambda x, scale, bias: batch_norm.normalise_batch(x, scale, bias, None, "relu")[0],
        ((5,),) * 2,
    ),
    "normalise_batch, pooled": (
        lambda x, scale, bias: batch_norm.normalise_batch(x, scale, bias, None, "relu", True)[0],
        ((5,),) * 2,
    ),
    "max_pool": (lambda x: resample.max_pool(x)[0], ()),
    "upsample": (resample.upsample, ()),
}


@pytest.mark.parametrize("name", OPERATIONS)
def test_operations_and_their_gradients(name, as_on_tpus):
    function, shapes = OPERATIONS[name]
    arguments = [draw(2, 6, 8, 5), *(draw(*shape) for shape in shapes)]

    def both():
        y, pull = jax.vjp(function, *arguments)
        return y, pull(
            jax.tree.map(lambda leaf: jnp.cos(7 * jnp.arange(leaf.size, dtype=leaf.dtype)).reshape(leaf.shape), y)
        )

    expected = both()
    chosen = as_on_tpus()
    assert_close(both(), expected)
    assert chosen  # it did pass in pairs


def test_positions_of_maxima_are_the_same(as_on_tpus):
    x = jnp.round(draw(2, 6, 8, 5))  # with ties
    expected = resample.max_pool(x)
    as_on_tpus()
    for a, b in zip(resample.max_pool(x), expected, strict=True):
        np.testing.assert_array_equal(a, b)


def test_wide_images_alone_are_joined():
    assert pixel_pairs.suits(256, 128)
    assert not pixel_pairs.suits(254, 64)
    assert not pixel_pairs.suits(257, 64)
    assert not pixel_pairs.suits(256, 129)
    assert not pixel_pairs.suits(256, 13)  # classes
    assert pixel_pairs.suits(256, 3, among=pixel_pairs.CONVOLVED)
    assert not pixel_pairs.suits(256, 65, among=pixel_pairs.CONVOLVED)


@pytest.mark.parametrize("train", [True, pytest.param(False, marks=pytest.mark.long)])
def test_a_network_and_its_gradient(train, as_on_tpus):
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
    chosen = as_on_tpus()
    assert_close(gradient(), expected, 1e-9)
    assert len(chosen) > 50
    assert "_by_channel" in chosen


def test_programs_for_cpus_compute_with_single_pixels():
    def program(width):
        def loss(x, kernel, scale, bias):
            y = batch_norm.normalise_batch(convolve(x, kernel), scale, bias, None, "relu")[0]
            return resample.max_pool(y)[0].sum()

        shapes = [(1, 2, width, 4), (3, 3, 4, 4), (4,), (4,)]
        arguments = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
        return jax.jit(jax.grad(loss, argnums=(0, 1, 2, 3))).lower(*arguments).compile()

    # On either side of the width from which TPUs take pairs.
    wide, narrow = program(256), program(254)
    assert count_instructions(wide.as_text()) == count_instructions(narrow.as_text())
    assert wide.cost_analysis()["bytes accessed"] == pytest.approx(narrow.cost_analysis()["bytes accessed"], rel=0.02)
    assert "128,8]" not in wide.as_text()
