"""Networks: `build_model` makes any pair of architecture and backbone from `config.model`.

`registry` holds the names. `mtan` is the paper; `stage` is the interface between backbones and architectures.
"""

from mtan_jax.models.layers.heads import Head
from mtan_jax.models.numerics import Numerics
from mtan_jax.models.registry import (
    ARCHITECTURES,
    BACKBONES,
    BUILT_IN,
    IMAGE_ARCHITECTURES,
    IMAGE_BACKBONES,
    SHARE_FEATURES,
    build_backbone,
    build_model,
    pairs,
)
from mtan_jax.models.stage import Backbone, Flow, Stage

__all__ = [
    "ARCHITECTURES",
    "BACKBONES",
    "BUILT_IN",
    "IMAGE_ARCHITECTURES",
    "IMAGE_BACKBONES",
    "SHARE_FEATURES",
    "Backbone",
    "Flow",
    "Head",
    "Numerics",
    "Stage",
    "build_backbone",
    "build_model",
    "pairs",
]
