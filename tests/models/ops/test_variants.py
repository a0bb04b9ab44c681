"""Every variant of every op computes what the plain definition does: values and gradients, in float64."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from mtan_jax.models import ops
from mtan_jax.models.ops import convolution_variants, elementwise, pooling, reference, resizing

PLATFORMS = ("default", "cpu", "tpu")
SHAPE = (2, 6, 8, 5)  # with at least 8 columns and 5 channels: TPUs compute in pairs


@pytest.fixture(autouse=True)
def double_precision():
    with jax.enable_x64(True):
        yield


def draw(*shapes):
    rng = np.random.default_rng(0)
    return [jnp.asarray(rng.normal(size=shape)) for shape in shapes]


def both(function, arguments):
    """Values, and gradients with respect to all arguments."""
    y, pull = jax.vjp(function, *arguments)
    cotangent = jax.tree.map(lambda leaf: jnp.cos(7 * jnp.arange(leaf.size, dtype=leaf.dtype)).reshape(leaf.shape), y)
    return y, pull(cotangent)


def assert_close(found, expected, tolerance=1e-12):
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance * max(np.abs(b).max(), 1))


ACTIVATIONS = {None: lambda x: x, "relu": nn.relu, "sigmoid": nn.sigmoid}


def normalized(x, mean, variance, scale, bias, activation=None, pool=False):
    y = ACTIVATIONS[activation](reference.normalize(x, mean, variance, scale, bias))
    return reference.max_pool(y)[0] if pool else y


def normalized_batch(x, scale, bias, activation, pool):
    return normalized(x, *reference.batch_moments(x), scale, bias, activation, pool)


# name -> (op, plain definition, shapes of the arguments after the image)
OPS = {
    "conv 3x3": (ops.conv, reference.conv, [(3, 3, 5, 4)]),
    "conv 1x1": (ops.conv, reference.conv, [(1, 1, 5, 4)]),
    "conv 3x3, stride 2": (
        functools.partial(ops.conv, stride=2),
        functools.partial(reference.conv, stride=2),
        [(3, 3, 5, 4)],
    ),
    "conv 3x3, dilation 3": (
        functools.partial(ops.conv, dilation=3),
        functools.partial(reference.conv, dilation=3),
        [(3, 3, 5, 4)],
    ),
    "conv_concatenated": (
        lambda x, y, kernel: ops.conv_concatenated([x, y], kernel),
        lambda x, y, kernel: reference.conv(jnp.concatenate([x, y], -1), kernel),
        [(2, 6, 8, 3), (1, 1, 8, 4)],
    ),
    "max_pool": (lambda x: ops.max_pool(x)[0], lambda x: reference.max_pool(x)[0], []),
    "max_unpool": (
        lambda x: ops.max_unpool(x, (100 * jnp.sin(x)).astype(jnp.int8) % 4),
        lambda x: reference.max_unpool(x, (100 * jnp.sin(x)).astype(jnp.int8) % 4),
        [],
    ),
    "upsample": (ops.upsample, reference.upsample, []),
    "resize": (
        lambda x: ops.resize(x, (9, 13)),
        lambda x: jnp.einsum("bhwc,Hh,Ww->bHWc", x, reference.bilinear_matrix(6, 9), reference.bilinear_matrix(8, 13)),
        [],
    ),
    "add_bias": (ops.add_bias, lambda x, bias: x + bias.reshape(1, 1, 1, -1), [(5,)]),
    "multiply": (ops.multiply, jnp.multiply, [SHAPE]),
    "prediction_layout": (ops.prediction_layout, lambda x: x, []),
    "batch_moments": (lambda x: ops.batch_moments(x, None), reference.batch_moments, []),
    "normalize": (
        lambda x, mean, variance, *affine: ops.normalize(x, mean, variance**2, *affine, "sigmoid"),
        lambda x, mean, variance, *affine: normalized(x, mean, variance**2, *affine, "sigmoid"),
        [(5,)] * 4,
    ),
    "normalize, pooled": (
        lambda x, mean, variance, *affine: ops.normalize(x, mean, variance**2, *affine, None, True),
        lambda x, mean, variance, *affine: normalized(x, mean, variance**2, *affine, None, True),
        [(5,)] * 4,
    ),
    "normalize_batch": (
        lambda x, scale, bias: ops.normalize_batch(x, scale, bias, None, "relu")[0],
        lambda x, scale, bias: normalized_batch(x, scale, bias, "relu", False),
        [(5,)] * 2,
    ),
    "normalize_batch, pooled": (
        lambda x, scale, bias: ops.normalize_batch(x, scale, bias, None, "sigmoid", True)[0],
        lambda x, scale, bias: normalized_batch(x, scale, bias, "sigmoid", True),
        [(5,)] * 2,
    ),
}


@pytest.mark.parametrize("platform", PLATFORMS)
@pytest.mark.parametrize("name", OPS)
def test_op_on_each_platform(name, platform, as_on):
    op, definition, shapes = OPS[name]
    arguments = draw(SHAPE, *shapes)
    expected = both(definition, arguments)
    as_on(platform)
    assert_close(both(op, arguments), expected)


# The variants by themselves, whichever platform they are for.
VARIANTS = {
    "flat_product": (convolution_variants.flat_product, reference.conv, [(1, 1, 5, 4)]),
    "einsum_product": (convolution_variants.einsum_product, reference.conv, [(1, 1, 5, 4)]),
    "paired 1x1": (convolution_variants.paired, reference.conv, [(1, 1, 5, 4)]),
    "paired 3x3": (convolution_variants.paired, reference.conv, [(3, 3, 5, 4)]),
    "by_taps": (
        functools.partial(convolution_variants.by_taps, dilation=2),
        functools.partial(reference.conv, dilation=2),
        [(3, 3, 5, 4)],
    ),
    "pooled_by_slices": (lambda x: pooling.pooled_by_slices(x)[0], lambda x: reference.max_pool(x)[0], []),
    "pooled_in_pairs": (lambda x: pooling.pooled_in_pairs(x)[0], lambda x: reference.max_pool(x)[0], []),
    "doubled_by_slices": (resizing.doubled_by_slices, reference.upsample, []),
    "doubled_by_products": (resizing.doubled_by_products, reference.upsample, []),
    "doubled_in_pairs": (resizing.doubled_in_pairs, reference.upsample, []),
    "stored_channels_first": (elementwise.stored_channels_first, lambda x: x, []),
}


@pytest.mark.parametrize("name", VARIANTS)
def test_variant(name):
    variant, definition, shapes = VARIANTS[name]
    arguments = draw(SHAPE, *shapes)
    assert_close(both(variant, arguments), both(definition, arguments))


def test_kernel_gradient_3x3():
    x, cotangent = draw((2, 9, 8, 16), (2, 9, 8, 32))
    (expected,) = jax.vjp(lambda kernel: reference.conv(x, kernel), jnp.zeros((3, 3, 16, 32)))[1](cotangent)
    assert_close(convolution_variants.kernel_gradient_3x3(x, cotangent), expected)


@pytest.mark.parametrize("platform", PLATFORMS)
def test_positions_of_maxima_where_pixels_are_equal(platform, as_on):
    x = jnp.round(*draw(SHAPE))
    expected = reference.max_pool(x)
    as_on(platform)
    for a, b in zip(ops.max_pool(x), expected, strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)


def test_tpus_use_their_variants(as_on):
    ran = as_on("tpu")
    x, kernel, small = draw(SHAPE, (3, 3, 5, 4), (1, 1, 5, 4))
    ops.conv(x, kernel)
    ops.conv(x, small)
    ops.conv(x[:, :, :7], small)
    ops.max_pool(x)
    ops.upsample(x)
    ops.upsample(x[:, :, :3])
    assert ran == [
        "paired",
        "paired",
        "einsum_product",
        "pooled_in_pairs",
        "doubled_in_pairs",
        "doubled_by_products",
    ]
