"""Checks a configuration without data, so that mistakes are reported before the dataset is prepared."""

import functools
from collections.abc import Mapping

import jax
import ml_collections
import numpy as np
from flax import linen as nn

from mtan_jax.config import DURATIONS, check_fields
from mtan_jax.experiment.lengths import Lengths
from mtan_jax.experiment.task_data import TaskData
from mtan_jax.experiment.update_chain import WeightingSpec, build_update_chain
from mtan_jax.models import BACKBONES, IMAGE_BACKBONES, SHARE_FEATURES
from mtan_jax.models.shared_features import abstract_features
from mtan_jax.runtime import mirror, parallel, paths
from mtan_jax.runtime.profiler import parse_steps
from mtan_jax.tasks.contract import check_contract
from mtan_jax.tasks.delta_m import delta_m, directions
from mtan_jax.tasks.metrics import check_protocol
from mtan_jax.types import Variables


def check_values(config: ml_collections.ConfigDict) -> None:
    """Checks single fields.

    Raises:
        ValueError: a field or its value is unknown.
        PathError: a path is empty or has an unknown scheme.
    """
    check_fields(config)
    if config.model.init_from is not None:
        mirror.local(config.model.init_from, "config.model.init_from")
    if config.compilation_cache:
        paths.check_local(config.compilation_cache, "config.compilation_cache")
    check_protocol(config.eval.protocol)
    parse_steps(config.profile)
    if config.data.prepare not in ("once", "again"):
        raise ValueError(f"config.data.prepare = {config.data.prepare!r} is not known; known: once, again")


def check_data(config: ml_collections.ConfigDict, data: TaskData) -> None:
    """Raises a ValueError unless the tasks and the backbone suit the dataset."""
    for task in data.tasks:
        if task.target not in data.builder.targets:
            raise ValueError(
                f"config.tasks: task {task.name!r} needs the target {task.target!r}; {config.data.name} has "
                f"{', '.join(data.builder.targets)}"
            )
    batch = data.abstract_batch()
    for task in data.tasks:
        image, target = batch["image"], batch["targets"][task.target]
        spatial = image.shape[1:3] if target.ndim > 1 else ()
        prediction = jax.ShapeDtypeStruct((*image.shape[:1], *spatial, task.channels), np.float32)
        check_contract(task, prediction, target)
    if config.model.backbone in {*BACKBONES, *IMAGE_BACKBONES} - {*data.backbones}:
        raise ValueError(
            f"config.model.backbone = {config.model.backbone!r} does not suit config.data.name = "
            f"{config.data.name!r}; use one of: {', '.join(data.backbones)}"
        )


def check_durations(config: ml_collections.ConfigDict) -> None:
    """Raises a ValueError for an invalid duration."""
    for name in DURATIONS:
        text = functools.reduce(getattr, name.split("."), config)
        try:
            _ = None if text is None else Lengths.placeholder().to_steps(text)
        except ValueError as error:
            raise ValueError(f"config.{name}: {error}") from error


def check_weighting(
    config: ml_collections.ConfigDict, data: TaskData, model: nn.Module, spec: WeightingSpec, variables: Variables
) -> None:
    """Builds the update chain for placeholder lengths, and checks that the run meets its methods' needs.

    Args:
        config: of the run.
        data: of the run.
        model: the network.
        spec: the weighting methods.
        variables: shapes of the network's variables.

    Raises:
        ValueError: a method or an option is unknown or invalid, or a method needs indicators or shared features that
            the run does not have.
    """
    jax.eval_shape(build_update_chain(config, data, spec, Lengths.placeholder()).init, variables["params"])
    without = [task.name for task in data.tasks if task.indicator is None]
    if spec.needs.indicators and without:
        raise ValueError(
            f"config.weighting = {config.weighting!r} needs an indicator of each task's performance, and "
            f"{', '.join(without)} has none; set Task.indicator, such as mtan_jax.tasks.indicators.correct_class"
        )
    if spec.needs.features and data.groups is not None:
        raise ValueError(
            f"config.weighting = {config.weighting!r} with wrt='features' is for dense tasks: tasks share no features "
            "if each image belongs to one task"
        )
    if spec.needs.features and not abstract_features(model, variables, data.abstract_batch()["image"]):
        raise ValueError(
            f"config.weighting = {config.weighting!r} with wrt='features' needs features that tasks share: "
            f"config.model.arch = {config.model.arch!r} with {len(data.tasks)} tasks has none; use several tasks and "
            f"one of {', '.join(SHARE_FEATURES)}"
        )


def check_single_task(data: TaskData, metrics: Mapping[str, bool], single_task: Mapping[str, float]) -> None:
    """Checks the single-task baseline of a run.

    Args:
        data: of the run.
        metrics: names of the run's metrics, and whether higher is better.
        single_task: `config.eval.single_task` for the run's tasks.

    Raises:
        ValueError: a metric is missing, unknown or out of range.
    """
    if single_task:
        data.summarize(dict.fromkeys(metrics, 0.0), single_task)
        chosen = {name: 1.0 for name in single_task if name in metrics}
        delta_m(chosen, single_task, higher_is_better=directions(metrics))


def check_eval_batch_size(config: ml_collections.ConfigDict) -> None:
    """Raises a ValueError unless the devices of this machine can share an evaluation batch evenly.

    With `config.eval.protocol` "exact", the batch size does not affect metrics and is rounded up where it is used.
    """
    if config.eval.protocol != "exact":
        parallel.check_batch_size(config.eval.batch_size, "config.eval.batch_size")


def check_train_batch_size(config: ml_collections.ConfigDict, data: TaskData, devices: int | None = None) -> None:
    """Raises a ValueError unless devices, by default those of this machine, can share a training batch evenly."""
    parallel.check_batch_size(config.batch_size, "config.batch_size", config.accumulate, data.groups or 1, devices)
