"""Data sets, by name."""

from mtan_jax.data.builder import DenseBuilder
from mtan_jax.data.cityscapes import Cityscapes
from mtan_jax.data.nyuv2 import NYUv2
from mtan_jax.data.streets import Streets

DATASETS: dict[str, type[DenseBuilder]] = {"cityscapes": Cityscapes, "nyuv2": NYUv2, "streets": Streets}
