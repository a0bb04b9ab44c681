"""Datasets by name."""

from mtan_jax.data.builder import DataInfo, DenseBuilder, Target
from mtan_jax.data.cityscapes import Cityscapes
from mtan_jax.data.decathlon import Decathlon
from mtan_jax.data.image_sets import ImageSets
from mtan_jax.data.mini_decathlon import MiniDecathlon
from mtan_jax.data.nyuv2 import NYUv2
from mtan_jax.data.streets import Streets

__all__ = [
    "DATASETS",
    "Cityscapes",
    "DataInfo",
    "Decathlon",
    "DenseBuilder",
    "ImageSets",
    "MiniDecathlon",
    "NYUv2",
    "Streets",
    "Target",
]

DATASETS: dict[str, type[DenseBuilder] | type[ImageSets]] = {
    "cityscapes": Cityscapes,
    "decathlon": Decathlon,
    "mini_decathlon": MiniDecathlon,
    "nyuv2": NYUv2,
    "streets": Streets,
}
