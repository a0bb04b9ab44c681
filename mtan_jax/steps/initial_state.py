"""The training state before the first step."""

import types
from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from flax import traverse_util
from jaxtyping import Float, Int

from mtan_jax.steps.state import TrainState, Window
from mtan_jax.types import ArrayLike, Path, Variables


class Rows(NamedTuple):
    """Values for some rows of an array.

    Attributes:
        positions: indices of the rows.
        values: one row each.
    """

    positions: Int[ArrayLike, "n"]
    values: Float[ArrayLike, "n ..."]


def create_state(
    model: nn.Module,
    tx: optax.GradientTransformation,
    key: jax.Array,
    image_size: tuple[int, int],
    num_tasks: int,
    loaded: Mapping[Path, ArrayLike | Rows] = types.MappingProxyType({}),
) -> TrainState:
    """Initializes the network and the optimizer.

    Parameters depend on the key and on their names, not on the image size.

    Args:
        model: the network.
        tx: chain of weighting methods and optimizer.
        key: key of the random initial values.
        image_size: height and width.
        num_tasks: number of tasks.
        loaded: arrays, or rows of arrays, that replace initial values, by (collection, *path).
    """
    variables = model.init(key, jnp.zeros((1, *image_size, 3)), train=False)
    flat = traverse_util.flatten_dict(variables)
    for path, value in loaded.items():
        flat[path] = flat[path].at[value.positions].set(value.values) if isinstance(value, Rows) else value
    return state_from_variables(traverse_util.unflatten_dict(flat), tx, num_tasks)


def state_from_variables(variables: Variables, tx: optax.GradientTransformation, num_tasks: int) -> TrainState:
    """The state before the first step of a network with given variables.

    Args:
        variables: variables of the network by collection.
        tx: chain of weighting methods and optimizer.
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
