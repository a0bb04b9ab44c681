"""Data types of a network's layers, and the devices over which BatchNorm computes moments."""

import dataclasses

import jax.numpy as jnp
from jax.typing import DTypeLike


@dataclasses.dataclass(frozen=True)
class Numerics:
    """Data types of a network's layers, and the devices over which BatchNorm computes moments.

    Attributes:
        axis_name: device axis over which BatchNorm computes moments; None: each device on its own.
        dtype: type of the computation. Moments and predictions are in float32 or wider.
        param_dtype: type of parameters and running statistics.
    """

    axis_name: str | None = None
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32


FLOAT32 = Numerics()
