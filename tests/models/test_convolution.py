"""Gradients of convolutions, in pieces, by taps and whole, against those that JAX derives itself."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from mtan_jax.models import convolution
from mtan_jax.models.convolution import convolve

# images, kernel, stride, dilation; how CPUs compute the kernel's gradient: rows of a piece, or another name
CASES = [
    ((2, 64, 64, 32), (3, 3, 32, 40), 1, 1, 32),
    ((3, 50, 41, 33), (3, 3, 33, 32), 1, 1, 50),
    ((1, 75, 64, 32), (3, 3, 32, 32), 1, 1, 38),  # the last piece is shorter
    ((2, 9, 8, 5), (3, 3, 5, 256), 1, 1, "products"),
    ((2, 9, 8, 256), (3, 3, 256, 5), 1, 1, "products"),  # the cotangent is the smaller
    ((2, 8, 8, 40), (3, 3, 40, 40), 1, 1, "whole"),  # few pixels
    ((2, 32, 32, 8), (3, 3, 8, 40), 1, 1, "whole"),  # few channels
    ((33, 32, 32, 32), (3, 3, 32, 32), 1, 1, "whole"),  # many images
    ((2, 32, 32, 32), (3, 3, 32, 32), 2, 1, "whole"),
    ((2, 32, 32, 32), (3, 3, 32, 32), 1, 2, "whole"),
    ((2, 9, 10, 4), (5, 5, 4, 6), 1, 3, "whole"),
    ((2, 9, 10, 4), (3, 3, 4, 6), 1, 9, "whole"),  # no row but the middle one sees the image
    ((2, 9, 10, 4), (3, 3, 4, 6), 1, 12, "whole"),  # no tap but the middle one does
    ((2, 9, 8, 4), (7, 7, 4, 5), 2, 1, "whole"),
    ((2, 9, 8, 4), (1, 1, 4, 5), 1, 1, "whole"),
    ((2, 9, 8, 4), (1, 1, 4, 5), 2, 1, "whole"),
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


def way(images, kernel, stride, dilation):
    found = convolution._on_cpus(images, kernel, stride, dilation)
    if isinstance(found, functools.partial):
        return found.args[0]
    return {None: "whole", convolution._in_products: "products"}[found]


@pytest.mark.parametrize(("images", "kernel", "stride", "dilation", "expected_way"), CASES)
def test_convolution_and_its_gradients(images, kernel, stride, dilation, expected_way):
    assert way(images, kernel, stride, dilation) == expected_way
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


@pytest.mark.parametrize("channels", [(40, 40), (8, 256)])
def test_pieces_and_products_are_for_cpus_alone(channels):
    def gradient(kernel):
        return jax.grad(lambda kernel: convolve(jnp.ones((2, 64, 64, channels[0])), kernel).sum())(kernel)

    traced = jax.jit(gradient).trace(jnp.ones((3, 3, *channels)))
    cpu, tpu = (traced.lower(lowering_platforms=(name,)).as_text() for name in ("cpu", "tpu"))
    if channels == (40, 40):  # 4 pieces in place of one
        assert cpu.count("stablehlo.convolution") >= tpu.count("stablehlo.convolution") + 3
    else:
        assert (cpu.count("stablehlo.dot_general"), tpu.count("stablehlo.dot_general")) == (9, 0)


def test_holes_cost_no_padding_on_cpus_alone():
    x, kernel = jnp.ones((1, 16, 32, 4)), jnp.ones((3, 3, 4, 4))
    traced = jax.jit(lambda x, kernel: convolve(x, kernel, dilation=24)).trace(x, kernel)
    cpu, tpu = (traced.lower(lowering_platforms=(name,)).as_text() for name in ("cpu", "tpu"))
    assert (cpu.count("stablehlo.convolution"), tpu.count("stablehlo.convolution")) == (0, 1)
    assert cpu.count("stablehlo.dot_general") == 3  # 16 rows and 24 pixels of hole: the middle row's taps
