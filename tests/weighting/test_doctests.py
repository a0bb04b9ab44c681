"""The docstring examples run, and every method has one."""

import doctest
import importlib
import inspect

import pytest

from mtan_jax.weighting import METHODS

MODULES = [
    "mtan_jax.weighting.core",
    "mtan_jax.weighting.declaration",
    "mtan_jax.weighting.differentiate",
    "mtan_jax.weighting.gradient_methods.parameter_groups",
    "mtan_jax.weighting.registry",
    "mtan_jax.weighting.schedules",
    "mtan_jax.weighting.wrappers.around",
    *sorted({inspect.getmodule(method).__name__ for method in METHODS.values()}),
]


@pytest.mark.parametrize("name", MODULES)
def test_examples(name):
    result = doctest.testmod(importlib.import_module(name))
    assert result.attempted > 0
    assert result.failed == 0
