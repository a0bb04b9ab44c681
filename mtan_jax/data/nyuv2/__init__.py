"""NYUv2: indoor scenes with 13 or 40 semantic classes, depth in metres and surface normals."""

from mtan_jax.data.nyuv2.nyuv2 import NYUv2

__all__ = ["NYUv2"]
