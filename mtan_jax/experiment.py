"""From a configuration to everything that a run needs: the one place where a configuration is read."""

import dataclasses
import functools
import inspect
import logging
import types
from collections.abc import Callable, Generator, Iterator
from typing import Any

import jax
import ml_collections
import numpy as np
import optax
from flax import linen as nn

from mtan_jax import duration, parallel, steps, weighting
from mtan_jax.config import DURATIONS, check_fields
from mtan_jax.data import DATASETS, augment, pipeline
from mtan_jax.data.builder import DataInfo, DenseBuilder
from mtan_jax.delta_m import delta_m
from mtan_jax.interop import files, names, torch
from mtan_jax.metrics import check_protocol
from mtan_jax.models import SHARE_FEATURES, build_model
from mtan_jax.models.features import abstract_features
from mtan_jax.optimizer import build_optimizer, build_schedule
from mtan_jax.state import TrainState
from mtan_jax.tasks import Task, build_tasks

log = logging.getLogger(__name__)

Batch = dict[str, Any]


@dataclasses.dataclass(frozen=True, eq=False)
class Experiment:
    """A run, made from its configuration.

    Attributes:
        config: as given, its fields checked.
        builder: of the data set.
        tasks: in the order of all arrays over tasks.
        model: the network.
    """

    config: ml_collections.ConfigDict
    builder: DenseBuilder
    tasks: tuple[Task, ...]
    model: nn.Module

    @classmethod
    def from_config(cls, config: ml_collections.ConfigDict) -> "Experiment":
        """Checks the configuration and makes data set, tasks and network from it. Reads and writes no data.

        Raises:
            ValueError: for a field or value that is not known or does not fit the others; the message names it.
        """
        check_fields(config)
        check_protocol(config.eval.protocol)
        builder = _build_dataset(config.data)
        tasks = build_tasks(config.tasks, builder.data_info)
        for task in tasks:
            if task.target not in builder.targets:
                raise ValueError(
                    f"config.tasks: task {task.name!r} needs the target {task.target!r}; {config.data.name} has "
                    f"{', '.join(builder.targets)}"
                )
        experiment = cls(config, builder, tasks, build_model(config.model, tasks, parallel.AXIS))
        experiment.abstract_variables()  # an image size that does not fit fails here, not an hour later
        experiment._check_values()
        return experiment

    def _check_values(self) -> None:
        """Makes what needs the data with stand-ins for them, so that no mistake shows only when they are prepared."""
        config = self.config
        to_steps = functools.partial(duration.to_steps, examples_per_epoch=1, batch_size=1)
        for name in DURATIONS:
            text = functools.reduce(getattr, name.split("."), config)
            try:
                _ = None if text is None else to_steps(text)
            except ValueError as error:
                raise ValueError(f"config.{name}: {error}") from error
        self._build_tx(build_schedule(config.optimizer, 1, to_steps), steps_per_epoch=1)
        without = [task.name for task in self.tasks if task.indicator is None]
        if self._needs.indicators and without:
            raise ValueError(
                f"config.weighting = {config.weighting!r} looks at how well each task is done, and of "
                f"{', '.join(without)} it cannot: give Task.indicator, such as mtan_jax.indicators.right_class"
            )
        image = jax.numpy.zeros((1, *self.data_info.image_size, 3))
        if self._needs.features and not abstract_features(self.model, self.abstract_variables(), image):
            raise ValueError(
                f"config.weighting = {config.weighting!r} with wrt='features' needs features that tasks share: "
                f"config.model.arch = {config.model.arch!r} with {len(self.tasks)} tasks has none, "
                f"{', '.join(SHARE_FEATURES)} with several tasks have"
            )
        _ = self.best_metric
        single_task = dict(config.eval.single_task)
        if single_task:
            delta_m({name: 1.0 for name in single_task if name in self._metrics}, single_task)

    def check_batch_sizes(self, *, train: bool) -> None:
        """Raises a ValueError where the devices of this machine cannot share a batch.

        Args:
            train: whether batches of training are needed too, besides those of evaluation.
        """
        parallel.check_batch_size(self.config.eval.batch_size, "config.eval.batch_size")
        if train:
            parallel.check_batch_size(self.config.batch_size, "config.batch_size", self.config.accumulate)

    # What the network is and was made for.

    @property
    def data_info(self) -> DataInfo:
        return self.builder.data_info

    @property
    def task_names(self) -> tuple[str, ...]:
        return tuple(task.name for task in self.tasks)

    @property
    def best_metric(self) -> tuple[str, bool]:
        """The metric by which the best checkpoint is kept, and whether higher is better."""
        known = self._metrics
        name = self.config.checkpoint.best_metric or f"{self.tasks[0].name}/{self.tasks[0].main_metric}"
        if name not in known:
            raise ValueError(f"config.checkpoint.best_metric = {name!r} is not known; known: {', '.join(known)}")
        return name, known[name]

    @property
    def _metrics(self) -> dict[str, bool]:
        """Names of all metrics, and whether higher is better."""
        return {
            f"{task.name}/{metric}": higher
            for task in self.tasks
            for metric, higher in task.metric().higher_is_better.items()
        }

    def abstract_variables(self) -> Any:
        """Shapes and types of the network's variables."""
        return self._abstract_variables

    @functools.cached_property
    def _abstract_variables(self) -> Any:  # asked for again and again, and a second or so of tracing
        image = jax.numpy.zeros((1, *self.data_info.image_size, 3))
        return jax.eval_shape(functools.partial(self.model.init, train=False), jax.random.key(0), image)

    @property
    def weight_layouts(self) -> tuple[names.Layout, ...]:
        """The kinds of PyTorch file that there are for the network."""
        return names.layouts(self.config.model.arch, self.config.model.backbone, self.task_names)

    def load_weights(self) -> dict[tuple[str, ...], np.ndarray]:
        """The variables that `config.model.init_from` holds, by (collection, *path); none where it is not set.

        Raises:
            WeightsError: the file cannot be read or does not fit the network; the message says in what.
        """
        if self.config.model.init_from is None:
            return {}
        path = files.checked_path(self.config.model.init_from)
        return torch.load(path, self.abstract_variables(), self.weight_layouts)

    # Lengths.

    def to_steps(self, text: str) -> int:
        """From a duration such as "20 epochs" to steps; the data set must be prepared."""
        return duration.to_steps(text, examples_per_epoch=self._size("train"), batch_size=self.config.batch_size)

    @property
    def steps_per_epoch(self) -> float:
        return self._size("train") / self.config.batch_size

    @property
    def total_steps(self) -> int:
        return self.to_steps(self.config.duration)

    @functools.cached_property
    def learning_rate(self) -> optax.Schedule:
        """The learning rate as a function of the steps done."""
        return build_schedule(self.config.optimizer, self.total_steps, self.to_steps)

    # What changes the state.

    @functools.cached_property
    def tx(self) -> optax.GradientTransformationExtraArgs:
        """Weighting methods and optimiser, as one optax chain over `TaskGradients`."""
        return self._build_tx(self.learning_rate, steps_per_epoch=max(round(self.steps_per_epoch), 1))

    def _build_tx(self, learning_rate: optax.Schedule, steps_per_epoch: int) -> optax.GradientTransformationExtraArgs:
        return weighting.build_weighting(
            self.config.weighting,
            self.task_names,
            build_optimizer(self.config.optimizer, learning_rate),
            options=self._weighting_options,
            defaults={"steps_per_epoch": steps_per_epoch, "learning_rate": learning_rate},
        )

    @property
    def _needs(self) -> weighting.Needs:
        return weighting.needs_of(self.config.weighting, options=self._weighting_options)

    @property
    def _weighting_options(self) -> dict[str, dict[str, Any]]:
        options = self.config.weighting_options
        return {name: {k: _plain(v) for k, v in options[name].items()} for name in options}

    def init_state(self) -> TrainState:
        """The state before the first step, on every device of this process."""
        # Hundreds of random number generators run once: optimising them would take longer than anything else here.
        make_state = jax.jit(self._make_state, compiler_options={"xla_backend_optimization_level": 0})
        loaded = self.load_weights()
        if loaded:
            shapes = self.abstract_variables()
            total = len(jax.tree.leaves((shapes["params"], shapes["batch_stats"])))
            log.info("%d of the network's %d arrays are from %s", len(loaded), total, self.config.model.init_from)
        return parallel.place_state(make_state(jax.random.key(self.config.seed), loaded))

    def abstract_state(self) -> TrainState:
        """Shapes and types of the state."""
        return jax.eval_shape(self._make_state, jax.random.key(self.config.seed))

    def _make_state(self, key: jax.Array, loaded: Any = types.MappingProxyType({})) -> TrainState:
        return steps.create_state(self.model, self.tx, key, self.data_info.image_size, len(self.tasks), loaded)

    @functools.cached_property
    def train_step(self) -> Callable[[TrainState, Batch], TrainState]:
        parallel.check_batch_size(self.config.batch_size, "config.batch_size", self.config.accumulate)
        step = steps.make_train_step(
            *(self.model, self.tasks, self.tx),
            key=jax.random.key(self.config.seed),
            axis_name=parallel.AXIS,
            accumulate=self.config.accumulate,
            features=self._needs.features,
        )
        return parallel.map_train_step(step)

    @functools.cached_property
    def eval_step(self) -> Callable[[Any, Batch], Any]:
        parallel.check_batch_size(self.config.eval.batch_size, "config.eval.batch_size")
        step = steps.make_eval_step(self.model, self.tasks, protocol=self.config.eval.protocol, axis_name=parallel.AXIS)
        return parallel.map_eval_step(step)

    @functools.cached_property
    def predict_step(self) -> Callable[[Any, Any], Any]:
        return parallel.map_predict_step(steps.make_predict_step(self.model))

    # Data.

    def prepare_data(self) -> None:
        """Prepares the data set where it is not: process 0 first, then those that do not share its disk."""
        if jax.process_index() == 0:
            self.builder.prepare()
        parallel.wait_for_all("data prepared")
        if jax.process_index() > 0:
            object.__setattr__(self, "builder", _build_dataset(self.config.data))  # reads what process 0 wrote
            self.builder.prepare()

    def train_batches(self, start_step: int) -> Iterator[Batch]:
        """This process' part of every batch from a step on, with a second batch where the weighting needs one."""
        seed = self.config.seed
        batches = self._stream(start_step, seed)
        if not self._needs.second_batch:
            return batches
        return pipeline.with_second(batches, self._stream(start_step, pipeline.second_seed(seed)))

    def _stream(self, start_step: int, seed: int) -> Generator[Batch, None, None]:
        change = functools.partial(augment.augment, inverse_depth=self.data_info.inverse_depth)
        return pipeline.train_batches(
            self.builder.as_data_source("train"),
            targets=self._targets,
            global_batch_size=self.config.batch_size,
            seed=seed,
            start_step=start_step,
            process_index=jax.process_index(),
            process_count=jax.process_count(),
            augment=change if self.config.data.augment else None,
            workers=self.config.data.workers,
        )

    def eval_batches(self, split: str) -> Iterator[Batch]:
        """This process' part of one pass over a split."""
        return pipeline.eval_batches(
            self.builder.as_data_source(split),
            targets=self._targets,
            global_batch_size=self.config.eval.batch_size,
            process_index=jax.process_index(),
            process_count=jax.process_count(),
        )

    def whole_split(self, split: str) -> Iterator[Batch]:
        """One pass over a split, all of it on this process."""
        return pipeline.eval_batches(
            self.builder.as_data_source(split),
            targets=self._targets,
            global_batch_size=self.config.eval.batch_size,
            process_index=0,
            process_count=1,
        )

    @property
    def _targets(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(task.target for task in self.tasks))

    def _size(self, split: str) -> int:
        return self.builder.info.splits[split].num_examples


def _build_dataset(config: ml_collections.ConfigDict) -> DenseBuilder:
    if config.name not in DATASETS:
        raise ValueError(f"config.data.name = {config.name!r} is not known; known: {', '.join(sorted(DATASETS))}")
    builder = DATASETS[config.name]
    options = {key: _plain(value) for key, value in config.options.items()}
    known = [name for name in inspect.signature(builder).parameters if name not in ("data_dir", "raw_dir")]
    unknown = [name for name in options if name not in known]
    if unknown:
        raise ValueError(f"config.data.options.{unknown[0]} is not known to {config.name}; known: {', '.join(known)}")
    return builder(data_dir=config.data_dir, raw_dir=config.raw_dir, **options)


def _plain(value: Any) -> Any:
    """ConfigDicts as dicts, all the way down."""
    return value.to_dict() if isinstance(value, ml_collections.ConfigDict) else value
