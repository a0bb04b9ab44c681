"""A run: the typed parts that a configuration is made into."""

import dataclasses
import functools
import logging
from collections.abc import Callable, Iterator
from typing import Any

import jax
import ml_collections
import optax
from flax import linen as nn

from mtan_jax import steps
from mtan_jax.data.batches import pipeline
from mtan_jax.data.builder import DenseBuilder
from mtan_jax.data.dataset_record import DataRecord
from mtan_jax.data.image_sets import ImageSets
from mtan_jax.experiment import absent_tasks, checks, initial_weights
from mtan_jax.experiment.dense_data import DenseData
from mtan_jax.experiment.image_set_data import ImageSetData
from mtan_jax.experiment.lengths import Lengths
from mtan_jax.experiment.task_data import TaskData, build_dataset
from mtan_jax.experiment.update_chain import WeightingSpec, build_learning_rate, build_update_chain
from mtan_jax.models import build_model
from mtan_jax.models.shared_features import abstract_features
from mtan_jax.runtime import parallel
from mtan_jax.steps.state import TrainState
from mtan_jax.tasks import Task
from mtan_jax.types import AbstractBatch, Batch, Variables

log = logging.getLogger(__name__)

# Kind of dataset -> how its tasks use it.
TASK_DATA = {DenseBuilder: DenseData, ImageSets: ImageSetData}


def build_data(config: ml_collections.ConfigDict, record: DataRecord | None) -> TaskData:
    """The data of a run, of the kind that its dataset is."""
    builder = build_dataset(config)
    kind: Callable[..., TaskData] = next(kind for base, kind in TASK_DATA.items() if isinstance(builder, base))
    return kind(config, builder, record)


