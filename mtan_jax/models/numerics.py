"""How the layers of a network compute."""

import dataclasses
from typing import Any

import jax.numpy as jnp


@dataclasses.dataclass(frozen=True)
class Numerics:
    """How every layer of a network computes.

    Attributes:
        axis_name: devices over which BatchNorm takes its moments; None: each device on its own.
        dtype: type of the computation; moments, and predictions, are float32 at least.
        param_dtype: type of parameters and statistics.
    """

    axis_name: str | None = None
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32


FLOAT32 = Numerics()
