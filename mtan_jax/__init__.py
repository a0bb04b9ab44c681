"""Multi-Task Attention Networks in JAX."""

from mtan_jax.runtime import home

home.provide_matplotlib()  # before any module imports it
