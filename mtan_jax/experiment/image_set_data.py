"""Sets of labelled images: each set is one task, and each image belongs to one set."""

import functools
from collections.abc import Iterator, Mapping

import jax
import ml_collections
import numpy as np

from mtan_jax.data.batches import image_set_batches
from mtan_jax.data.batches.set_order import SetOrder
from mtan_jax.data.dataset_record import DataRecord
from mtan_jax.data.image_sets import ImageSets, ImageSetsInfo
from mtan_jax.experiment import absent_tasks
from mtan_jax.experiment.lengths import Lengths
from mtan_jax.experiment.task_data import TaskData, check_record, shape_of_one
from mtan_jax.models import IMAGE_BACKBONES
from mtan_jax.tasks import TASKS, build_tasks
from mtan_jax.tasks.decathlon_score import decathlon_score
from mtan_jax.types import AbstractBatch, Batch, Batches

MEAN_ACCURACY = "mean/accuracy"


class ImageSetData(TaskData):
    """Several sets of labelled images and their tasks; see `TaskData`."""

    builder: ImageSets

    def __init__(self, config: ml_collections.ConfigDict, builder: ImageSets, record: DataRecord | None):
        check_record(record, builder, config.data.name)
        self.config, self.builder, self.record = config, builder, record
        self.tasks = build_tasks(config.tasks, self.info)
        for task in self.tasks:
            if task.name != task.target:
                raise ValueError(
                    f"config.tasks: task {task.name!r} has the target {task.target!r}; a task on a set of labelled "
                    "images must have the name of its set"
                )

    @property
    def info(self) -> ImageSetsInfo:
        # Not cached: preparation computes the statistics of a set.
        return self.record.sets_info if self.record else self.builder.data_info

    @property
    def trained(self) -> tuple[str, ...]:
        names = tuple(self.config.mixing.tasks) or self.targets
        unknown = [name for name in names if name not in self.targets]
        if unknown:
            raise ValueError(f"config.mixing.tasks has {unknown[0]!r}; the tasks are {', '.join(self.targets)}")
        return names

    @property
    def set_names(self) -> tuple[str, ...]:
        return self.trained

    @property
    def known_names(self) -> frozenset[str]:
        return frozenset({*TASKS, *self.builder.targets, *self.builder.known_sets})

    @property
    def backbones(self) -> tuple[str, ...]:
        return tuple(IMAGE_BACKBONES)

    @property
    def groups(self) -> int:
        return self.config.mixing.tasks_per_step

    @property
    def splits(self) -> tuple[str, ...]:
        return "train", "val", "test"

    @property
    def summary_metrics(self) -> Mapping[str, bool]:
        return {MEAN_ACCURACY: True}

    @property
    def default_metric(self) -> str:
        return MEAN_ACCURACY

    @property
    def is_described(self) -> bool:
        return self.record is not None  # pixel statistics are in the record or the prepared data

    def check(self) -> None:
        self._set_order(dict.fromkeys(self.trained, self.config.batch_size))

    def lengths(self) -> Lengths:
        set_order = self._train_set_order
        return Lengths(self.config.batch_size, set_order.epochs_to_steps, set_order.steps_to_epochs)

    def abstract_batch(self) -> AbstractBatch:
        return {
            "image": shape_of_one(*self.info.image_size, 3, dtype=np.float32),
            "targets": dict.fromkeys(self.targets, shape_of_one(dtype=np.int32)),
            "labelled": dict.fromkeys(self.targets, shape_of_one(dtype=np.bool_)),
            "weight": shape_of_one(dtype=np.float32),
            "task": shape_of_one(dtype=np.int32),
        }

    def train_batches(self, start_step: int, *, seed: int, streams: int, total_steps: int) -> Batches:
        return image_set_batches.train_batches(
            {name: self.builder.builders[name].as_data_source("train") for name in self.trained},
            self.info,
            self._train_set_order,
            seed=seed,
            steps=total_steps,
            start_step=start_step,
            augment=self.config.data.augment,
            workers=self.config.data.workers,
            streams=streams,
            process_index=jax.process_index(),
            process_count=jax.process_count(),
        )

    def one_pass(self, split: str, batch_size: int, process_index: int, process_count: int) -> Iterator[Batch]:
        return image_set_batches.eval_batches(
            {name: self.builder.builders[name].as_data_source(split) for name in self.targets},
            self.info,
            batch_size=batch_size,
            process_index=process_index,
            process_count=process_count,
        )

    def summarize(self, metrics: Mapping[str, float], single_task: Mapping[str, float]) -> dict[str, float]:
        accuracies = {name: metrics[f"{name}/accuracy"] for name in self.targets}
        summary = {MEAN_ACCURACY: sum(accuracies.values()) / len(accuracies)}
        if single_task:
            summary["decathlon/score"] = self._score(accuracies, single_task)
        return summary

    def _score(self, accuracies: Mapping[str, float], single_task: Mapping[str, float]) -> float:
        """The score of the Visual Decathlon, with the errors of single-task networks as the baseline."""
        wanted = {f"{name}/accuracy" for name in self.targets}
        if set(single_task) != wanted or not all(0 <= value < 1 for value in single_task.values()):
            raise ValueError(
                f"config.eval.single_task = {dict(single_task)}: expected the accuracy of every set, in [0, 1), such "
                f"as ('{self.targets[0]}/accuracy', 0.6)"
            )
        errors = {name: 1 - single_task[f"{name}/accuracy"] for name in self.targets}
        return decathlon_score(dict(accuracies), errors)

    @functools.cached_property
    def _train_set_order(self) -> SetOrder:
        sizes = self.num_train()
        for name in self.trained:
            if name not in sizes:
                raise ValueError(f"the number of training examples of {name} is unknown until it is prepared")
        return self._set_order({name: sizes[name] for name in self.trained})

    def _set_order(self, sizes: Mapping[str, int]) -> SetOrder:
        mixing = self.config.mixing
        until = absent_tasks.without(absent_tasks.absent_names(self), dict(mixing.until))
        unknown = [name for name in until if name not in self.targets]
        if unknown:
            raise ValueError(
                f"config.mixing.until has {unknown[0]!r}; the tasks are {', '.join(self.targets)}. Set "
                "--config.mixing.until={} to train all of them to the end"
            )
        return SetOrder(
            mixing.order,
            dict(sizes),
            self.config.batch_size,
            groups=mixing.tasks_per_step,
            temperature=mixing.temperature,
            until=until,
            seed=self.config.seed,
        )
