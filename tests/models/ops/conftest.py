"""Runs the ops as another platform would, and with pairs of pixels for small images."""

import pytest

from mtan_jax.models.ops import convolution, pixel_pairs, platforms


@pytest.fixture
def as_on(monkeypatch):
    """`as_on(platform)`: from then on, the CPU runs that platform's variants; returns the names of those that ran.

    Images of 8 columns and more are in pairs of pixels where the platform uses them.
    """

    def start(platform):
        ran = []

        def select(*arrays, default, **variants):
            variant = variants.get(platform) or default
            ran.append(getattr(variant, "__name__", ""))
            return variant(*arrays)

        monkeypatch.setattr(pixel_pairs, "MIN_WIDTH", 8)
        monkeypatch.setitem(pixel_pairs.applies.__kwdefaults__, "among", range(5, 129))
        monkeypatch.setattr(platforms, "select", select)
        convolution._variants.cache_clear()  # they depend on what was just set
        return ran

    yield start
    convolution._variants.cache_clear()
