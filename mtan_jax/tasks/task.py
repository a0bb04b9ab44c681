"""Tasks: everything the program needs to know to learn one output."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8

from mtan_jax.data.builder import DataInfo
from mtan_jax.data.image_sets import ImageSetsInfo
from mtan_jax.tasks import best_constants, indicators, losses, rendering
from mtan_jax.tasks.metrics import AccuracyMetric, DepthMetric, Metric, NormalMetric, SemanticMetric


@dataclasses.dataclass(frozen=True)
class Task:
    """A task, dense or of whole images. A new one takes one `Task`, given to `build_tasks` in place of a name.

    Attributes:
        name: prefix of the task's metrics, name of its head and of its attention modules.
        channels: outputs of the head.
        target: name of the target in the data.
        loss: (prediction, target, labelled) -> (sum, count); see `mtan_jax.tasks.losses`.
        metric: protocol -> empty metric state; "exact" when called without; see `mtan_jax.tasks.metrics`.
        activation: raw output of the head [b, h, w, channels] -> prediction, at least float32.
        main_metric: name of the metric that says most, without the task's name.
        constant: defined target pixels [n] or [n, c] -> the prediction [channels] that is best for `main_metric`;
            None where there is none to compare with.
        picture: (prediction or target [h, w, ...], data info, target or None) -> RGB picture; the target
            sets the scale; None for a task of whole images.
        indicator: (prediction, target, labelled) -> (sum, count) over the pixels that count in the loss, the ratio
            being from 0, all wrong, to 1; for the weighting methods that look at it. See
            `mtan_jax.tasks.indicators`; None: none.
    """

    name: str
    channels: int
    target: str
    loss: Callable[..., losses.SumAndCount]
    metric: Callable[..., Metric]
    activation: Callable[[Float[Array, "b h w c"]], Float[Array, "b h w c"]]
    main_metric: str
    constant: Callable[[Any], Float[np.ndarray, "c"]] | None
    picture: Callable[[np.ndarray, DataInfo, np.ndarray | None], UInt8[np.ndarray, "h w 3"]] | None
    indicator: Callable[..., losses.SumAndCount] | None = None

    def __post_init__(self) -> None:
        if not self.name or "/" in self.name:
            raise ValueError(
                f"Task.name is {self.name!r}; it must be something without '/' (metrics are 'task/metric')."
            )
        if self.channels < 1:
            raise ValueError(f"Task.channels of {self.name!r} is {self.channels}; a head has at least 1 output.")
        known = self.metric().higher_is_better
        if self.main_metric not in known:
            raise ValueError(
                f"Task.main_metric of {self.name!r} is {self.main_metric!r}; its metric has: {', '.join(known)}."
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
        indicator=indicators.right_class,
    )


def depth() -> Task:
    """Depth or inverse depth, as the data set has it: L1, absolute and relative error."""
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
        indicator=indicators.right_depth,
    )


def normal() -> Task:
    """Surface normals: unit vectors, one minus the dot product, angles."""
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
        indicator=indicators.right_direction,
    )


def classification(name: str, num_classes: int) -> Task:
    """Classes of whole images, the target being the set that the images are of: cross-entropy, top-1 accuracy."""
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
        indicator=indicators.right_class,
    )


TASKS: dict[str, Callable[[DataInfo], Task]] = {
    "semantic": lambda data_info: semantic(len(data_info.classes)),
    "depth": lambda data_info: depth(),
    "normal": lambda data_info: normal(),
}


def build_tasks(names: Sequence[str | Task], data_info: DataInfo | ImageSetsInfo) -> tuple[Task, ...]:
    """Makes the tasks of a run, in the order given.

    Args:
        names: names of known tasks and tasks of one's own, mixed. Of sets of labelled images: names of sets.
        data_info: what the tasks need to know of the data set.

    Raises:
        ValueError: for an unknown name, a name that occurs twice, or no task at all.
    """
    known = _known_tasks(data_info)
    unknown = [name for name in names if isinstance(name, str) and name not in known]
    if unknown:
        raise ValueError(f"Unknown task {', '.join(map(repr, unknown))}; known tasks: {', '.join(known)}.")
    tasks = tuple(known[name]() if isinstance(name, str) else name for name in names)
    if not tasks:
        raise ValueError(f"No tasks given; known tasks: {', '.join(known)}.")
    found = [task.name for task in tasks]
    twice = sorted({name for name in found if found.count(name) > 1})
    if twice:
        raise ValueError(f"Task {', '.join(map(repr, twice))} is given more than once; each needs a name of its own.")
    return tasks


def _known_tasks(data_info: DataInfo | ImageSetsInfo) -> dict[str, Callable[[], Task]]:
    if isinstance(data_info, ImageSetsInfo):
        return {
            name: functools.partial(classification, name, len(image_set.classes))
            for name, image_set in data_info.sets.items()
        }
    return {name: functools.partial(make, data_info) for name, make in TASKS.items()}


def log_softmax(outputs: Float[Array, "b *hw c"]) -> Float[Array, "b *hw c"]:
    """Log-probabilities over channels, computed in at least float32."""
    return jax.nn.log_softmax(losses.at_least_float32(outputs), axis=-1)


def unit_vector(outputs: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
    """Divides by the length over channels, in at least float32; a zero vector stays zero, with a finite gradient."""
    outputs = losses.at_least_float32(outputs)
    squared = (outputs**2).sum(axis=-1, keepdims=True)
    # The root must not see a 0: its gradient there is infinite, and infinity * 0 is NaN.
    return outputs / jnp.sqrt(jnp.where(squared > 0, squared, 1))
