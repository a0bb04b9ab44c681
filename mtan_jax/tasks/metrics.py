"""Metrics as additive states.

A metric state is a pytree of sums and counts. States are added over devices by `psum` and over batches by `merge`. On
a device, counts of pixels and images are int32; sums, and the count of `LossMetric`, are float32. This is enough for
one batch. `Accumulator` adds the batches of a split on the host in int64 and float64, without overflow or loss of
precision.

There are two evaluation protocols:

- "exact": one state over the whole split, in which all labelled pixels have the same weight.
- "authors": as the published numbers were computed. Depth metrics, normal metrics and losses are computed for each
  batch and averaged over batches, so the median is a mean of medians. Angles are acos(clip(dot)).

The confusion matrix is summed over the split in both protocols.
"""

import dataclasses
import operator
from collections.abc import Mapping
from typing import ClassVar, Self, get_args

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from mtan_jax.tasks.losses import defined_pixels
from mtan_jax.types import EvalProtocol


class MetricState:
    """Base class of sums and counts; subclasses are flax.struct dataclasses.

    Attributes:
        batch_averaged: whether the protocol "authors" averages `compute` over batches.
        higher_is_better: direction of each metric that `compute` returns.
    """

    batch_averaged: ClassVar[bool] = True
    higher_is_better: ClassVar[Mapping[str, bool]] = {}

    def merge(self, other: Self) -> Self:
        """Adds the leaves of another state."""
        return jax.tree.map(operator.add, self, other)

    def compute(self) -> dict[str, float]:
        """Returns the metrics by name, NaN if nothing was counted. Runs on the host."""
        raise NotImplementedError


class Metric(MetricState):
    """A metric state of predictions. Its factory, such as `DepthMetric.empty`, is `Task.metric`."""

    def update(self, prediction: Float[Array, "b h w c"], target: Array, labelled: Bool[Array, "b"]) -> Self:
        """Adds a batch. Undefined pixels and rows without a label are ignored."""
        raise NotImplementedError


@flax.struct.dataclass
class LossMetric(MetricState):
    """Sum and count of a loss. `compute` returns `loss`."""

    total: Float[Array, ""]
    count: Float[Array, ""]
    higher_is_better: ClassVar[Mapping[str, bool]] = {"loss": False}

    @classmethod
    def empty(cls) -> Self:
        return cls(total=jnp.zeros(()), count=jnp.zeros(()))

    def compute(self) -> dict[str, float]:
        return {"loss": _ratio(self.total, self.count)}


@flax.struct.dataclass
class SemanticMetric(Metric):
    """Confusion matrix of class maps. `compute` returns `miou` and `pixel_accuracy`, both in 0..1.

    `miou` is the mean over classes that occur in targets or predictions. The authors average over all classes, which
    gives NaN if a class does not occur.

    Attributes:
        confusion_matrix: number of pixels by target class (row) and predicted class (column).
    """

    confusion_matrix: Int[Array, "c c"]
    batch_averaged: ClassVar[bool] = False
    higher_is_better: ClassVar[Mapping[str, bool]] = {"miou": True, "pixel_accuracy": True}

    @classmethod
    def empty(cls, protocol: EvalProtocol = "exact", *, num_classes: int) -> Self:
        """The state without pixels, the same for both protocols."""
        check_protocol(protocol)
        return cls(confusion_matrix=jnp.zeros((num_classes, num_classes), jnp.int32))

    def update(
        self, prediction: Float[Array, "b h w c"], target: Int[Array, "b h w"], labelled: Bool[Array, "b"]
    ) -> Self:
        """Adds a batch of scores, such as log-probabilities; the argmax is predicted. Targets are -1 where void."""
        num_classes = self.confusion_matrix.shape[0]
        valid = defined_pixels(target, labelled) & (target < num_classes)
        predicted = jnp.argmax(prediction, axis=-1).astype(jnp.int32)
        cell = target.astype(jnp.int32) * num_classes + predicted
        counts = _histogram(cell, valid, num_classes**2).reshape(num_classes, num_classes)
        return dataclasses.replace(self, confusion_matrix=self.confusion_matrix + counts)

    def compute(self) -> dict[str, float]:
        matrix = np.asarray(self.confusion_matrix, np.int64)
        correct = np.diag(matrix)
        union = matrix.sum(axis=0) + matrix.sum(axis=1) - correct
        occurs = union > 0
        iou = correct[occurs] / union[occurs]
        return {
            "miou": float(iou.mean()) if occurs.any() else float("nan"),
            "pixel_accuracy": _ratio(correct.sum(), matrix.sum()),
        }


