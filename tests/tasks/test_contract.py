"""Mistakes in the functions of a task are named before anything is prepared."""

import dataclasses
from typing import ClassVar

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import mtan_jax as mtan
from mtan_jax.tasks import depth
from mtan_jax.tasks.contract import check_contract
from mtan_jax.tasks.metrics import Metric

SHAPE = jax.ShapeDtypeStruct((1, 4, 8, 1), np.float32)


@flax.struct.dataclass
class Count(Metric):
    count: jax.Array
    higher_is_better: ClassVar = {"count": True}

    @classmethod
    def empty(cls, protocol="exact"):
        return cls(jnp.zeros((), jnp.int32))

    def compute(self):
        return {"count": float(self.count)}


@flax.struct.dataclass
class ReturnsNothing(Count):
    def update(self, prediction, target, labelled):
        self.replace(count=self.count + 1)


@flax.struct.dataclass
class ReturnsFloat(Count):
    def update(self, prediction, target, labelled):
        return self.replace(count=self.count + labelled.sum() * 0.5)


class NoPytree(Count):
    pass


@flax.struct.dataclass
class SaysNothing(Count):
    higher_is_better: ClassVar = {}


@pytest.mark.parametrize(
    "task", [*mtan.Experiment.from_config(mtan.load_config("streets:smoke")).tasks], ids=lambda task: task.name
)
def test_known_tasks_meet_it(task):
    classes = task.name == "semantic"
    target = jax.ShapeDtypeStruct(
        (1, 4, 8) if classes else (1, 4, 8, task.channels), np.int32 if classes else np.float32
    )
    check_contract(task, jax.ShapeDtypeStruct((1, 4, 8, task.channels), np.float32), target)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"loss": lambda p, t, labelled: (p - t).sum()},
            r"Task.loss of 'depth' returns float32\[\]; expected two scalars",
        ),
        ({"loss": lambda p, t, labelled: (p - t, labelled)}, r"returns \(float32\[1, 4, 8, 1\], bool\[1\]\); expected"),
        (
            {"metric": ReturnsNothing.empty, "main_metric": "count"},
            "ReturnsNothing.update, .* returns None; expected a new",
        ),
        (
            {"metric": ReturnsFloat.empty, "main_metric": "count"},
            r"returns ReturnsFloat\(count=float32\[\]\); .*int32\[\]",
        ),
        ({"metric": NoPytree.empty, "main_metric": "count"}, r"NoPytree is not a pytree; decorate the class with flax"),
        (
            {"constant": lambda pixels: pixels.mean()},
            r"Task.constant of 'depth' returns an array \[\] .* expected .* \[1\]",
        ),
    ],
)
def test_a_mistake_is_named(changes, message):
    with pytest.raises(ValueError, match=message):
        check_contract(dataclasses.replace(depth(), **changes), SHAPE, SHAPE)


def test_a_metric_without_directions_is_named():
    with pytest.raises(ValueError, match=r"SaysNothing does not say which metrics it computes; set .* {'rmse': False}"):
        dataclasses.replace(depth(), metric=SaysNothing.empty, main_metric="rmse")


def test_the_check_is_part_of_an_experiment():
    config = mtan.load_config("streets:smoke")
    config.tasks = ("semantic", dataclasses.replace(depth(), name="own", loss=lambda p, t, labelled: p.sum()))
    config.weighting = "equal"
    with pytest.raises(ValueError, match=r"Task.loss of 'own'"):
        mtan.Experiment.from_config(config)
