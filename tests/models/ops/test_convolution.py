"""Gradients of convolutions, by products, by taps and whole, against those that JAX derives itself."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from mtan_jax.models.ops import conv

# images, kernel, stride, dilation; whether the gradient of the kernel is a product on CPUs
CASES = [
    ((2, 9, 8, 32), (3, 3, 32, 40), 1, 1, True),  # both images in one piece
    ((9, 25, 24, 16), (3, 3, 16, 32), 1, 1, True),  # three pieces of three images
    ((5, 25, 24, 16), (3, 3, 16, 32), 1, 1, True),  # an image each
    ((3, 75, 64, 33), (3, 3, 33, 32), 1, 1, True),  # three pieces an image
    ((2, 65, 64, 32), (3, 3, 32, 16), 1, 1, True),  # three, the last with a row less
    ((2, 3, 2100, 16), (3, 3, 16, 32), 1, 1, True),  # a row each
    ((2, 9, 8, 32), (3, 3, 32, 15), 1, 1, False),  # few channels
    ((2, 9, 8, 16), (3, 3, 16, 16), 1, 1, False),
    ((2, 32, 32, 32), (3, 3, 32, 32), 2, 1, False),
    ((2, 9, 8, 4), (7, 7, 4, 5), 2, 1, False),
    ((2, 9, 8, 4), (1, 1, 4, 5), 2, 1, False),
]
OTHERS = [
    ((2, 9, 8, 4), (1, 1, 4, 5), 1, 1),
    ((2, 33, 32, 32), (3, 3, 32, 32), 1, 2),
    ((2, 33, 32, 32), (3, 3, 32, 32), 2, 2),
    ((2, 9, 10, 4), (5, 5, 4, 6), 1, 3),
    ((2, 9, 10, 4), (3, 3, 4, 6), 1, 9),  # no row but the middle one sees the image
    ((2, 9, 10, 4), (3, 3, 4, 6), 1, 12),  # no tap but the middle one does
    ((2, 9, 10, 4), (2, 2, 4, 6), 1, 3),  # of even size: padded by more than it takes
]


def plain(x, kernel, stride, dilation):
    side = dilation * (kernel.shape[0] // 2)
    return lax.conv_general_dilated(
        *(x, kernel, (stride, stride), ((side, side),) * 2),
        rhs_dilation=(dilation, dilation),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )


def assert_close(found, expected):
    np.testing.assert_allclose(found, expected, atol=1e-11 * np.abs(expected).max())


@pytest.mark.parametrize(("images", "kernel", "stride", "dilation"), [case[:4] for case in CASES] + OTHERS)
def test_convolution_and_its_gradients(images, kernel, stride, dilation):
    rng = np.random.default_rng(0)
    with jax.enable_x64(True):
        arguments = jnp.asarray(rng.normal(size=images)), jnp.asarray(rng.normal(size=kernel))
        expected, pull_expected = jax.vjp(lambda x, k: plain(x, k, stride, dilation), *arguments)
        found, pull = jax.vjp(lambda x, k: conv(x, k, stride=stride, dilation=dilation), *arguments)
        assert_close(found, expected)
        cotangents = jnp.asarray(rng.normal(size=(2, *expected.shape)))
        both = jax.jit(jax.vmap(pull))(cotangents)  # as the gradients of two tasks
        for i, cotangent in enumerate(cotangents):
            for one, all_of_them, wanted in zip(jax.jit(pull)(cotangent), both, pull_expected(cotangent), strict=True):
                assert_close(one, wanted)
                assert_close(all_of_them[i], wanted)


def lowered(function, *arguments):
    """Of a function that is compiled for CPUs and for TPUs: how many convolutions and products it has."""
    traced = jax.jit(function).trace(*arguments)
    texts = [traced.lower(lowering_platforms=(name,)).as_text() for name in ("cpu", "tpu")]
    return [(text.count("stablehlo.convolution"), text.count("stablehlo.dot_general")) for text in texts]


@pytest.mark.parametrize(("images", "kernel", "stride", "dilation", "is_product"), CASES)
def test_gradients_of_kernels_are_products_on_cpus_alone(images, kernel, stride, dilation, is_product):
    def gradient(x, kernel):
        return jax.grad(lambda kernel: conv(x, kernel, stride=stride, dilation=dilation).sum())(kernel)

    arguments = (jax.ShapeDtypeStruct(shape, jnp.float32) for shape in (images, kernel))
    cpu, tpu = lowered(gradient, *arguments)
    assert tpu == (1, 0)
    assert cpu == ((0, 1) if is_product else tpu)


def test_holes_cost_no_padding_on_cpus_alone():
    def convolution(x, kernel):
        return conv(x, kernel, dilation=24)

    def gradients(x, kernel):
        return jax.grad(lambda *arguments: convolution(*arguments).sum(), argnums=(0, 1))(x, kernel)

    arguments = jnp.ones((1, 16, 32, 4)), jnp.ones((3, 3, 4, 4))
    # 16 rows and 24 pixels of hole: the middle row's taps alone see the image.
    assert lowered(convolution, *arguments) == [(0, 3), (1, 0)]
    assert lowered(gradients, *arguments) == [(0, 6), (2, 0)]


def test_small_holes_are_for_kernels_gradients_alone():
    arguments = jnp.ones((1, 36, 48, 4)), jnp.ones((3, 3, 4, 4))
    assert lowered(lambda x, kernel: conv(x, kernel, dilation=2), *arguments) == [(1, 0), (1, 0)]
    gradient = jax.grad(lambda kernel: conv(arguments[0], kernel, dilation=2).sum())
    assert lowered(gradient, arguments[1]) == [(0, 9), (1, 0)]


def test_sums_over_pieces_are_not_rounded_each():
    rng = np.random.default_rng(0)
    x, cotangent = (jnp.asarray(rng.normal(size=(16, 64, 64, size)), jnp.bfloat16) for size in (16, 32))

    def gradient(convolution, *arrays):
        (found,) = jax.linear_transpose(lambda kernel: convolution(arrays[0], kernel), kernel)(arrays[1])
        return found

    kernel = jnp.zeros((3, 3, 16, 32), jnp.bfloat16)
    found = jax.vjp(lambda kernel: conv(x, kernel), kernel)[1](cotangent)[0]
    kernel = kernel.astype(jnp.float32)
    exact = (array.astype(jnp.float32) for array in (x, cotangent))
    expected = gradient(lambda x, kernel: plain(x, kernel, 1, 1), *exact)
    assert found.dtype == jnp.bfloat16
    assert (found == expected.astype(jnp.bfloat16)).mean() > 0.99  # four tenths of them are if each is rounded


def test_sums_over_taps_are_not_rounded_each():
    rng = np.random.default_rng(0)
    x, kernel = (jnp.asarray(rng.normal(size=shape), jnp.bfloat16) for shape in ((2, 8, 8, 64), (3, 3, 64, 8)))
    found = conv(x, kernel, dilation=4)
    expected = plain(*(array.astype(jnp.float32) for array in (x, kernel)), 1, 4)
    assert found.dtype == jnp.bfloat16
    assert (found == expected.astype(jnp.bfloat16)).mean() > 0.99  # half of them are if each is rounded