@dataclasses.dataclass(frozen=True, eq=False)
class Experiment:
    """A run. `Experiment.from_config` makes it, checked as far as that needs no data.

    Attributes:
        config: as given.
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
        """Builds dataset, tasks and network, and checks the configuration. Reads and writes no data.

        Args:
            config: of the run.
            record: what a trained run keeps of its dataset (`mtan_jax.training.open_run`); the dataset may then be
                absent, and images are normalized by the statistics that the network was trained with.

        Raises:
            ValueError: a field or value is not known or does not fit the others; the message names it.
            RawDataError: the classes of sets of labelled images are known neither from `record` nor from data.
        """
        checks.check_values(config)
        data = build_data(config, record)
        checks.check_data(config, data)
        model = build_model(config.model, data.tasks, parallel.AXIS, data.groups or 1)
        absent = absent_tasks.absent_names(data)
        experiment = cls(config, data, model, WeightingSpec.from_config(config, absent))
        params = experiment.abstract_variables["params"]  # an image size that does not fit is an error here
        features = abstract_features(model, experiment.abstract_variables, data.abstract_batch()["image"])
        checks.check_durations(config)
        checks.check_weighting(config, data, experiment.weighting, params, has_features=bool(features))
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
        """The metric by which the best checkpoint is kept, and whether higher is better."""
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
        """Raises a ValueError where the number of training examples is unknown until the dataset is prepared."""
        return self.data.lengths()

    @property
    def total_steps(self) -> int:
        return self.lengths.to_steps(self.config.duration)

    @functools.cached_property
    def learning_rate(self) -> optax.Schedule:
        """The learning rate as a function of the number of steps done."""
        return build_learning_rate(self.config, self.lengths)

    @functools.cached_property
    def tx(self) -> optax.GradientTransformationExtraArgs:
        """Weighting methods and optimizer, as one optax chain over `TaskGradients`."""
        return self.make_tx(self.lengths)

    def make_tx(self, lengths: Lengths) -> optax.GradientTransformationExtraArgs:
        """The chain for other lengths than those of the data."""
        return build_update_chain(self.config, self.data, self.weighting, lengths)

    def init_state(self) -> TrainState:
        """The state before the first step, on every device of this process.

        Raises:
            WeightsError, CheckpointError: see `initial_weights.load_weights`.
        """
        loaded = self.load_weights()
        if loaded:
            total = len(jax.tree.leaves({k: v for k, v in self.abstract_variables.items() if k != "masks"}))
            log.info("%d of the network's %d arrays are from %s", len(loaded), total, self.config.model.init_from)
        size = self.data.info.image_size
        initial = functools.partial(
            steps.create_state, self.model, self._tx_of_state, image_size=size, num_tasks=len(self.tasks)
        )
        # Hundreds of random number generators run once: optimizing them would take longer than running them.
        create = jax.jit(initial, compiler_options={"xla_backend_optimization_level": 0})
        return parallel.place_state(create(key=jax.random.key(self.config.seed), loaded=loaded))

    def load_weights(self) -> Any:
        """The weights to start from, as `initial_weights.load_weights` reads them."""
        return initial_weights.load_weights(self.config.model, self.abstract_variables, self.task_names)

    def abstract_state(self, tx: optax.GradientTransformation | None = None) -> TrainState:
        """Shapes and types of the state; of another chain than that of the run where `tx` is given."""
        initial = functools.partial(steps.state_before, tx=tx or self._tx_of_state, num_tasks=len(self.tasks))
        return jax.eval_shape(initial, self.abstract_variables)

    @property
    def _tx_of_state(self) -> optax.GradientTransformationExtraArgs:
        """`tx`; where the size of the dataset is unknown, a chain with the same state, which cannot train."""
        known = set(self.data.num_train()) >= set(self.data.set_names)
        return self.tx if known else self.make_tx(Lengths.placeholder())

    def check_batch_sizes(self, *, train: bool) -> None:
        """Checks that the devices of this machine can share a batch.

        Args:
            train: whether to check training batches too, besides those of evaluation.

        Raises:
            ValueError: they cannot; the message names the nearest batch size that they can share.
        """
        parallel.check_batch_size(self.config.eval.batch_size, "config.eval.batch_size")
        if train:
            self.check_train_batch_size()

    def check_train_batch_size(self, devices: int | None = None) -> None:
        """Checks that so many devices, by default those of this machine, can share a training batch."""
        groups, accumulate = self.data.groups or 1, self.config.accumulate
        parallel.check_batch_size(self.config.batch_size, "config.batch_size", accumulate, groups, devices)

    @functools.cached_property
    def train_step(self) -> Callable[[TrainState, Batch], TrainState]:
        """The training step on all devices."""
        self.check_train_batch_size()
        return parallel.map_train_step(self.make_train_step(self.tx))

    def make_train_step(self, tx: optax.GradientTransformation) -> Callable[[TrainState, Batch], TrainState]:
        """The training step per device, with the update chain `tx`."""
        return steps.make_train_step(
            *(self.model, self.tasks, tx),
            key=jax.random.key(self.config.seed),
            axis_name=parallel.AXIS,
            accumulate=self.config.accumulate,
            features=self.weighting.needs.features,
            groups=self.data.groups,
        )

    @functools.cached_property
    def eval_step(self) -> Callable[[Variables, Batch], Any]:
        """The evaluation step on all devices."""
        parallel.check_batch_size(self.config.eval.batch_size, "config.eval.batch_size")
        step = steps.make_eval_step(self.model, self.tasks, protocol=self.config.eval.protocol, axis_name=parallel.AXIS)
        return parallel.map_eval_step(step)

    @functools.cached_property
    def predict_step(self) -> Callable[[Variables, Any], Any]:
        """The prediction step on the devices of this process."""
        return parallel.map_predict_step(steps.make_predict_step(self.model))

    def abstract_batch(self) -> AbstractBatch:
        """Shapes and types of a training batch of one image."""
        batch = self.data.abstract_batch()
        return {**batch, "second": batch} if self.weighting.needs.second_batch else batch

    def train_batches(self, start_step: int) -> Iterator[Batch]:
        """This process' part of every training batch from a step on, with a second batch where the methods need one."""
        seed, total_steps, needs = self.config.seed, self.total_steps, self.weighting.needs
        stream = functools.partial(
            self.data.train_batches, start_step, streams=2 if needs.second_batch else 1, total_steps=total_steps
        )
        if not needs.second_batch:
            return stream(seed=seed)
        return pipeline.with_second(stream(seed=seed), stream(seed=pipeline.second_seed(seed)))
