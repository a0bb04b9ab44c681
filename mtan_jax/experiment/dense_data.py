"""Dense datasets: each image may have a target for every task."""

import functools
from collections.abc import Iterator, Mapping

import jax
import ml_collections
import numpy as np

from mtan_jax.config import default_config
from mtan_jax.data.batches import augment, pipeline
from mtan_jax.data.builder import DataInfo, DenseBuilder
from mtan_jax.data.dataset_record import DataRecord
from mtan_jax.experiment.lengths import Lengths
from mtan_jax.experiment.task_data import TaskData, check_record, shape_of_one
from mtan_jax.models import BACKBONES
from mtan_jax.tasks import TASKS, build_tasks
from mtan_jax.types import AbstractBatch, Batch, Batches


class DenseData(TaskData):
    """A dense dataset and its tasks; see `TaskData`."""

    builder: DenseBuilder

    def __init__(self, config: ml_collections.ConfigDict, builder: DenseBuilder, record: DataRecord | None):
        check_record(record, builder, config.data.name)
        self.config, self.builder, self.record = config, builder, record
        self.tasks = build_tasks(config.tasks, self.info)

    @property
    def info(self) -> DataInfo:
        return self.builder.data_info

    @property
    def trained(self) -> tuple[str, ...]:
        return tuple(task.name for task in self.tasks)

    @property
    def set_names(self) -> tuple[str, ...]:
        return (self.config.data.name,)

    @property
    def known_names(self) -> frozenset[str]:
        return frozenset({*TASKS, *self.builder.targets})

    @property
    def backbones(self) -> tuple[str, ...]:
        return tuple(BACKBONES)

    @property
    def groups(self) -> None:
        return None

    @property
    def splits(self) -> tuple[str, ...]:
        return "train", "val"

    @property
    def summary_metrics(self) -> Mapping[str, bool]:
        return {}

    @property
    def default_metric(self) -> str:
        return f"{self.tasks[0].name}/{self.tasks[0].main_metric}"

    @property
    def is_described(self) -> bool:
        return True

    def check(self) -> None:
        default = default_config().mixing.to_dict()
        for name, value in self.config.mixing.to_dict().items():
            if value != default[name]:
                raise ValueError(
                    f"config.mixing.{name} = {value!r} is for sets of labelled images; in {self.config.data.name}, "
                    "every image may have a target for every task"
                )

    def lengths(self) -> Lengths:
        name, batch_size = self.config.data.name, self.config.batch_size
        sizes = self.num_train()
        if name not in sizes:
            raise ValueError(f"the number of training examples of {name} is unknown until it is prepared")
        per_epoch = sizes[name] / batch_size
        return Lengths(batch_size, lambda epochs: epochs * sizes[name] / batch_size, lambda steps: steps / per_epoch)

    def abstract_batch(self) -> AbstractBatch:
        size = self.info.image_size
        channels = {name: self.builder.targets[name].channels for name in self.targets}
        return {
            "image": shape_of_one(*size, 3, dtype=np.float32),
            "targets": {
                name: shape_of_one(*size, dtype=np.int32)
                if count is None
                else shape_of_one(*size, count, dtype=np.float32)
                for name, count in channels.items()
            },
            "labelled": {name: shape_of_one(dtype=np.bool_) for name in self.targets},
            "weight": shape_of_one(dtype=np.float32),
        }

    def train_batches(self, start_step: int, *, seed: int, streams: int, total_steps: int) -> Batches:
        change = functools.partial(augment.augment, inverse_depth=self.info.inverse_depth)
        return pipeline.train_batches(
            self.builder.as_data_source("train"),
            targets=self.targets,
            global_batch_size=self.config.batch_size,
            seed=seed,
            start_step=start_step,
            augment=change if self.config.data.augment else None,
            workers=self.config.data.workers,
            streams=streams,
            process_index=jax.process_index(),
            process_count=jax.process_count(),
        )

    def one_pass(self, split: str, batch_size: int, process_index: int, process_count: int) -> Iterator[Batch]:
        return pipeline.eval_batches(
            self.builder.as_data_source(split),
            targets=self.targets,
            global_batch_size=batch_size,
            process_index=process_index,
            process_count=process_count,
        )

    def summarize(self, metrics: Mapping[str, float], single_task: Mapping[str, float]) -> dict[str, float]:
        return {}
