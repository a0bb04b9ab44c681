"""Rendered street scenes: a dense dataset that needs no download."""

from mtan_jax.data.streets.builder import Streets
from mtan_jax.data.streets.render import render

__all__ = ["Streets", "render"]
