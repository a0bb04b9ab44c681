"""Array operations that layers are made of. Each chooses its own implementation per platform.

Layers call these functions and know no platforms. `reference` has the plain definitions that tests compare with.
"""

from mtan_jax.models.ops.batch_norm import Activation, batch_moments, normalize, normalize_batch
from mtan_jax.models.ops.convolution import conv, conv_concatenated
from mtan_jax.models.ops.elementwise import add_bias, multiply, prediction_layout
from mtan_jax.models.ops.pooling import max_pool, max_unpool
from mtan_jax.models.ops.resizing import resize, upsample

__all__ = [
    "Activation",
    "add_bias",
    "batch_moments",
    "conv",
    "conv_concatenated",
    "max_pool",
    "max_unpool",
    "multiply",
    "normalize",
    "normalize_batch",
    "prediction_layout",
    "resize",
    "upsample",
]