@flax.struct.dataclass
class AccuracyMetric(Metric):
    """Top-1 accuracy of whole images. `compute` returns `accuracy` in 0..1.

    Attributes:
        right: number of correctly classified images.
        count: number of labelled images.
    """

    right: Int[Array, ""]
    count: Int[Array, ""]
    batch_averaged: ClassVar[bool] = False
    higher_is_better: ClassVar[Mapping[str, bool]] = {"accuracy": True}

    @classmethod
    def empty(cls, protocol: EvalProtocol = "exact") -> Self:
        """The state without images, the same for both protocols."""
        check_protocol(protocol)
        return cls(right=jnp.zeros((), jnp.int32), count=jnp.zeros((), jnp.int32))

    def update(
        self, prediction: Float[Array, "b *_ c"], target: Int[Array, "b *_"], labelled: Bool[Array, "b"]
    ) -> Self:
        """Adds a batch of scores, such as log-probabilities; the argmax is predicted. Targets are -1 if unknown."""
        valid = defined_pixels(target, labelled)
        right = valid & (jnp.argmax(prediction, axis=-1) == target)
        return dataclasses.replace(
            self,
            right=self.right + right.sum(dtype=jnp.int32),
            count=self.count + valid.sum(dtype=jnp.int32),
        )

    def compute(self) -> dict[str, float]:
        return {"accuracy": _ratio(self.right, self.count)}


@flax.struct.dataclass
class DepthMetric(Metric):
    """Depth errors. `compute` returns `abs_error`, in the unit of the target, and `rel_error`, a fraction.

    abs_error = mean |p - t| and rel_error = mean |p - t| / |t| over the pixels with t != 0.
    """

    abs_total: Float[Array, ""]
    rel_total: Float[Array, ""]
    count: Int[Array, ""]
    higher_is_better: ClassVar[Mapping[str, bool]] = {"abs_error": False, "rel_error": False}

    @classmethod
    def empty(cls, protocol: EvalProtocol = "exact") -> Self:
        """The state without pixels; the protocols differ only in `Accumulator`."""
        check_protocol(protocol)
        return cls(abs_total=jnp.zeros(()), rel_total=jnp.zeros(()), count=jnp.zeros((), jnp.int32))

    def update(
        self, prediction: Float[Array, "b h w 1"], target: Float[Array, "b h w 1"], labelled: Bool[Array, "b"]
    ) -> Self:
        """Adds a batch. Targets are 0 where undefined."""
        valid = defined_pixels(target, labelled)
        target = jnp.where(valid[..., None], target.astype(jnp.float32), 1)
        error = jnp.where(valid[..., None], jnp.abs(prediction.astype(jnp.float32) - target), 0)
        return dataclasses.replace(
            self,
            abs_total=self.abs_total + error.sum(),
            rel_total=self.rel_total + (error / jnp.abs(target)).sum(),
            count=self.count + valid.sum(dtype=jnp.int32),
        )

    def compute(self) -> dict[str, float]:
        return {
            "abs_error": _ratio(self.abs_total, self.count),
            "rel_error": _ratio(self.rel_total, self.count),
        }


WITHIN = (11.25, 22.5, 30.0)
BIN_WIDTH = 0.01
NUM_BINS = 18_000


