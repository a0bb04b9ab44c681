"""The state before the first step."""

import types
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn
from flax import traverse_util
from jaxtyping import Array, Float, Int

from mtan_jax.steps.state import TrainState, Window


class Rows(NamedTuple):
    """Values for some rows of an array.

    Attributes:
        positions: of the rows.
        values: one row each.
    """

    positions: Int[Array | np.ndarray, "n"]
    values: Float[Array | np.ndarray, "n ..."]


def create_state(
    model: nn.Module,
    tx: optax.GradientTransformation,
    key: jax.Array,
    image_size: tuple[int, int],
    num_tasks: int,
    loaded: Mapping[tuple[str, ...], Array | Rows] = types.MappingProxyType({}),
) -> TrainState:
    """The state before the first step. Parameters depend on the key and on names, not on the image's size.

    Args:
        model: the network.
        tx: the chain of weighting methods and optimiser.
        key: of the random initial values.
        image_size: height and width.
        num_tasks: number of tasks.
        loaded: arrays, or rows of arrays, that take the place of initial values, by (collection, *path).
    """
    variables = model.init(key, jnp.zeros((1, *image_size, 3)), train=False)
    flat = traverse_util.flatten_dict(variables)
    for path, value in loaded.items():
        flat[path] = flat[path].at[value.positions].set(value.values) if isinstance(value, Rows) else value
    variables = traverse_util.unflatten_dict(flat)
    return state_before(variables, tx, num_tasks)


def state_before(variables: Any, tx: optax.GradientTransformation, num_tasks: int) -> TrainState:
    """The state before the first step of a network with these variables.

    Args:
        variables: of the network, by collection.
        tx: the chain of weighting methods and optimiser.
        num_tasks: number of tasks.
    """
    params = variables["params"]
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        batch_stats=variables.get("batch_stats", {}),
        opt_state=tx.init(params),
        window=Window.empty(num_tasks),
        frozen=variables.get("frozen", {}),
    )
