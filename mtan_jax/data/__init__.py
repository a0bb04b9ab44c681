"""Data sets, by name."""

from mtan_jax.data.builder import DataInfo, DenseBuilder, Target
from mtan_jax.data.cityscapes import Cityscapes
from mtan_jax.data.nyuv2 import NYUv2
from mtan_jax.data.streets import Streets

__all__ = ["DATASETS", "Cityscapes", "DataInfo", "DenseBuilder", "NYUv2", "Streets", "Target"]

DATASETS: dict[str, type[DenseBuilder]] = {"cityscapes": Cityscapes, "nyuv2": NYUv2, "streets": Streets}
