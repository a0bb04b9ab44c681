"""From a configuration to everything that a run needs: the one place where a configuration is read."""

import dataclasses
import functools
import inspect
import logging
from collections.abc import Callable, Generator, Iterator, Sequence
from typing import Any

import jax
import ml_collections
import numpy as np
import optax
from flax import linen as nn
from flax import traverse_util

from mtan_jax import steps, weighting
from mtan_jax.config import DURATIONS, check_fields
from mtan_jax.data import DATASETS
from mtan_jax.data.batches import augment, image_set_batches, pipeline
from mtan_jax.data.batches.set_order import Itinerary
from mtan_jax.data.builder import DataInfo, DenseBuilder
from mtan_jax.data.dataset_record import DataRecord, examples_of
from mtan_jax.data.image_sets import ImageSets, ImageSetsInfo
from mtan_jax.experiment import absent_tasks, warm_start
from mtan_jax.interop import files, names, torch
from mtan_jax.models import IMAGE_BACKBONES, SHARE_FEATURES, build_model
from mtan_jax.models.shared_features import abstract_features
from mtan_jax.runtime import parallel, paths
from mtan_jax.steps import duration
from mtan_jax.steps.optimizer import build_optimizer, build_schedule, rest_absent
from mtan_jax.steps.state import TrainState
from mtan_jax.tasks import Task, build_tasks
from mtan_jax.tasks.decathlon_score import decathlon_score
from mtan_jax.tasks.delta_m import delta_m
from mtan_jax.tasks.metrics import check_protocol

log = logging.getLogger(__name__)

Batch = dict[str, Any]

MEAN_ACCURACY = "mean/accuracy"  # over sets of labelled images


