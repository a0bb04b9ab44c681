"""Visual Decathlon: ten image classification datasets, one task each, or your own datasets in class folders."""

from mtan_jax.data.decathlon.decathlon import Decathlon, DecathlonSet

__all__ = ["Decathlon", "DecathlonSet"]
