"""The inputs of every variant: tasks, random variables, a random batch, the initial state."""

import dataclasses
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.tree_util import tree_map_with_path

from mtan_jax import steps, tasks
from mtan_jax.models import Numerics
from mtan_jax.models.backbones.segnet import segnet
from mtan_jax.models.mtan import MTAN
from mtan_jax.steps.state import TrainState, Window
from mtan_jax.weighting import build_weighting


class Problem:
    """SegNet-MTAN on one batch of random images, with tasks that all predict the same random depth.

    Attributes:
        backbone: SegNet.
        tasks: `num_tasks` depth tasks with different names.
        tx: equal weighting, then Adam.
        variables: random variables of `MTAN`, as NumPy arrays of `dtype`.
        batch: a batch for the training step.
    """

    def __init__(
        self,
        num_tasks: int,
        width: float,
        image_size: tuple[int, int],
        rows: int = 2,
        dtype: Any = np.float32,
        compute_dtype: Any = None,
    ):
        self.backbone = segnet(width, Numerics(dtype=compute_dtype or dtype, param_dtype=dtype))
        self.tasks = tuple(dataclasses.replace(tasks.depth(), name=f"task_{i}") for i in range(num_tasks))
        self.optimizer = optax.adam(1e-4)
        self.tx = build_weighting("equal", [task.name for task in self.tasks], self.optimizer)
        rng = np.random.default_rng(0)
        init = functools.partial(MTAN(self.backbone, self.tasks).init, train=False)
        shapes = jax.eval_shape(init, jax.random.key(0), jnp.zeros((1, *image_size, 3)))
        # The real initializers take long to compile; these keep the features' scale from layer to layer too.
        self.variables = tree_map_with_path(functools.partial(_draw, rng, dtype), shapes)
        self.batch = jax.device_put(
            {
                "image": rng.uniform(size=(rows, *image_size, 3)).astype(dtype),
                "targets": {"depth": rng.uniform(0.5, 2, (rows, *image_size, 1)).astype(dtype)},
                "labelled": {"depth": np.ones(rows, bool)},
                "weight": np.ones(rows, np.float32),
            }
        )

    def train_step(self, model: Any) -> Any:
        """Returns the training step, not compiled."""
        return steps.make_train_step(model, self.tasks, self.tx, key=jax.random.key(1))

    def state(self) -> TrainState:
        """Returns a state with its own buffers, which a step may consume."""
        variables = jax.tree.map(lambda leaf: jnp.array(leaf, copy=True), self.variables)
        return TrainState(
            step=jnp.zeros((), jnp.int32),
            params=variables["params"],
            batch_stats=variables["batch_stats"],
            opt_state=self.tx.init(variables["params"]),
            window=Window.empty(len(self.tasks)),
        )


def gradients(state: TrainState) -> Any:
    """Returns the gradients of the first step: Adam's first moment is then a tenth of them."""
    return jax.tree.map(lambda leaf: 10 * leaf, optax.tree_utils.tree_get(state.opt_state, "mu"))


def _draw(rng: np.random.Generator, dtype: Any, path: Any, leaf: jax.ShapeDtypeStruct) -> np.ndarray:
    values, name = rng.normal(size=leaf.shape), path[-1].key
    if "kernel" in name:
        values *= math.sqrt(2 / math.prod(leaf.shape[:-1]))
    elif "scale" in name or "var" in name:
        values = 1 + 0.1 * values
    else:
        values *= 0.1
    return values.astype(dtype)