@dataclasses.dataclass(frozen=True, eq=False)
class Experiment:
    """A run, made from its configuration.

    Attributes:
        config: as given, its fields checked.
        builder: of the data set; several where it is `ImageSets`.
        tasks: in the order of all arrays over tasks.
        model: the network.
        record: what a trained run keeps of its dataset; where given, the dataset may be absent, and images are
            normalised by the statistics that the network was trained with.
    """

    config: ml_collections.ConfigDict
    builder: DenseBuilder | ImageSets
    tasks: tuple[Task, ...]
    model: nn.Module
    record: DataRecord | None = None

    @classmethod
    def from_config(cls, config: ml_collections.ConfigDict, record: DataRecord | None = None) -> "Experiment":
        """Checks the configuration and makes data set, tasks and network from it. Reads and writes no data.

        Args:
            config: of the run.
            record: of the run's dataset, where the run is trained; see `mtan_jax.training.open_run.open_run`.

        Raises:
            ValueError: for a field or value that is not known or does not fit the others; the message names it.
            RawDataError: the classes of sets of labelled images are known neither from `record` nor from data.
        """
        check_fields(config)
        if config.model.init_from is not None:
            paths.local(config.model.init_from, "config.model.init_from")
        if config.compilation_cache:
            paths.check_local(config.compilation_cache, "config.compilation_cache")
        check_protocol(config.eval.protocol)
        builder = _build_dataset(config)
        if record and (mismatches := record.mismatches(builder, config.data.name)):
            raise ValueError(
                "config.data is not the dataset that the run was trained on (data.json in its working directory): "
                + "; ".join(mismatches)
            )
        tasks = build_tasks(config.tasks, _data_info(builder, record))
        for task in tasks:
            if task.target not in builder.targets:
                raise ValueError(
                    f"config.tasks: task {task.name!r} needs the target {task.target!r}; {config.data.name} has "
                    f"{', '.join(builder.targets)}"
                )
        if isinstance(builder, ImageSets) != (config.model.backbone in IMAGE_BACKBONES):
            raise ValueError(
                f"config.model.backbone = {config.model.backbone!r} does not suit config.data.name = "
                f"{config.data.name!r}: {', '.join(IMAGE_BACKBONES)} are for sets of labelled images, others for dense "
                "tasks"
            )
        groups = config.mixing.tasks_per_step if isinstance(builder, ImageSets) else 1
        if isinstance(builder, ImageSets):
            for task in tasks:
                if task.name != task.target:
                    raise ValueError(
                        f"config.tasks: the task {task.name!r} is of the set {task.target!r}; of sets of labelled "
                        "images each is one task, under the name of the set"
                    )
        experiment = cls(config, builder, tasks, build_model(config.model, tasks, parallel.AXIS, groups), record)
        experiment.abstract_variables()  # an image size that does not fit fails here, not an hour later
        experiment._check_values()
        return experiment

    def _check_values(self) -> None:
        """Makes what needs the data with stand-ins for them, so that no mistake shows only when they are prepared."""
        config = self.config
        for name in DURATIONS:
            text = functools.reduce(getattr, name.split("."), config)
            try:
                _ = None if text is None else self._to_steps_without_data(text)
            except ValueError as error:
                raise ValueError(f"config.{name}: {error}") from error
        tx = self._tx_without_data()
        jax.eval_shape(tx.init, self.abstract_variables()["params"])
        without = [task.name for task in self.tasks if task.indicator is None]
        if self._needs.indicators and without:
            raise ValueError(
                f"config.weighting = {config.weighting!r} looks at how well each task is done, and of "
                f"{', '.join(without)} it cannot: give Task.indicator, such as mtan_jax.tasks.indicators.right_class"
            )
        if self._needs.features and self.is_mixture:
            raise ValueError(
                f"config.weighting = {config.weighting!r} with wrt='features' is for dense tasks: of images of single "
                "tasks no features are read by several tasks"
            )
        if self._needs.features and not abstract_features(self.model, self.abstract_variables(), self._abstract_image):
            raise ValueError(
                f"config.weighting = {config.weighting!r} with wrt='features' needs features that tasks share: "
                f"config.model.arch = {config.model.arch!r} with {len(self.tasks)} tasks has none, "
                f"{', '.join(SHARE_FEATURES)} with several tasks have"
            )
        if self.is_mixture:
            self._itinerary(dict.fromkeys(self._trained, config.batch_size))
        if config.data.prepare not in ("once", "again"):
            raise ValueError(f"config.data.prepare = {config.data.prepare!r} is not known; known: once, again")
        _ = self.best_metric
        single_task = self.single_task
        if single_task and self.is_mixture:
            self.score(dict.fromkeys(self.task_names, 0.0))
        if single_task:
            delta_m({name: 1.0 for name in single_task if name in self._metrics}, single_task)

    def check_batch_sizes(self, *, train: bool) -> None:
        """Raises a ValueError where the devices of this machine cannot share a batch.

        Args:
            train: whether batches of training are needed too, besides those of evaluation.
        """
        parallel.check_batch_size(self.config.eval.batch_size, "config.eval.batch_size")
        if train:
            self._check_train_batch_size()

    def _check_train_batch_size(self, devices: int | None = None) -> None:
        groups = self.config.mixing.tasks_per_step if self.is_mixture else 1
        parallel.check_batch_size(self.config.batch_size, "config.batch_size", self.config.accumulate, groups, devices)

    # What the network is and was made for.

    @property
    def data_info(self) -> Any:  # DataInfo, or ImageSetsInfo
        return _data_info(self.builder, self.record)

    @property
    def is_mixture(self) -> bool:
        """Whether each image belongs to one task."""
        return isinstance(self.builder, ImageSets)

    @property
    def task_names(self) -> tuple[str, ...]:
        return tuple(task.name for task in self.tasks)

    @property
    def best_metric(self) -> tuple[str, bool]:
        """The metric by which the best checkpoint is kept, and whether higher is better."""
        known = self._metrics
        first = MEAN_ACCURACY if self.is_mixture else f"{self.tasks[0].name}/{self.tasks[0].main_metric}"
        name = self.config.checkpoint.best_metric or first
        if name not in known:
            raise ValueError(f"config.checkpoint.best_metric = {name!r} is not known; known: {', '.join(known)}")
        return name, known[name]

    @property
    def _metrics(self) -> dict[str, bool]:
        """Names of all metrics, and whether higher is better."""
        metrics = {
            f"{task.name}/{metric}": higher
            for task in self.tasks
            for metric, higher in task.metric().higher_is_better.items()
        }
        return metrics | ({MEAN_ACCURACY: True} if self.is_mixture else {})

    def score(self, accuracies: dict[str, float]) -> float:
        """The score of the Visual Decathlon, relative to the accuracies in `config.eval.single_task`."""
        baseline = self.single_task
        wanted = {f"{name}/accuracy" for name in self.task_names}
        if set(baseline) != wanted or not all(0 <= value < 1 for value in baseline.values()):
            raise ValueError(
                f"config.eval.single_task = {baseline}: of every set the accuracy is needed, from 0 to below 1, as "
                f"('{self.task_names[0]}/accuracy', 0.6)"
            )
        return decathlon_score(accuracies, {name: 1 - baseline[f"{name}/accuracy"] for name in self.task_names})

    @property
    def single_task(self) -> dict[str, float]:
        """`config.eval.single_task` of the tasks of this run."""
        return absent_tasks.without(self._absent, dict(self.config.eval.single_task))

    @functools.cached_property
    def _absent(self) -> frozenset[str]:
        return absent_tasks.absent_tasks(self.task_names, self.builder)

    def abstract_variables(self) -> Any:
        """Shapes and types of the network's variables."""
        return self._abstract_variables

    @functools.cached_property
    def _abstract_variables(self) -> Any:  # asked for again and again, and a second or so of tracing
        return jax.eval_shape(functools.partial(self.model.init, train=False), jax.random.key(0), self._abstract_image)

    @property
    def _abstract_image(self) -> Any:
        return jax.ShapeDtypeStruct((1, *self.data_info.image_size, 3), np.float32)

    @property
    def weight_layouts(self) -> tuple[names.Layout, ...]:
        """The kinds of PyTorch file that there are for the network."""
        return names.layouts(self.config.model.arch, self.config.model.backbone, self.task_names)

    def load_weights(self) -> dict[tuple[str, ...], Any]:
        """The variables that `config.model.init_from` holds, by (collection, *path); none where it is not set.

        Raises:
            WeightsError: the file cannot be read or does not fit the network; the message says in what.
            CheckpointError: the run whose working directory it is has no checkpoint, or a damaged one.
        """
        if self.config.model.init_from is None:
            if "frozen" in self.abstract_variables():
                raise files.WeightsError(
                    f"config.model.arch = {self.config.model.arch!r} adapts a trained network: name the run of that "
                    "with --config.model.init_from=WORKDIR"
                )
            return {}
        init_from = paths.local(self.config.model.init_from, "config.model.init_from")
        if init_from.is_dir():
            source, tasks = warm_start.read_run(init_from)
            wanted = traverse_util.flatten_dict(dict(self.abstract_variables()))
            return warm_start.adopt(source, tasks, wanted, self.task_names)
        if not init_from.suffix:
            raise files.WeightsError(
                f"config.model.init_from = {self.config.model.init_from!r}: there is no such working directory"
            )
        path = files.checked_path(self.config.model.init_from, "config.model.init_from")
        return torch.load(path, self.abstract_variables(), self.weight_layouts)

    # Lengths.

    def to_steps(self, text: str) -> int:
        """From a duration such as "20 epochs" to steps; the dataset must be prepared, or there must be a record."""
        return duration.to_steps(text, epochs_to_steps=self._epochs_to_steps, batch_size=self.config.batch_size)

    @property
    def steps_per_epoch(self) -> float:
        return self._epochs_to_steps(1)

    def epoch_at(self, step: int) -> float:
        """How many epochs the steps so far make."""
        if isinstance(self.builder, ImageSets):
            return self._train_itinerary.steps_to_epochs(step)
        return step / self.steps_per_epoch

    def _epochs_to_steps(self, epochs: float) -> float:
        if isinstance(self.builder, ImageSets):
            return self._train_itinerary.epochs_to_steps(epochs)
        return epochs * self._num_train(self.config.data.name) / self.config.batch_size

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
        optimizer = build_optimizer(self.config.optimizer, learning_rate)
        absent = self.config.optimizer.absent_tasks
        if absent not in ("step", "rest"):
            raise ValueError(f"config.optimizer.absent_tasks = {absent!r} is not known; known: step, rest")
        if absent == "rest" and self.config.optimizer.name != "sgd":
            raise ValueError(
                f"config.optimizer.absent_tasks = 'rest' with config.optimizer.name = {self.config.optimizer.name!r}: "
                "its count of steps is that of all tasks, and the first steps of a task that comes late would be far "
                "too large; use sgd, or absent_tasks = 'step'"
            )
        if absent == "rest":
            optimizer = rest_absent(optimizer, self.task_names)
        elif self.is_mixture and set(self._trained) != set(self.task_names):
            # What belongs to a task that is never trained on must not decay in any case.
            optimizer = rest_absent(optimizer, self.task_names, but=self._trained)
        return weighting.build_weighting(
            self._weighting,
            self.task_names,
            optimizer,
            options=self._weighting_options,
            defaults={"steps_per_epoch": steps_per_epoch, "learning_rate": learning_rate},
        )

    @property
    def _tx_of_state(self) -> optax.GradientTransformationExtraArgs:
        """`tx`; where the dataset's size is unknown, a chain with a state of the same structure, which cannot train."""
        known = set(self._trained if self.is_mixture else (self.config.data.name,)) <= self._train_examples.keys()
        return self.tx if known else self._tx_without_data()

    def _to_steps_without_data(self, text: str) -> int:
        return duration.to_steps(text, epochs_to_steps=lambda epochs: epochs, batch_size=1)

    def _tx_without_data(self) -> optax.GradientTransformationExtraArgs:
        """The same chain as `tx` with stand-ins for lengths that only the data know."""
        schedule = build_schedule(self.config.optimizer, 1, self._to_steps_without_data)
        return self._build_tx(schedule, steps_per_epoch=1)

    @property
    def _needs(self) -> weighting.Needs:
        return weighting.needs_of(self._weighting, options=self._weighting_options)

    @property
    def _weighting(self) -> weighting.Spec:
        return absent_tasks.methods_without(self._absent, self.config.weighting)

    @property
    def _weighting_options(self) -> dict[str, dict[str, Any]]:
        options = self.config.weighting_options
        plain = {name: {k: _plain(v) for k, v in options[name].items()} for name in options}
        return {name: absent_tasks.options_without(self._absent, values) for name, values in plain.items()}

    def init_state(self) -> TrainState:
        """The state before the first step, on every device of this process."""
        # Hundreds of random number generators run once: optimising them would take longer than anything else here.
        make_state = jax.jit(self._make_state, compiler_options={"xla_backend_optimization_level": 0})
        loaded, shapes = self.load_weights(), self.abstract_variables()
        if loaded:
            total = len(jax.tree.leaves({name: shapes[name] for name in shapes if name != "masks"}))
            log.info("%d of the network's %d arrays are from %s", len(loaded), total, self.config.model.init_from)
        return parallel.place_state(make_state(jax.random.key(self.config.seed), loaded))

    def abstract_state(self) -> TrainState:
        """Shapes and types of the state."""
        return self._abstract_state(self._tx_of_state)

    def _abstract_state(self, tx: optax.GradientTransformation) -> TrainState:
        initial = functools.partial(steps.state_before, tx=tx, num_tasks=len(self.tasks))
        return jax.eval_shape(initial, self.abstract_variables())

    def _make_state(self, key: jax.Array, loaded: Any) -> TrainState:
        size, tx = self.data_info.image_size, self._tx_of_state
        return steps.create_state(self.model, tx, key, size, len(self.tasks), loaded)

    @functools.cached_property
    def train_step(self) -> Callable[[TrainState, Batch], TrainState]:
        self._check_train_batch_size()
        return parallel.map_train_step(self._make_train_step(self.tx))

    def _make_train_step(self, tx: optax.GradientTransformation) -> Callable[[TrainState, Batch], TrainState]:
        return steps.make_train_step(
            *(self.model, self.tasks, tx),
            key=jax.random.key(self.config.seed),
            axis_name=parallel.AXIS,
            accumulate=self.config.accumulate,
            features=self._needs.features,
            groups=self.config.mixing.tasks_per_step if self.is_mixture else None,
        )

    def planned_step(self, devices: Sequence[Any]) -> tuple[Any, TrainState, Batch]:
        """The step of training on devices that need not be there, and the shapes of its state and batch.

        It needs no data: lengths in epochs are taken to be others than they are, which changes constants of the
        program alone.

        Raises:
            ValueError: the devices cannot share a batch.
        """
        self._check_train_batch_size(len(devices))
        rows = self.config.batch_size // len(devices)
        tx = self._tx_without_data()
        state = self._abstract_state(tx)
        batch = jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct((len(devices), rows, *leaf.shape[1:]), leaf.dtype), self._abstract_batch()
        )
        return parallel.map_train_step(self._make_train_step(tx), devices), state, batch

    def _abstract_batch(self) -> Batch:
        """Shapes and types of a batch of one image."""

        def array(*shape: int, dtype: Any = np.float32) -> Any:
            return jax.ShapeDtypeStruct((1, *shape), dtype)

        size, flags = self.data_info.image_size, {name: array(dtype=np.bool_) for name in self._targets}
        if isinstance(self.builder, ImageSets):
            kinds = dict.fromkeys(self._targets, array(dtype=np.int32))
        else:
            channels = {name: self.builder.targets[name].channels for name in self._targets}
            kinds = {
                name: array(*size, dtype=np.int32) if count is None else array(*size, count)
                for name, count in channels.items()
            }
        batch = {"image": self._abstract_image, "targets": kinds, "labelled": flags, "weight": array()}
        if self.is_mixture:
            batch["task"] = array(dtype=np.int32)
        return batch | ({"second": batch} if self._needs.second_batch else {})

    @functools.cached_property
    def eval_step(self) -> Callable[[Any, Batch], Any]:
        parallel.check_batch_size(self.config.eval.batch_size, "config.eval.batch_size")
        step = steps.make_eval_step(self.model, self.tasks, protocol=self.config.eval.protocol, axis_name=parallel.AXIS)
        return parallel.map_eval_step(step)

    @functools.cached_property
    def predict_step(self) -> Callable[[Any, Any], Any]:
        return parallel.map_predict_step(steps.make_predict_step(self.model))

    # Data.

    def prepare_data(self, *, again: bool | None = None) -> None:
        """Prepares the data set where it is not: process 0 first, then those that do not share its disk.

        Args:
            again: whether it is prepared in any case; None: as `config.data.prepare` says.
        """
        workers = self.config.data.prepare_workers
        again = self.config.data.prepare == "again" if again is None else again
        before = self.builder.stamp()
        if jax.process_index() == 0:
            self.builder.prepare(workers=workers, again=again)
        parallel.wait_for_all("data prepared")
        if jax.process_index() > 0:
            object.__setattr__(self, "builder", _build_dataset(self.config))  # reads what process 0 wrote
            self.builder.prepare(workers=workers, again=again and self.builder.stamp() == before)
        different = self.record.class_differences(self.data_record()) if self.record else []
        if different:
            raise ValueError(
                "the classes or the layout of the dataset are not those that the run was trained on (data.json in its "
                "working directory): " + "; ".join(different)
            )

    def data_record(self) -> DataRecord:
        """What a run keeps of its dataset, which must be prepared."""
        return DataRecord.of(self.builder, self.config.data.name)

    @property
    def _train_examples(self) -> dict[str, int]:
        """Number of training examples of each set, as far as known: that trained on, or else that prepared."""
        found = self.record.examples if self.record else examples_of(self.builder, self.config.data.name)
        return {name: splits["train"] for name, splits in found.items()}

    def _num_train(self, name: str) -> int:
        if name not in self._train_examples:
            raise ValueError(f"the number of training examples of {name} is unknown until it is prepared")
        return self._train_examples[name]

    def train_batches(self, start_step: int) -> Iterator[Batch]:
        """This process' part of every batch from a step on, with a second batch where the weighting needs one."""
        seed = self.config.seed
        batches = self._stream(start_step, seed)
        if not self._needs.second_batch:
            return batches
        return pipeline.with_second(batches, self._stream(start_step, pipeline.second_seed(seed)))

    def _stream(self, start_step: int, seed: int) -> Generator[Batch, None, None]:
        processes = {"process_index": jax.process_index(), "process_count": jax.process_count()}
        streams = 2 if self._needs.second_batch else 1
        if isinstance(self.builder, ImageSets):
            return image_set_batches.train_batches(
                {name: self.builder.builders[name].as_data_source("train") for name in self._trained},
                self.data_info,
                self._train_itinerary,
                seed=seed,
                steps=self.total_steps,
                start_step=start_step,
                augment=self.config.data.augment,
                workers=self.config.data.workers,
                streams=streams,
                **processes,
            )
        change = functools.partial(augment.augment, inverse_depth=self.data_info.inverse_depth)
        return pipeline.train_batches(
            self.builder.as_data_source("train"),
            targets=self._targets,
            global_batch_size=self.config.batch_size,
            seed=seed,
            start_step=start_step,
            augment=change if self.config.data.augment else None,
            workers=self.config.data.workers,
            streams=streams,
            **processes,
        )

    @property
    def _trained(self) -> tuple[str, ...]:
        """The sets that are trained on."""
        names = tuple(self.config.mixing.tasks) or self._targets
        unknown = [name for name in names if name not in self._targets]
        if unknown:
            raise ValueError(f"config.mixing.tasks has {unknown[0]!r}; the tasks are {', '.join(self._targets)}")
        return names

    @functools.cached_property
    def _train_itinerary(self) -> Itinerary:
        return self._itinerary({name: self._num_train(name) for name in self._trained})

    def _itinerary(self, sizes: dict[str, int]) -> Itinerary:
        mixing = self.config.mixing
        until = absent_tasks.without(self._absent, dict(mixing.until))
        unknown = [name for name in until if name not in self._targets]
        if unknown:
            raise ValueError(
                f"config.mixing.until has {unknown[0]!r}; the tasks are {', '.join(self._targets)}; "
                "--config.mixing.until={} leaves out none"
            )
        return Itinerary(
            mixing.order,
            sizes,
            self.config.batch_size,
            groups=mixing.tasks_per_step,
            temperature=mixing.temperature,
            until=until,
            seed=self.config.seed,
        )

    def eval_batches(self, split: str) -> Iterator[Batch]:
        """This process' part of one pass over a split."""
        return self._one_pass(split, jax.process_index(), jax.process_count())

    def whole_split(self, split: str) -> Iterator[Batch]:
        """One pass over a split, all of it on this process."""
        return self._one_pass(split, 0, 1)

    def _one_pass(self, split: str, process_index: int, process_count: int) -> Iterator[Batch]:
        processes = {"process_index": process_index, "process_count": process_count}
        if isinstance(self.builder, ImageSets):
            sources = {name: self.builder.builders[name].as_data_source(split) for name in self._targets}
            return image_set_batches.eval_batches(
                sources, self.data_info, batch_size=self.config.eval.batch_size, **processes
            )
        return pipeline.eval_batches(
            self.builder.as_data_source(split),
            targets=self._targets,
            global_batch_size=self.config.eval.batch_size,
            **processes,
        )

    @property
    def _targets(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(task.target for task in self.tasks))


