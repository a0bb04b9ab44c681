"""The dataset and the tasks of a run."""

import functools
import inspect
import logging
import pathlib
import socket
from collections.abc import Callable, Iterator, Mapping
from typing import Protocol, cast

import jax
import ml_collections
import numpy as np

from mtan_jax.data import DATASETS, bucket_data
from mtan_jax.data.batches import pipeline
from mtan_jax.data.builder import DataInfo, DenseBuilder
from mtan_jax.data.dataset_record import DataRecord, examples_of
from mtan_jax.data.errors import RawDataError
from mtan_jax.data.image_sets import ImageSets, ImageSetsInfo
from mtan_jax.experiment.lengths import Lengths
from mtan_jax.runtime import activity, mirror, parallel, paths, shared_folder
from mtan_jax.tasks import Task
from mtan_jax.types import AbstractBatch, Batch, Batches, Shape

log = logging.getLogger(__name__)


class TaskData(Protocol):
    """A dataset and the tasks that are trained on it.

    There are two implementations: `DenseData`, in which each image may have a target for every task, and
    `ImageSetData`, in which each image belongs to one task. Both can be built before the dataset is prepared; reading
    examples needs the prepared dataset.

    Attributes:
        config: of the run.
        record: of the dataset that a run was trained on; the dataset itself may then be absent.
        builder: prepares and reads the dataset.
        tasks: in the order of all arrays over tasks.
        info: image size, classes and, for sets of labeled images, pixel statistics, which preparation computes.
        trained: names of the tasks that are trained.
        set_names: names of the sets of examples that training reads.
        targets: names of the tasks' targets, without repetitions.
        known_names: task names that a configuration may mention even if the run has no such task.
        backbones: names of the backbones for this kind of data.
        groups: number of tasks per batch if each image belongs to one task, else None.
        splits: names of the splits that can be predicted.
        summary_metrics: names of metrics over all tasks, and whether higher is better.
        default_metric: the metric that chooses the best checkpoint by default.
        is_described: whether `info` suffices for predictions, without the prepared dataset.
    """

    config: ml_collections.ConfigDict
    record: DataRecord | None
    builder: DenseBuilder | ImageSets
    tasks: tuple[Task, ...]

    @property
    def info(self) -> DataInfo | ImageSetsInfo: ...
    @property
    def trained(self) -> tuple[str, ...]: ...
    @property
    def set_names(self) -> tuple[str, ...]: ...
    @property
    def known_names(self) -> frozenset[str]: ...
    @property
    def backbones(self) -> tuple[str, ...]: ...
    @property
    def groups(self) -> int | None: ...
    @property
    def splits(self) -> tuple[str, ...]: ...
    @property
    def summary_metrics(self) -> Mapping[str, bool]: ...
    @property
    def default_metric(self) -> str: ...
    @property
    def is_described(self) -> bool: ...

    def check(self) -> None:
        """Raises a ValueError if a field of the configuration does not fit this kind of data."""

    def lengths(self) -> Lengths:
        """Converts durations to steps. Raises a ValueError while the number of training examples is unknown."""

    def abstract_batch(self) -> AbstractBatch:
        """Shapes and types of a batch of one image."""

    def train_batches(self, start_step: int, *, seed: int, streams: int, total_steps: int) -> Batches:
        """This process' part of every training batch from a step on.

        Args:
            start_step: number of completed steps.
            seed: of the order and the augmentation.
            streams: number of these iterators that run at the same time and share `/dev/shm`.
            total_steps: length of the run.
        """

    def one_pass(self, split: str, batch_size: int, process_index: int, process_count: int) -> Iterator[Batch]:
        """One process' rows of one pass over a split; `batch_size` counts the rows of all processes."""

    def summarize(self, metrics: Mapping[str, float], single_task: Mapping[str, float]) -> dict[str, float]:
        """Metrics over all tasks.

        Args:
            metrics: of this run, by "task/metric".
            single_task: of single-task networks, by "task/metric"; may be empty.
        """

    @property
    def targets(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(task.target for task in self.tasks))

    def train_stream(self, start_step: int, *, seed: int, total_steps: int, second_batch: bool) -> Batches:
        """`train_batches`, with a second batch of the same data in another order if `second_batch` is set."""
        stream = functools.partial(
            self.train_batches, start_step, streams=2 if second_batch else 1, total_steps=total_steps
        )
        if not second_batch:
            return stream(seed=seed)
        return pipeline.with_second(stream(seed=seed), stream(seed=pipeline.second_seed(seed)))

    def eval_batches(self, split: str) -> Iterator[Batch]:
        """This process' part of one pass over a split."""
        batch_size = parallel.round_up(self.config.eval.batch_size)
        return self.one_pass(split, batch_size, jax.process_index(), jax.process_count())

    def whole_split(self, split: str) -> Iterator[Batch]:
        """One pass over a whole split, on this process."""
        return self.one_pass(split, self.config.eval.batch_size, 0, 1)

    def num_train(self) -> dict[str, int]:
        """Number of training examples per set, from the record or else from the prepared data; sets may be missing."""
        found = self.record.examples if self.record else examples_of(self.builder, self.config.data.name)
        return {name: splits["train"] for name, splits in found.items()}

    def to_record(self) -> DataRecord:
        """The record of the prepared dataset, which a run keeps in its working directory."""
        return DataRecord.of(self.builder, self.config.data.name)

    def prepare(self, *, again: bool | None = None) -> None:
        """Prepares the dataset if it is not prepared.

        In a run of several processes, process 0 prepares it for all that see its folder. Of the others, one process
        per host prepares a copy.

        Args:
            again: whether to prepare it even if it is prepared; None: as `config.data.prepare` says.

        Raises:
            RawDataError: the raw data are missing or damaged.
            ValueError: its classes differ from those that the run was trained on.
        """
        again = self.config.data.prepare == "again" if again is None else again
        with activity.doing("preparing the data", limit=None):
            if parallel.any_process(again or not self.builder.is_prepared()):
                self._prepare_where_missing(again)
            self.builder.prepare(workers=self.config.data.prepare_workers)
        different = self.record.class_differences(self.to_record()) if self.record else []
        if different:
            raise ValueError(
                "the run was trained on a dataset with other classes or another layout (data.json in its working "
                "directory): " + "; ".join(different)
            )

    def _prepare_where_missing(self, again: bool) -> None:
        """Prepares the dataset once per folder, and leaves `builder` with the result."""
        root, workers = self.builder.root, self.config.data.prepare_workers
        if jax.process_index() == 0:
            paths.check_folder(root, "config.data.data_dir", write=True)
        is_local = mirror.remote(root) is None
        blind = shared_folder.blind_processes(root) if is_local else {}  # process 0 uploads what it prepares
        if blind:
            log.info("%s; each host prepares its own copy", _not_seen(blind, root))
        first_on_host = {host: i for i, host in reversed(blind.items())}
        preparing = first_on_host[blind[jax.process_index()]] if jax.process_index() in blind else 0
        if preparing == jax.process_index():
            try:
                self.builder.prepare(workers=workers, again=again)
            except RawDataError as error:
                if not blind:
                    raise
                raise RawDataError(f"host {socket.gethostname()}: {error}\n  {_not_seen(blind, root)}.") from error
        stamps = parallel.gather_texts(repr(self.builder.stamp()))
        if preparing != jax.process_index():
            if is_local:  # a network file system may show the result late
                shared_folder.wait_until(lambda: repr(build_dataset(self.config).stamp()) == stamps[preparing])
            self.builder = build_dataset(self.config)


