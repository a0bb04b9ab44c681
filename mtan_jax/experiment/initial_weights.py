"""Initial weights of a run: random, from a file of PyTorch weights, or from another run's checkpoint."""

import functools
from collections.abc import Mapping

import jax
import ml_collections
import numpy as np
import optax
from flax import linen as nn
from flax import traverse_util

from mtan_jax import steps
from mtan_jax.experiment import warm_start
from mtan_jax.interop import files, names, torch
from mtan_jax.runtime import checkpoint_bucket, mirror, parallel
from mtan_jax.steps import Rows
from mtan_jax.steps.state import TrainState
from mtan_jax.types import Path, Variables


def weight_layouts(config: ml_collections.ConfigDict, tasks: tuple[str, ...]) -> tuple[names.Layout, ...]:
    """The layouts of PyTorch files that fit the network of `config.model`."""
    return names.layouts(config.arch, config.backbone, tasks)


def load_weights(
    config: ml_collections.ConfigDict, variables: Variables, tasks: tuple[str, ...]
) -> Mapping[Path, np.ndarray | Rows]:
    """Reads the arrays of `config.init_from`, by (collection, *path); empty if it is not set.

    Args:
        config: `config.model`.
        variables: shapes of the network's variables.
        tasks: names of the tasks.

    Raises:
        WeightsError: the file cannot be read or does not fit the network; the message says which array.
        CheckpointError: the other run has no checkpoint, or a damaged one.
    """
    if config.init_from is None:
        if "frozen" in variables:
            raise files.WeightsError(
                f"config.model.arch = {config.arch!r} adapts a pretrained network; give that network's run with "
                "--config.model.init_from=WORKDIR"
            )
        return {}
    init_from = mirror.local(config.init_from, "config.model.init_from")
    checkpoint_bucket.pull_run(init_from)  # or a file
    if init_from.is_dir():
        source, source_tasks = warm_start.read_run(init_from)
        return warm_start.initialize_from(source, source_tasks, traverse_util.flatten_dict(dict(variables)), tasks)
    if not init_from.suffix:
        raise files.WeightsError(f"config.model.init_from = {config.init_from!r}: there is no such working directory")
    path = files.checked_path(config.init_from, "config.model.init_from")
    return torch.load(path, variables, weight_layouts(config, tasks))


def create_state(
    model: nn.Module,
    tx: optax.GradientTransformation,
    key: jax.Array,
    image_size: tuple[int, int],
    num_tasks: int,
    loaded: Mapping[Path, np.ndarray | Rows],
) -> TrainState:
    """Creates the state before the first step, on every device of this process; see `mtan_jax.steps.create_state`."""
    initial = functools.partial(steps.create_state, model, tx, image_size=image_size, num_tasks=num_tasks)
    # Compile without optimization: this program runs only once, and optimizing it would take longer than running it.
    create = jax.jit(initial, compiler_options={"xla_backend_optimization_level": 0})
    return parallel.place_state(create(key=key, loaded=loaded))