def _build_dataset(config: ml_collections.ConfigDict) -> DenseBuilder | ImageSets:
    data = config.data
    if data.name not in DATASETS:
        raise ValueError(f"config.data.name = {data.name!r} is not known; known: {', '.join(sorted(DATASETS))}")
    builder: Any = DATASETS[data.name]
    options = {key: _plain(value) for key, value in data.options.items()}
    known = [name for name in inspect.signature(builder).parameters if name not in ("data_dir", "raw_dir", "datasets")]
    unknown = [name for name in options if name not in known]
    if unknown:
        raise ValueError(f"config.data.options.{unknown[0]} is not known to {data.name}; known: {', '.join(known)}")
    if issubclass(builder, ImageSets):
        options["datasets"] = tuple(dict.fromkeys(getattr(task, "target", task) for task in config.tasks))
    return builder(data_dir=_data_folder(data, "data_dir"), raw_dir=_data_folder(data, "raw_dir"), **options)


def _data_folder(data: ml_collections.ConfigDict, field: str) -> str | None:
    if data[field] is None:
        return None
    folder = paths.local(data[field], f"config.data.{field}")
    paths.check_folder(folder, f"config.data.{field}", write=False)
    return str(folder)


def _data_info(builder: DenseBuilder | ImageSets, record: DataRecord | None) -> DataInfo | ImageSetsInfo:
    if record and isinstance(builder, ImageSets):
        return record.sets_info
    return builder.data_info


def _plain(value: Any) -> Any:
    """ConfigDicts as dicts, all the way down."""
    return value.to_dict() if isinstance(value, ml_collections.ConfigDict) else value