def _not_seen(blind: Mapping[int, str], folder: pathlib.Path) -> str:
    processes = ("process " if len(blind) == 1 else "processes ") + ", ".join(map(str, blind))
    hosts = list(dict.fromkeys(blind.values()))
    on_hosts = ("host " if len(hosts) == 1 else "hosts ") + ", ".join(hosts)
    return f"{processes} on {on_hosts} {'does' if len(blind) == 1 else 'do'} not see process 0's data folder {folder}"


def build_dataset(config: ml_collections.ConfigDict) -> DenseBuilder | ImageSets:
    """Builds the dataset of `config.data`. Reads and writes no data.

    Raises:
        ValueError: the name or an option is unknown.
        PathError: a folder has an unknown scheme, or cannot be read.
        BucketError: a bucket cannot be read.
    """
    data = config.data
    if data.name not in DATASETS:
        raise ValueError(f"config.data.name = {data.name!r} is not known; known: {', '.join(sorted(DATASETS))}")
    kind = DATASETS[data.name]
    options = {key: plain(value) for key, value in data.options.items()}
    known = [name for name in inspect.signature(kind).parameters if name not in ("data_dir", "raw_dir", "datasets")]
    unknown = [name for name in options if name not in known]
    if unknown:
        raise ValueError(f"config.data.options.{unknown[0]} is not known to {data.name}; known: {', '.join(known)}")
    if issubclass(kind, ImageSets):
        options["datasets"] = tuple(dict.fromkeys(getattr(task, "target", task) for task in config.tasks))
    build = functools.partial(cast(Callable[..., DenseBuilder | ImageSets], kind), **options)
    data_dir, raw_dir = _folder(data, "data_dir"), _folder(data, "raw_dir")
    return bucket_data.build(build, data.name, data_dir, raw_dir, again=data.prepare == "again")


def check_record(record: DataRecord | None, builder: DenseBuilder | ImageSets, name: str) -> None:
    """Raises a ValueError if the configuration names another dataset than the one that the run was trained on."""
    if record and (mismatches := record.mismatches(builder, name)):
        raise ValueError(
            "config.data is not the dataset that the run was trained on (data.json in its working directory): "
            + "; ".join(mismatches)
        )


def plain(value: object) -> object:
    """Converts a ConfigDict to nested dictionaries."""
    return value.to_dict() if isinstance(value, ml_collections.ConfigDict) else value


def shape_of_one(*shape: int, dtype: type[np.generic]) -> Shape:
    """Shape and type of an array with a batch axis of length 1."""
    return jax.ShapeDtypeStruct((1, *shape), dtype)


def _folder(data: ml_collections.ConfigDict, field: str) -> str | None:
    if data[field] is None:
        return None
    folder = mirror.local(data[field], f"config.data.{field}", keep=True)
    paths.check_folder(folder, f"config.data.{field}", write=False)
    return str(folder)
