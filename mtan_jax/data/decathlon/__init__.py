"""Visual Decathlon: ten sets of labelled images, a task each; own sets in folders too."""

from mtan_jax.data.decathlon.decathlon import Decathlon, DecathlonSet

__all__ = ["Decathlon", "DecathlonSet"]
