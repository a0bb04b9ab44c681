"""Configurations that say something of tasks that `config.tasks` leaves out."""

import runpy
from pathlib import Path

import jax.numpy as jnp
import pytest

from mtan_jax.data.mini_decathlon.builder import SETS
from mtan_jax.experiment import Experiment, absent_tasks

CONFIGS = Path(__file__).resolve().parents[2] / "configs"


def load(name, tasks):
    config = runpy.run_path(str(CONFIGS / f"{name}.py"))["get_config"]("smoke")
    config.tasks = tasks
    return config


def test_streets_with_one_task_ignores_the_static_weights_of_the_others():
    config = load("streets", ("semantic",))
    assert config.weighting == "static"
    assert set(config.weighting_options.static.weights) == {"semantic", "depth", "normal"}
    Experiment.from_config(config)


@pytest.mark.parametrize(
    "weighting",
    [
        "schedule",
        "auto_lambda",
        (("static", {"weights": {"semantic": 2.0, "normal": 1.0}}),),
        (("famo", {"least_losses": {"semantic": 0.1, "depth": 0.0}}),),
    ],
)
def test_options_of_absent_tasks_are_ignored(weighting):
    config = load("streets", ("semantic",))
    config.weighting = weighting
    config.weighting_options.schedule.weights = {"semantic": lambda step: jnp.minimum(step / 10, 1.0), "depth": 0.5}
    config.weighting_options.auto_lambda.primary = ("semantic", "normal")
    Experiment.from_config(config)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("weights", {"semantic": 1.0, "dpeth": 1.0}, "static weights: missing .*, unknown .'dpeth'"),
        ("weights", {"depth": 1.0}, "static weights: missing .'semantic'"),
        ("single_task", (("semantic/miou", 0.5), ("dpeth/abs_err", 0.1)), "dpeth/abs_err"),
    ],
)
def test_mistyped_tasks_are_still_an_error(field, value, message):
    config = load("streets", ("semantic",))
    if field == "weights":
        del config.weighting_options.static.weights
        config.weighting_options.static.weights = value
    else:
        config.eval.single_task = value
    with pytest.raises(ValueError, match=message):
        Experiment.from_config(config)


def test_single_task_metrics_of_absent_tasks_are_ignored():
    config = load("streets", ("semantic",))
    config.eval.single_task = (("semantic/miou", 0.5), ("depth/abs_err", 0.1))
    assert Experiment.from_config(config).single_task == {"semantic/miou": 0.5}


def test_sets_that_are_left_out_are_ignored():
    config = load("mini_decathlon", ("objects", "glyphs"))
    absent = absent_tasks.absent_names(Experiment.from_config(config).data)
    assert absent >= set(SETS) - {"objects", "glyphs"}
    others = sorted(absent - {"semantic", "depth", "normal"})
    config.eval.single_task = tuple((f"{name}/accuracy", 0.5) for name in ("objects", "glyphs", *others))
    config.mixing.order = "whole_sets"
    config.mixing.until = {others[0]: 3}
    assert set(Experiment.from_config(config).single_task) == {"objects/accuracy", "glyphs/accuracy"}
    config.mixing.until = {"objetcs": 3}
    with pytest.raises(ValueError, match=r"config.mixing.until has 'objetcs'"):
        Experiment.from_config(config)
