"""The examples in the docstrings do what they say, and every method has one."""

import doctest
import importlib

import pytest

from mtan_jax.weighting import METHODS

MODULES = [
    "mtan_jax.weighting",
    *(f"mtan_jax.weighting.{name}" for name in ("core", "schedules", *METHODS)),
]


@pytest.mark.parametrize("name", MODULES)
def test_examples(name):
    result = doctest.testmod(importlib.import_module(name))
    assert result.attempted > 0
    assert result.failed == 0
