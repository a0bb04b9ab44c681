"""A run as typed parts, built from its configuration."""

import dataclasses
import functools
import logging
from collections.abc import Callable, Iterator, Mapping

import jax
import ml_collections
import numpy as np
import optax
from flax import linen as nn
from jaxtyping import Array

from mtan_jax import steps
from mtan_jax.data.dataset_record import DataRecord
from mtan_jax.experiment import absent_tasks, checks, initial_weights
from mtan_jax.experiment.build_data import build_data
from mtan_jax.experiment.lengths import Lengths
from mtan_jax.experiment.task_data import TaskData
from mtan_jax.experiment.update_chain import WeightingSpec, build_learning_rate, build_update_chain
from mtan_jax.models import build_model
from mtan_jax.runtime import parallel
from mtan_jax.steps.state import TrainState
from mtan_jax.tasks import Task
from mtan_jax.tasks.metrics import LossMetric, MetricState
from mtan_jax.types import AbstractBatch, ArrayLike, Batch, Path, Variables

log = logging.getLogger(__name__)

Predictions = tuple[dict[str, Array], dict[str, Array]]


@dataclasses.dataclass(frozen=True, eq=False)
class Experiment:
    """A run, built and checked by `Experiment.from_config`.

    Attributes:
        config: the configuration.
        data: the dataset and its tasks.
        model: the network.
        weighting: the weighting methods and their options.
    """

    config: ml_collections.ConfigDict
    data: TaskData
    model: nn.Module
    weighting: WeightingSpec

    @classmethod
    def from_config(cls, config: ml_collections.ConfigDict, record: DataRecord | None = None) -> "Experiment":
        """Builds dataset, tasks and network, and checks the configuration as far as that needs no data.

        Args:
            config: of the run.
            record: of the dataset that a run was trained on (see `mtan_jax.training.open_run`). The dataset may then
                be absent, and images are normalized with the statistics used in training.

        Raises:
            ValueError: a field is unknown, or its value is invalid or does not fit other fields; the message names it.
            RawDataError: the classes of sets of labelled images are in neither `record` nor the raw data.
        """
        checks.check_values(config)
        config = config.copy_and_resolve_references()  # a copy, which the caller cannot change later
        data = build_data(config, record)
        checks.check_data(config, data)
        model = build_model(config.model, data.tasks, parallel.AXIS, data.groups or 1)
        experiment = cls(config, data, model, WeightingSpec.from_config(config, absent_tasks.absent_names(data)))
        variables = experiment.abstract_variables  # raises an error if the image size does not fit the network
        checks.check_durations(config)
        checks.check_weighting(config, data, model, experiment.weighting, variables)
        data.check()
        _ = experiment.best_metric
        checks.check_single_task(data, experiment.metrics, experiment.single_task)
        return experiment

    @property
    def tasks(self) -> tuple[Task, ...]:
        return self.data.tasks

    @property
    def task_names(self) -> tuple[str, ...]:
        return tuple(task.name for task in self.tasks)

    @property
    def metrics(self) -> dict[str, bool]:
        """Names of all metrics, and whether higher is better."""
        of_tasks = {
            f"{task.name}/{metric}": higher
            for task in self.tasks
            for metric, higher in task.metric().higher_is_better.items()
        }
        return {**of_tasks, **self.data.summary_metrics}

    @property
    def best_metric(self) -> tuple[str, bool]:
        """The metric that chooses the best checkpoint, and whether higher is better."""
        name = self.config.checkpoint.best_metric or self.data.default_metric
        if name not in self.metrics:
            raise ValueError(f"config.checkpoint.best_metric = {name!r} is not known; known: {', '.join(self.metrics)}")
        return name, self.metrics[name]

    @property
    def single_task(self) -> dict[str, float]:
        """Metrics of single-task networks to compare with, from `config.eval.single_task`."""
        return absent_tasks.without(absent_tasks.absent_names(self.data), dict(self.config.eval.single_task))

    @functools.cached_property
    def abstract_variables(self) -> Variables:
        """Shapes and types of the network's variables, by collection."""
        image = self.data.abstract_batch()["image"]
        return jax.eval_shape(functools.partial(self.model.init, train=False), jax.random.key(0), image)

    @property
    def lengths(self) -> Lengths:
        """Converts durations to steps. Raises a ValueError while the number of training examples is unknown."""
        return self.data.lengths()

    @property
    def total_steps(self) -> int:
        return self.lengths.to_steps(self.config.duration)

    @functools.cached_property
    def learning_rate(self) -> optax.Schedule:
        """The learning rate as a function of the number of completed steps."""
        return build_learning_rate(self.config, self.lengths)

    @functools.cached_property
    def tx(self) -> optax.GradientTransformationExtraArgs:
        """Weighting methods and optimizer, as one optax chain over `TaskGradients`."""
        return self.make_tx(self.lengths)

    def make_tx(self, lengths: Lengths) -> optax.GradientTransformationExtraArgs:
        """The update chain for lengths other than those of the dataset."""
        return build_update_chain(self.config, self.data, self.weighting, lengths)

    @property
    def _tx_of_state(self) -> optax.GradientTransformationExtraArgs:
        """`tx`; if the dataset's size is unknown, a chain that cannot train but whose state has the same structure."""
        is_known = set(self.data.num_train()) >= set(self.data.set_names)
        return self.tx if is_known else self.make_tx(Lengths.placeholder())

    def init_state(self) -> TrainState:
        """The state before the first step, on every device of this process.

        Raises:
            WeightsError, CheckpointError: see `initial_weights.load_weights`.
        """
        loaded = self.load_weights()
        if loaded:
            total = len(jax.tree.leaves({k: v for k, v in self.abstract_variables.items() if k != "masks"}))
            log.info("%d of the network's %d arrays are from %s", len(loaded), total, self.config.model.init_from)
        key, size = jax.random.key(self.config.seed), self.data.info.image_size
        return initial_weights.create_state(self.model, self._tx_of_state, key, size, len(self.tasks), loaded)

    def load_weights(self) -> Mapping[Path, np.ndarray | steps.Rows]:
        """The arrays of `config.model.init_from`; see `initial_weights.load_weights`."""
        return initial_weights.load_weights(self.config.model, self.abstract_variables, self.task_names)

    def abstract_state(self, tx: optax.GradientTransformation | None = None) -> TrainState:
        """Shapes and types of the state, with the run's update chain or another one."""
        initial = functools.partial(steps.state_from_variables, tx=tx or self._tx_of_state, num_tasks=len(self.tasks))
        return jax.eval_shape(initial, self.abstract_variables)

    @functools.cached_property
    def train_step(self) -> Callable[[TrainState, Batch], TrainState]:
        """The training step on all devices."""
        checks.check_train_batch_size(self.config, self.data)
        return parallel.map_train_step(self.make_train_step(self.tx))

    def make_train_step(self, tx: optax.GradientTransformation) -> Callable[[TrainState, Batch], TrainState]:
        """The training step of one device, with an update chain."""
        return steps.make_train_step(
            *(self.model, self.tasks, tx),
            key=jax.random.key(self.config.seed),
            axis_name=parallel.AXIS,
            accumulate=self.config.accumulate,
            features=self.weighting.needs.features,
            groups=self.data.groups,
        )

    @functools.cached_property
    def eval_step(self) -> Callable[[Variables, Batch], dict[str, tuple[MetricState, LossMetric]]]:
        """The evaluation step on all devices."""
        checks.check_eval_batch_size(self.config)
        step = steps.make_eval_step(self.model, self.tasks, protocol=self.config.eval.protocol, axis_name=parallel.AXIS)
        return parallel.map_eval_step(step)

    @functools.cached_property
    def predict_step(self) -> Callable[[Variables, Mapping[str, ArrayLike]], Predictions]:
        """The prediction step on the devices of this process: predictions by task, masks by stage."""
        return parallel.map_predict_step(steps.make_predict_step(self.model))

    def abstract_batch(self) -> AbstractBatch:
        """Shapes and types of a training batch of one image."""
        batch = self.data.abstract_batch()
        return {**batch, "second": batch} if self.weighting.needs.second_batch else batch

    def train_batches(self, start_step: int) -> Iterator[Batch]:
        """This process' part of every training batch from a step on, with a second batch if the methods need one."""
        return self.data.train_stream(
            start_step,
            seed=self.config.seed,
            total_steps=self.total_steps,
            second_batch=self.weighting.needs.second_batch,
        )
