"""Winograd's convolutions and their gradients, against those of XLA; where they are chosen."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from mtan_jax.models.ops import winograd
from mtan_jax.models.ops.convolution import convolve

# images and the channels that come out
CASES = [
    ((2, 8, 6, 3), 5),
    ((2, 7, 6, 3), 5),  # a row less than tiles have
    ((2, 8, 5, 3), 5),
    ((1, 1, 1, 3), 5),
    ((4, 64, 64, 3), 5),  # two pieces of two images
    ((3, 65, 64, 3), 2),  # an image each
    ((2, 66, 129, 2), 3),  # larger than a piece
]


def plain(x, kernel):
    return lax.conv_general_dilated(x, kernel, (1, 1), ((1, 1), (1, 1)), dimension_numbers=("NHWC", "HWIO", "NHWC"))


def gradients(x, kernel, cotangent):
    return winograd.gradient_of_images(kernel, cotangent), winograd.gradient_of_kernel(x, cotangent)


def draw(*shapes, dtype=None):
    rng = np.random.default_rng(0)
    return [jnp.asarray(rng.normal(size=shape), dtype) for shape in shapes]


def assert_close(found, expected, error):
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, atol=error * np.abs(expected).max(), rtol=0)


@pytest.mark.parametrize(("images", "features"), CASES)
def test_it_is_the_convolution_and_has_its_gradients(images, features):
    with jax.enable_x64(True):
        x, kernel, cotangents = draw(images, (3, 3, images[-1], features), (2, *images[:-1], features))
        expected, pull = jax.vjp(plain, x, kernel)
        assert_close(winograd.convolve(x, kernel), expected, 1e-14)
        all_of_them = jax.vmap(gradients, (None, None, 0))(x, kernel, cotangents)
        for i, cotangent in enumerate(cotangents):
            found = gradients(x, kernel, cotangent)
            for one, stacked, wanted in zip(found, all_of_them, pull(cotangent), strict=True):
                assert_close(one, wanted, 1e-13)
                assert_close(stacked[i], wanted, 1e-13)


def test_it_has_the_gradients_of_its_own_derivative():
    with jax.enable_x64(True):
        x, kernel, cotangent = draw((2, 7, 6, 3), (3, 3, 3, 5), (2, 7, 6, 5))
        derived = jax.vjp(winograd.convolve, x, kernel)[1](cotangent)
        for found, expected in zip(gradients(x, kernel, cotangent), derived, strict=True):
            assert_close(found, expected, 1e-13)


def test_float32_is_as_exact_as_the_plain_convolution():
    x, kernel, cotangent = draw((2, 16, 32, 256), (3, 3, 256, 128), (2, 16, 32, 128))
    with jax.enable_x64(True):
        exact = (jnp.asarray(array, jnp.float64) for array in (x, kernel))
        expected, pull = jax.vjp(plain, *exact)
        exact_gradients = pull(jnp.asarray(cotangent, jnp.float64))
    found = winograd.convolve(x, kernel), *gradients(x, kernel, cotangent)
    for array, wanted in zip(found, (expected, *exact_gradients), strict=True):
        assert array.dtype == jnp.float32
        assert_close(array, wanted, 2e-6)  # found: 4e-7 to 9e-7, where `plain` has 1.2e-6 to 1.6e-6


def test_bfloat16_is_not_rounded_in_between():
    x, kernel, cotangent = draw((2, 16, 16, 64), (3, 3, 64, 32), (2, 16, 16, 32), dtype=jnp.bfloat16)
    expected, pull = jax.vjp(plain, *(array.astype(jnp.float32) for array in (x, kernel)))
    wanted = expected, *pull(cotangent.astype(jnp.float32))
    found = winograd.convolve(x, kernel), *gradients(x, kernel, cotangent)
    for array, exact in zip(found, wanted, strict=True):
        assert array.dtype == jnp.bfloat16
        assert (array == exact.astype(jnp.bfloat16)).mean() > 0.99


# images, channels that come out, stride and dilation; products on CPUs of the convolution, and of its two gradients
CHOICES = [
    ((2, 64, 128, 64), 128, 1, 1, (16, 16, 16)),
    ((2, 64, 128, 64), 64, 1, 1, (16, 16, 1)),  # less work
    ((1, 64, 128, 64), 64, 1, 1, (0, 0, 1)),  # little
    ((2, 128, 128, 64), 128, 1, 1, (0, 0, 1)),  # few channels for an image larger than a piece
    ((2, 128, 128, 128), 128, 1, 1, (16, 16, 16)),
    ((8, 64, 128, 48), 128, 1, 1, (0, 0, 1)),  # few channels
    ((2, 64, 128, 64), 128, 2, 1, (0, 0, 0)),
    ((2, 64, 128, 64), 128, 1, 2, (0, 0, 9)),
]


@pytest.mark.parametrize(("images", "features", "stride", "dilation", "products"), CHOICES)
def test_it_is_chosen_on_cpus_alone(images, features, stride, dilation, products):
    def convolution(x, kernel):
        return convolve(x, kernel, stride=stride, dilation=dilation)

    def gradient(argument, x, kernel):
        return jax.grad(lambda *arguments: convolution(*arguments).sum(), argument)(x, kernel)

    arguments = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in (images, (3, 3, images[-1], features))]
    functions = convolution, functools.partial(gradient, 0), functools.partial(gradient, 1)
    for function, number in zip(functions, products, strict=True):
        traced = jax.jit(function).trace(*arguments)
        cpu, tpu = (traced.lower(lowering_platforms=(name,)).as_text() for name in ("cpu", "tpu"))
        assert cpu.count("stablehlo.dot_general") == number
        assert cpu.count("stablehlo.convolution") == (number == 0)
        assert (tpu.count("stablehlo.dot_general"), tpu.count("stablehlo.convolution")) == (0, 1)
