"""Cityscapes: street scenes with 2, 7 or 19 semantic classes and inverse depth."""

from mtan_jax.data.cityscapes.cityscapes import Cityscapes

__all__ = ["Cityscapes"]
