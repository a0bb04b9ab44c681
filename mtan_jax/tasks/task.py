"""Tasks: head, loss, metrics and visualization of one output."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Shaped, UInt8

from mtan_jax.data.builder import DataInfo
from mtan_jax.data.image_sets import ImageSetsInfo
from mtan_jax.tasks import best_constants, indicators, losses, rendering
from mtan_jax.tasks.metrics import AccuracyMetric, DepthMetric, Metric, NormalMetric, SemanticMetric
from mtan_jax.types import EvalProtocol, Loss


class MetricFactory(Protocol):
    """Makes the empty metric state of an evaluation protocol."""

    def __call__(self, protocol: EvalProtocol = "exact") -> Metric: ...


class Picture(Protocol):
    """Renders a prediction or target as an RGB picture.

    Args:
        array: prediction or target.
        data_info: classes, colours and units.
        target: the target, which determines the scale of colours; None if there is none.
    """

    def __call__(
        self, array: np.ndarray, data_info: DataInfo, target: np.ndarray | None, /
    ) -> UInt8[np.ndarray, "h w 3"]: ...


@dataclasses.dataclass(frozen=True)
class Task:
    """A dense prediction task, or classification of whole images.

    To add a task, make a `Task` and list it in `config.tasks` instead of a name.

    Attributes:
        name: prefix of the task's metrics; also the name of its head and attention modules.
        channels: output channels of the head.
        target: name of the target in the dataset.
        loss: (prediction, target, labelled) -> (sum, count); see `mtan_jax.tasks.losses`.
        metric: evaluation protocol, "exact" by default -> empty metric state; see `mtan_jax.tasks.metrics`.
        activation: raw output of the head [b, h, w, channels] -> prediction, at least float32.
        main_metric: the most important metric, without the task's name.
        constant: labelled target pixels [n] or [n, c] -> the constant prediction [channels] with the best
            `main_metric`; None to leave the task out of the constant baseline.
        picture: renders a prediction or target; None for classification of whole images.
        indicator: (prediction, target, labelled) -> (sum, count) over the pixels of the loss, whose ratio measures
            performance from 0 to 1, for weighting methods that use it; see `mtan_jax.tasks.indicators`. None if the
            task has none.

    Raises:
        ValueError: the name is empty or contains '/', there are no channels, or `main_metric` is unknown.
    """

    name: str
    channels: int
    target: str
    loss: Loss
    metric: MetricFactory
    activation: Callable[[Float[Array, "b h w c"]], Float[Array, "b h w c"]]
    main_metric: str
    constant: Callable[[Shaped[np.ndarray, "n *c"]], Float[np.ndarray, "c"]] | None
    picture: Picture | None
    indicator: Loss | None = None

    def __post_init__(self) -> None:
        if not self.name or "/" in self.name:
            raise ValueError(
                f"Task.name={self.name!r}; expected a non-empty name without '/', since metrics are named 'task/metric'"
            )
        if self.channels < 1:
            raise ValueError(f"Task.channels={self.channels} for {self.name!r}; expected at least 1")
        known = self.metric().higher_is_better
        if not known:
            raise ValueError(
                f"Task.metric of {self.name!r}: {type(self.metric()).__name__} does not say which metrics it computes; "
                f"set its class attribute higher_is_better, such as {{{self.main_metric!r}: False}}"
            )
        if self.main_metric not in known:
            raise ValueError(
                f"Task.main_metric={self.main_metric!r} for {self.name!r}; expected one of {', '.join(known)}"
            )


def semantic(num_classes: int) -> Task:
    """Semantic segmentation: log-probabilities, cross-entropy, mean IoU and pixel accuracy."""
    return Task(
        name="semantic",
        channels=num_classes,
        target="semantic",
        loss=losses.cross_entropy,
        metric=functools.partial(SemanticMetric.empty, num_classes=num_classes),
        activation=log_softmax,
        main_metric="miou",
        constant=functools.partial(best_constants.majority_class, num_classes=num_classes),
        picture=rendering.class_picture,
        indicator=indicators.correct_class,
    )


def depth() -> Task:
    """Depth or inverse depth, whichever the dataset provides: L1 loss, absolute and relative error."""
    return Task(
        name="depth",
        channels=1,
        target="depth",
        loss=losses.l1,
        metric=DepthMetric.empty,
        activation=losses.at_least_float32,
        main_metric="abs_error",
        constant=best_constants.median_value,
        picture=rendering.depth_picture,
        indicator=indicators.correct_depth,
    )


def normal() -> Task:
    """Surface normals: unit vectors, one minus the dot product as loss, angular errors."""
    return Task(
        name="normal",
        channels=3,
        target="normal",
        loss=losses.cosine,
        metric=NormalMetric.empty,
        activation=unit_vector,
        main_metric="mean",
        constant=best_constants.median_direction,
        picture=rendering.normal_picture,
        indicator=indicators.correct_normal,
    )


def classification(name: str, num_classes: int) -> Task:
    """Classification of the images of one dataset, whose name is the target: cross-entropy, top-1 accuracy."""
    return Task(
        name=name,
        channels=num_classes,
        target=name,
        loss=losses.cross_entropy,
        metric=AccuracyMetric.empty,
        activation=log_softmax,
        main_metric="accuracy",
        constant=functools.partial(best_constants.majority_class, num_classes=num_classes),
        picture=None,
        indicator=indicators.correct_class,
    )


TASKS: dict[str, Callable[[DataInfo], Task]] = {
    "semantic": lambda data_info: semantic(len(data_info.classes)),
    "depth": lambda data_info: depth(),
    "normal": lambda data_info: normal(),
}


def build_tasks(names: Sequence[str | Task], data_info: DataInfo | ImageSetsInfo) -> tuple[Task, ...]:
    """Makes the tasks of a run, in the given order.

    Args:
        names: names in `TASKS` and custom tasks. For images of single tasks, names of datasets.
        data_info: properties of the dataset that tasks depend on.

    Raises:
        ValueError: a name is unknown or occurs twice, or there are no tasks.
    """
    known = _known_tasks(data_info)
    unknown = [name for name in names if isinstance(name, str) and name not in known]
    if unknown:
        raise ValueError(f"Unknown task {', '.join(map(repr, unknown))}; known tasks: {', '.join(known)}.")
    tasks = tuple(known[name]() if isinstance(name, str) else name for name in names)
    if not tasks:
        raise ValueError(f"No tasks given; known tasks: {', '.join(known)}.")
    found = [task.name for task in tasks]
    repeated = sorted({name for name in found if found.count(name) > 1})
    if repeated:
        raise ValueError(f"Task {', '.join(map(repr, repeated))} is given more than once; use unique names.")
    return tasks


def _known_tasks(data_info: DataInfo | ImageSetsInfo) -> dict[str, Callable[[], Task]]:
    if isinstance(data_info, ImageSetsInfo):
        return {
            name: functools.partial(classification, name, len(image_set.classes))
            for name, image_set in data_info.sets.items()
        }
    return {name: functools.partial(make, data_info) for name, make in TASKS.items()}


def log_softmax(outputs: Float[Array, "b *hw c"]) -> Float[Array, "b *hw c"]:
    """Computes log-probabilities over channels in at least float32."""
    return jax.nn.log_softmax(losses.at_least_float32(outputs), axis=-1)


def unit_vector(outputs: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
    """Normalizes over channels in at least float32. Zero vectors stay zero and have a finite gradient."""
    outputs = losses.at_least_float32(outputs)
    squared = (outputs**2).sum(axis=-1, keepdims=True)
    # The gradient of sqrt at 0 is infinite, and its product with 0 would be NaN.
    return outputs / jnp.sqrt(jnp.where(squared > 0, squared, 1))
