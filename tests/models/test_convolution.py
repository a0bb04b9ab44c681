"""Gradients of convolutions, in pieces, by taps and whole, against those that JAX derives itself."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from mtan_jax.models import convolution
from mtan_jax.models.convolution import convolve

# images, kernel, stride, dilation; how CPUs compute the kernel's gradient where there are no holes: rows of a piece, or
# another name
CASES = [
    ((2, 64, 64, 32), (3, 3, 32, 40), 1, 1, 32),
    ((3, 50, 41, 33), (3, 3, 33, 32), 1, 1, 50),
    ((1, 75, 64, 32), (3, 3, 32, 32), 1, 1, 38),  # the last piece is shorter
    ((2, 9, 8, 5), (3, 3, 5, 256), 1, 1, "taps"),
    ((2, 9, 8, 256), (3, 3, 256, 5), 1, 1, "taps"),  # the cotangent is the smaller
    ((2, 8, 8, 40), (3, 3, 40, 40), 1, 1, "whole"),  # few pixels
    ((2, 32, 32, 8), (3, 3, 8, 40), 1, 1, "whole"),  # few channels
    ((33, 32, 32, 32), (3, 3, 32, 32), 1, 1, "whole"),  # many images
    ((2, 32, 32, 32), (3, 3, 32, 32), 2, 1, "whole"),
    ((2, 9, 8, 4), (7, 7, 4, 5), 2, 1, "whole"),
    ((2, 9, 8, 4), (1, 1, 4, 5), 2, 1, "whole"),
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


@pytest.mark.parametrize(("images", "kernel", "stride", "dilation", "way"), CASES)
def test_how_cpus_compute_the_gradient_of_a_kernel(images, kernel, stride, dilation, way):
    found = convolution._on_cpus(images, kernel, stride, dilation)
    rows = found.args[0] if isinstance(found, functools.partial) else None
    assert way == (rows or {None: "whole", convolution._kernel_by_taps: "taps"}[found])


@pytest.mark.parametrize(("images", "kernel", "stride", "dilation"), [case[:4] for case in CASES] + OTHERS)
def test_convolution_and_its_gradients(images, kernel, stride, dilation):
    rng = np.random.default_rng(0)
    with jax.enable_x64(True):
        arguments = jnp.asarray(rng.normal(size=images)), jnp.asarray(rng.normal(size=kernel))
        expected, pull_expected = jax.vjp(lambda x, k: plain(x, k, stride, dilation), *arguments)
        found, pull = jax.vjp(lambda x, k: convolve(x, k, stride=stride, dilation=dilation), *arguments)
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


@pytest.mark.parametrize(("channels", "cpu"), [((40, 40), (4, 0)), ((8, 256), (0, 9))])  # 4 pieces; 9 taps
def test_pieces_and_taps_are_for_cpus_alone(channels, cpu):
    gradient = jax.grad(lambda kernel: convolve(jnp.ones((2, 64, 64, channels[0])), kernel).sum())
    assert lowered(gradient, jnp.ones((3, 3, *channels))) == [cpu, (1, 0)]


def test_holes_cost_no_padding_on_cpus_alone():
    def convolution(x, kernel):
        return convolve(x, kernel, dilation=24)

    def gradients(x, kernel):
        return jax.grad(lambda *arguments: convolution(*arguments).sum(), argnums=(0, 1))(x, kernel)

    arguments = jnp.ones((1, 16, 32, 4)), jnp.ones((3, 3, 4, 4))
    # 16 rows and 24 pixels of hole: the middle row's taps alone see the image.
    assert lowered(convolution, *arguments) == [(0, 3), (1, 0)]
    assert lowered(gradients, *arguments) == [(0, 6), (2, 0)]


def test_small_holes_are_for_kernels_gradients_alone():
    arguments = jnp.ones((1, 36, 48, 4)), jnp.ones((3, 3, 4, 4))
    assert lowered(lambda x, kernel: convolve(x, kernel, dilation=2), *arguments) == [(1, 0), (1, 0)]
    gradient = jax.grad(lambda kernel: convolve(arguments[0], kernel, dilation=2).sum())
    assert lowered(gradient, arguments[1]) == [(0, 9), (1, 0)]


def test_sums_over_taps_are_not_rounded_each():
    rng = np.random.default_rng(0)
    x, kernel = (jnp.asarray(rng.normal(size=shape), jnp.bfloat16) for shape in ((2, 8, 8, 64), (3, 3, 64, 8)))
    found = convolve(x, kernel, dilation=4)
    expected = plain(*(array.astype(jnp.float32) for array in (x, kernel)), 1, 4)
    assert found.dtype == jnp.bfloat16
    assert (found == expected.astype(jnp.bfloat16)).mean() > 0.99  # half of them are if each is rounded
