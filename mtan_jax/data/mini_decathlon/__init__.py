"""Six small, varied datasets of drawn images, for many-to-many learning without a download."""

from mtan_jax.data.mini_decathlon.builder import SETS, DrawnSet, MiniDecathlon

__all__ = ["SETS", "DrawnSet", "MiniDecathlon"]
