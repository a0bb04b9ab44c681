"""Checks of a configuration that need no data, so that no mistake shows only after an hour of preparation."""

import functools
from collections.abc import Mapping

import jax
import ml_collections

from mtan_jax.config import DURATIONS, check_fields
from mtan_jax.experiment.lengths import Lengths
from mtan_jax.experiment.task_data import TaskData
from mtan_jax.experiment.update_chain import WeightingSpec, build_update_chain
from mtan_jax.models import BACKBONES, IMAGE_BACKBONES, SHARE_FEATURES
from mtan_jax.runtime import paths
from mtan_jax.tasks.delta_m import delta_m
from mtan_jax.tasks.metrics import check_protocol
from mtan_jax.types import Params


def check_values(config: ml_collections.ConfigDict) -> None:
    """Checks fields on their own.

    Raises:
        ValueError: a field is unknown, or its value is.
        PathError: a path is not local.
    """
    check_fields(config)
    if config.model.init_from is not None:
        paths.local(config.model.init_from, "config.model.init_from")
    if config.compilation_cache:
        paths.check_local(config.compilation_cache, "config.compilation_cache")
    check_protocol(config.eval.protocol)
    if config.data.prepare not in ("once", "again"):
        raise ValueError(f"config.data.prepare = {config.data.prepare!r} is not known; known: once, again")


def check_data(config: ml_collections.ConfigDict, data: TaskData) -> None:
    """Checks that tasks, backbone and dataset fit each other.

    Raises:
        ValueError: they do not.
    """
    for task in data.tasks:
        if task.target not in data.builder.targets:
            raise ValueError(
                f"config.tasks: task {task.name!r} needs the target {task.target!r}; {config.data.name} has "
                f"{', '.join(data.builder.targets)}"
            )
    if config.model.backbone in {*BACKBONES, *IMAGE_BACKBONES} - {*data.backbones}:
        raise ValueError(
            f"config.model.backbone = {config.model.backbone!r} does not suit config.data.name = "
            f"{config.data.name!r}; use one of: {', '.join(data.backbones)}"
        )


def check_durations(config: ml_collections.ConfigDict) -> None:
    """Raises a ValueError for a duration that cannot be read."""
    for name in DURATIONS:
        text = functools.reduce(getattr, name.split("."), config)
        try:
            _ = None if text is None else Lengths.placeholder().to_steps(text)
        except ValueError as error:
            raise ValueError(f"config.{name}: {error}") from error


def check_weighting(
    config: ml_collections.ConfigDict, data: TaskData, spec: WeightingSpec, params: Params, *, has_features: bool
) -> None:
    """Builds the update chain for placeholder lengths, and checks that the run has what its methods need.

    Args:
        config: of the run.
        data: of the run.
        spec: of the run.
        params: shapes of the network's parameters.
        has_features: whether the network has features that several tasks share.

    Raises:
        ValueError: a method is unknown, refuses an option, or needs what the run does not have.
    """
    jax.eval_shape(build_update_chain(config, data, spec, Lengths.placeholder()).init, params)
    without = [task.name for task in data.tasks if task.indicator is None]
    if spec.needs.indicators and without:
        raise ValueError(
            f"config.weighting = {config.weighting!r} looks at how well each task is done, and of "
            f"{', '.join(without)} it cannot: give Task.indicator, such as mtan_jax.tasks.indicators.right_class"
        )
    if spec.needs.features and data.groups is not None:
        raise ValueError(
            f"config.weighting = {config.weighting!r} with wrt='features' is for dense tasks: where each image belongs "
            "to one task, no features are read by several tasks"
        )
    if spec.needs.features and not has_features:
        raise ValueError(
            f"config.weighting = {config.weighting!r} with wrt='features' needs features that tasks share: "
            f"config.model.arch = {config.model.arch!r} with {len(data.tasks)} tasks has none, "
            f"{', '.join(SHARE_FEATURES)} with several tasks have"
        )


def check_single_task(data: TaskData, metrics: Mapping[str, bool], single_task: Mapping[str, float]) -> None:
    """Checks the metrics of single-task networks that this run is compared with.

    Args:
        data: of the run.
        metrics: names of the run's metrics, and whether higher is better.
        single_task: `config.eval.single_task` of the run's tasks.

    Raises:
        ValueError: one is missing, unknown, or has an impossible value.
    """
    if single_task:
        data.summarize(dict.fromkeys(metrics, 0.0), single_task)
        delta_m({name: 1.0 for name in single_task if name in metrics}, dict(single_task))
