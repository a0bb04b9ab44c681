"""Small, different sets of drawn images: many-to-many learning that needs no download."""

from mtan_jax.data.mini_decathlon.builder import SETS, DrawnSet, MiniDecathlon

__all__ = ["SETS", "DrawnSet", "MiniDecathlon"]
