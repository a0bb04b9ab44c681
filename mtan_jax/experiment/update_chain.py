"""The weighting methods and the optimizer of a run, as one optax chain over `TaskGradients`."""

import dataclasses

import ml_collections
import optax

from mtan_jax import weighting
from mtan_jax.experiment import absent_tasks
from mtan_jax.experiment.lengths import Lengths
from mtan_jax.experiment.task_data import TaskData, plain
from mtan_jax.models import BUILT_IN
from mtan_jax.steps.learning_rate import build_schedule
from mtan_jax.steps.optimizer import build_optimizer, skip_absent_tasks
from mtan_jax.types import Options


@dataclasses.dataclass(frozen=True)
class WeightingSpec:
    """The weighting methods of a run and their options, for the tasks that the run has.

    Attributes:
        methods: see `mtan_jax.weighting.build_weighting`.
        options: per method name.
    """

    methods: weighting.Spec
    options: dict[str, Options]

    @classmethod
    def from_config(cls, config: ml_collections.ConfigDict, absent: frozenset[str]) -> "WeightingSpec":
        """Reads `config.weighting` and `config.weighting_options`, without the entries of absent tasks."""
        options = {
            name: {key: plain(value) for key, value in values.items()}
            for name, values in config.weighting_options.items()
        }
        return cls(
            absent_tasks.methods_without(absent, config.weighting),
            {name: absent_tasks.options_without(absent, values) for name, values in options.items()},
        )

    @property
    def needs(self) -> weighting.Needs:
        """What the methods need from the training step."""
        return weighting.needs_of(self.methods, options=self.options)


def build_learning_rate(config: ml_collections.ConfigDict, lengths: Lengths) -> optax.Schedule:
    """The learning rate as a function of the number of completed steps."""
    total_steps = lengths.to_steps(config.duration)
    return build_schedule(config.optimizer, total_steps, lengths.to_steps, is_dry_run=lengths.is_placeholder)


def build_update_chain(
    config: ml_collections.ConfigDict, data: TaskData, spec: WeightingSpec, lengths: Lengths
) -> optax.GradientTransformationExtraArgs:
    """Builds the chain of weighting methods and optimizer, whose updates are `TaskGradients`.

    Args:
        config: of the run.
        data: of the run.
        spec: from `config` and `data`.
        lengths: of the data. With `Lengths.placeholder()` the chain has the same state, but cannot train.

    Raises:
        ValueError: a field of `config.optimizer` or an option of a method is unknown or invalid.
    """
    learning_rate = build_learning_rate(config, lengths)
    options = dict(spec.options)
    defaults: Options = {
        "steps_per_epoch": max(round(lengths.steps_per_epoch), 1),
        "learning_rate": learning_rate,
    }
    if config.model.arch in BUILT_IN:
        # As in published runs. With "auto", methods would trace the network once more to find the shared parameters.
        defaults = {**defaults, "shared": "all_but_heads"}
        options["cagrad"] = {"shared": "backbone", **options.get("cagrad", {})}
    return weighting.build_weighting(
        spec.methods,
        tuple(task.name for task in data.tasks),
        _build_optimizer(config.optimizer, data, learning_rate),
        options=options,
        defaults=defaults,
    )


def _build_optimizer(
    config: ml_collections.ConfigDict, data: TaskData, learning_rate: optax.Schedule
) -> optax.GradientTransformation:
    optimizer, names = build_optimizer(config, learning_rate), tuple(task.name for task in data.tasks)
    if config.absent_tasks not in ("step", "rest"):
        raise ValueError(f"config.optimizer.absent_tasks = {config.absent_tasks!r} is not known; known: step, rest")
    if config.absent_tasks == "rest":
        if config.name != "sgd":
            raise ValueError(
                f"config.optimizer.absent_tasks = 'rest' does not work with config.optimizer.name = {config.name!r}: "
                "all tasks share its step count, so the first updates of a task that starts late would be far too "
                "large. Use sgd, or absent_tasks = 'step'"
            )
        return skip_absent_tasks(optimizer, names)
    if set(data.trained) != set(names):
        # Otherwise weight decay would change the parameters of a task that is never trained.
        return skip_absent_tasks(optimizer, names, always=data.trained)
    return optimizer
