"""Sums and means over devices, and none over one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtan_jax.runtime import collectives

AXIS = "devices"


def over(function, devices):
    return jax.pmap(lambda x: function(x, AXIS), axis_name=AXIS, out_axes=None, devices=jax.devices()[:devices])


@pytest.mark.parametrize(("function", "expected"), [(collectives.total, [6.0, 12.0]), (collectives.mean, [1.5, 3.0])])
def test_of_four_devices(function, expected):
    each = jnp.outer(jnp.arange(4.0), jnp.array([1.0, 2.0]))
    np.testing.assert_array_equal(over(function, 4)({"x": each})["x"], expected)


@pytest.mark.parametrize("function", [collectives.total, collectives.mean])
def test_one_device_alone_computes_none(function):
    x = jnp.array([[1.0, jnp.inf]])
    alone, several = (over(function, devices).lower(jnp.repeat(x, devices, 0)).as_text() for devices in (1, 2))
    assert "all_reduce" in several
    assert "all_reduce" not in alone
    np.testing.assert_array_equal(over(function, 1)(x), x[0])


@pytest.mark.parametrize("function", [collectives.total, collectives.mean])
def test_without_an_axis(function):
    x = jnp.ones(3)
    assert function(x, None) is x
