"""The structure of the state does not depend on the dataset's size: checkpoints are read without the dataset."""

import functools

import jax
import pytest
from flax import serialization
from helpers import toy_config

from mtan_jax.data.dataset_record import DataRecord
from mtan_jax.experiment import Experiment
from mtan_jax.weighting import METHODS
from mtan_jax.weighting.schedules import linear

SCHEDULED = {"schedule": {"weights": {"semantic": 1.0, "depth": linear(1.0, 0.1, 10), "normal": 0.5}}}
OPTIONS = {"dwa nash": {"variant": "nash"}, "gradnorm libmtl": {"variant": "libmtl"}, **SCHEDULED}


@pytest.mark.parametrize("weighting", [*METHODS, "dwa nash", "gradnorm libmtl", "dwa+pcgrad"])
def test_the_state_has_the_same_structure_without_data(weighting):
    fields = {"weighting": weighting.split()[0]}
    fields |= {f"weighting_options__{fields['weighting']}": OPTIONS[weighting]} if weighting in OPTIONS else {}
    assert_same_structure(**fields)


@pytest.mark.parametrize(
    "fields",
    [
        {"name": "adamw", "schedule": "cosine", "warmup": "2 epochs"},
        {"name": "adam", "schedule": "halve", "halve_every": "3 epochs", "clip_norm": 1.0},
        {"name": "sgd", "schedule": "pieces", "pieces": (("2 epochs", 0.1), ("4 epochs", 0.01))},
    ],
)
def test_the_state_of_every_optimizer_has_the_same_structure_without_data(fields):
    assert_same_structure(**{f"optimizer__{name}": value for name, value in fields.items()})


def assert_same_structure(**fields):
    config = toy_config.get_config()
    config.duration = "20 epochs"
    for name, value in fields.items():
        *sections, last = name.split("__")
        functools.reduce(getattr, sections, config)[last] = value
    record = DataRecord("toy", (8, 12), ("a", "b"), {"toy": {"train": 1000, "val": 7}}, {}, {"toy": "toy"})
    known, unknown = Experiment.from_config(config, record), Experiment.from_config(config)
    assert known.total_steps == 5000
    states = [serialization.to_state_dict(each.abstract_state()) for each in (known, unknown)]
    shapes = [jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), state) for state in states]
    assert shapes[0] == shapes[1]