@flax.struct.dataclass
class NormalMetric(Metric):
    """Angles between predicted and true surface normals.

    `compute` returns `mean` and `median` in degrees, and `within_11.25`, `within_22.5` and `within_30`, the fractions
    in 0..1 of pixels with a smaller angle. The median is computed from a histogram with bins of 0.01 degrees, so its
    error is at most 0.005 degrees plus the rounding of float32 angles (about 1e-5 degrees).

    The protocol "exact" computes the angle as atan2(|p x t|, <p, t>), which is accurate to float32 rounding for all
    angles and independent of the vectors' lengths; a predicted zero vector counts as 90 degrees. The protocol "authors"
    computes acos(clip(<p, t>, -1, 1)), whose error in float32 is about 0.02 degrees near 0.
    """

    angle_total: Float[Array, ""]
    within: Int[Array, "3"]
    histogram: Int[Array, "bins"]
    count: Int[Array, ""]
    protocol: EvalProtocol = flax.struct.field(pytree_node=False)
    higher_is_better: ClassVar[Mapping[str, bool]] = {
        "mean": False,
        "median": False,
        "within_11.25": True,
        "within_22.5": True,
        "within_30": True,
    }

    @classmethod
    def empty(cls, protocol: EvalProtocol = "exact") -> Self:
        """The state without pixels; the protocol determines how angles are computed."""
        check_protocol(protocol)
        return cls(
            angle_total=jnp.zeros(()),
            within=jnp.zeros(len(WITHIN), jnp.int32),
            histogram=jnp.zeros(NUM_BINS, jnp.int32),
            count=jnp.zeros((), jnp.int32),
            protocol=protocol,
        )

    def update(
        self, prediction: Float[Array, "b h w 3"], target: Float[Array, "b h w 3"], labelled: Bool[Array, "b"]
    ) -> Self:
        """Adds a batch. Targets are 0 in all channels where undefined."""
        valid = defined_pixels(target, labelled)
        angle_of = _acos_angle if self.protocol == "authors" else _atan2_angle
        angle = angle_of(prediction.astype(jnp.float32), target.astype(jnp.float32))
        within = [(valid & (angle < limit)).sum(dtype=jnp.int32) for limit in WITHIN]
        # NaN counts in the last bin, so that a broken prediction does not look like a good one.
        bins = jnp.where(jnp.isnan(angle), NUM_BINS - 1, jnp.clip(angle / BIN_WIDTH, 0, NUM_BINS - 1))
        return dataclasses.replace(
            self,
            angle_total=self.angle_total + jnp.where(valid, angle, 0).sum(),
            within=self.within + jnp.stack(within),
            histogram=self.histogram + _histogram(bins.astype(jnp.int32), valid, NUM_BINS),
            count=self.count + valid.sum(dtype=jnp.int32),
        )

    def compute(self) -> dict[str, float]:
        within = np.asarray(self.within)
        return {
            "mean": _ratio(self.angle_total, self.count),
            "median": self._median(),
            **{f"within_{limit:g}": _ratio(within[i], self.count) for i, limit in enumerate(WITHIN)},
        }

    def _median(self) -> float:
        count = int(self.count)
        if count == 0:
            return float("nan")
        cumulative = np.cumsum(np.asarray(self.histogram, np.int64))
        middle = np.searchsorted(cumulative, [(count - 1) // 2, count // 2], side="right")
        return float((middle.mean() + 0.5) * BIN_WIDTH)


def check_protocol(protocol: str) -> None:
    """Raises a ValueError for an unknown evaluation protocol."""
    known = get_args(EvalProtocol)
    if protocol not in known:
        raise ValueError(f"evaluation protocol {protocol!r} is unknown; known: {', '.join(known)}")


def _atan2_angle(prediction: Float[Array, "b h w 3"], target: Float[Array, "b h w 3"]) -> Float[Array, "b h w"]:
    dot = (prediction * target).sum(axis=-1)
    cross = jnp.sqrt((jnp.cross(prediction, target) ** 2).sum(axis=-1))
    return jnp.where((cross == 0) & (dot == 0), 90.0, jnp.degrees(jnp.arctan2(cross, dot)))


def _acos_angle(prediction: Float[Array, "b h w 3"], target: Float[Array, "b h w 3"]) -> Float[Array, "b h w"]:
    return jnp.degrees(jnp.arccos(jnp.clip((prediction * target).sum(axis=-1), -1, 1)))


def _histogram(position: Int[Array, "..."], valid: Bool[Array, "..."], length: int) -> Int[Array, " length"]:
    """Counts the positions 0..length - 1 of valid entries; invalid ones are counted in an extra bin and dropped."""
    position = jnp.where(valid, position, length).reshape(-1)
    return jnp.bincount(position, length=length + 1)[:length].astype(jnp.int32)


def _ratio(total: Array | np.ndarray | np.generic, count: Array | np.ndarray | np.generic) -> float:
    return float(total) / float(count) if float(count) > 0 else float("nan")
