"""Shares of right pixels, against the metrics that count the same, and how the step gives them to the methods."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import tiny_problem, toy_config, whole_run

from mtan_jax import steps
from mtan_jax.experiment import Experiment
from mtan_jax.models import Backbone, Numerics
from mtan_jax.runtime import parallel
from mtan_jax.tasks import indicators
from mtan_jax.tasks.metrics import NormalMetric, SemanticMetric
from mtan_jax.weighting import SumTasksState

BLIND = (*tiny_problem.TASKS[:2], dataclasses.replace(tiny_problem.TASKS[2], indicator=None))


@pytest.fixture(scope="module")
def predictions():
    rng = np.random.default_rng(1)
    batch = tiny_problem.make_batch()
    depth, normal = (batch["targets"][name] for name in ("depth", "normal"))
    return {
        "semantic": rng.normal(size=(8, 16, 16, 3)).astype(np.float32),
        "depth": (depth * rng.uniform(0.6, 1.6, depth.shape)).astype(np.float32),
        "normal": (normal * 3 + rng.normal(scale=0.5, size=normal.shape)).astype(np.float32),
    }


def test_shares_are_those_of_the_metrics(predictions):
    batch = tiny_problem.make_batch()
    expected = {
        "semantic": (SemanticMetric.empty(num_classes=3), "pixel_accuracy"),
        "normal": (NormalMetric.empty(), "within_11.25"),
    }
    for task in tiny_problem.TASKS:
        given = predictions[task.name], batch["targets"][task.target], batch["labelled"][task.target]
        total, count = jax.jit(task.indicator)(*given)
        assert count == jax.jit(task.loss)(*given)[1]  # the same pixels
        share = float(total / count)
        assert 0.1 < share < 0.9, task.name
        if task.name in expected:
            empty, name = expected[task.name]
            assert share == pytest.approx(jax.jit(empty.update)(*given).compute()[name], abs=1e-6)


def test_depth_is_right_within_a_factor():
    target = jnp.array([1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 4.0, 0.0]).reshape(1, 2, 4, 1)
    prediction = jnp.array([1.24, 1.26, 0.81, 0.79, -1.0, jnp.nan, 4.5, 1.0]).reshape(1, 2, 4, 1)
    total, count = indicators.correct_depth(prediction, target, jnp.array([True]))
    assert (total, count) == (3, 7)  # 1.24, 0.81, 4.5; the last pixel is undefined
    assert indicators.correct_depth(prediction, target, jnp.array([False])) == (0, 0)


def test_what_is_no_number_and_no_direction_is_not_right():
    target = jnp.array([[0.0, 0.0, 1.0]] * 3).reshape(1, 1, 3, 3)
    prediction = jnp.array([[0.0, 0.0, 0.0], [jnp.nan, 0.0, 1.0], [0.0, 0.1, 9.0]]).reshape(1, 1, 3, 3)
    assert indicators.correct_normal(prediction, target, jnp.array([True])) == (1, 3)


def seen():
    """In place of a chain: no update, and the indicators of the step as its state."""

    def update(updates, state, params):
        return jax.tree.map(jnp.zeros_like, params), {"sum": SumTasksState(updates.weights), "of": updates.indicators}

    return optax.GradientTransformation(lambda params: {"sum": SumTasksState(jnp.ones(3)), "of": jnp.ones(3)}, update)


def make_step(tasks, tx, devices=1, accumulate=1):
    axis_name = None if devices == 1 else parallel.AXIS
    model = toy_config.Plain(Backbone({}, None, multiple=1, numerics=Numerics(axis_name)), tasks)
    step = steps.make_train_step(model, tasks, tx, key=jax.random.key(0), axis_name=axis_name, accumulate=accumulate)
    return tiny_problem.make_state(model, tx, tasks), jax.jit(step) if devices == 1 else parallel.map_train_step(step)


def test_indicators_are_of_the_whole_batch_on_devices_and_in_parts():
    batch = tiny_problem.make_batch()
    batch["labelled"]["depth"][:] = False
    found = {}
    for devices, accumulate in ((1, 1), (4, 1), (4, 2)):
        state, step = make_step(BLIND, seen(), devices, accumulate)
        state = step(state, batch if devices == 1 else parallel.place_batch(batch))
        found[devices, accumulate] = np.asarray(state.opt_state["of"])
    accuracy, depth, normal = found[1, 1]
    assert 0.1 < accuracy < 0.9
    assert np.isnan([depth, normal]).all()  # absent; without an indicator
    np.testing.assert_allclose(found[4, 1], found[1, 1], rtol=1e-6)
    assert found[4, 2][0] == pytest.approx(accuracy, abs=0.1)  # BatchNorm sees other rows


@pytest.mark.parametrize("accumulate", [pytest.param(1, marks=pytest.mark.long), 2])
def test_they_cost_nothing_where_no_method_looks(accumulate):
    programs = []
    for tasks in (tiny_problem.TASKS, tuple(dataclasses.replace(task, indicator=None) for task in tiny_problem.TASKS)):
        state, step = make_step(tasks, tiny_problem.make_tx("equal"), accumulate=accumulate)
        compiled = step.lower(state, tiny_problem.make_batch()).compile()
        programs.append((compiled.cost_analysis()["flops"], compiled.as_text().count(" = ")))
    assert programs[0] == programs[1]


def test_a_run_weighs_by_them(tmp_path):
    run = whole_run.Run(
        "toy_config", tmp_path / "data", tmp_path, weighting="dtp", duration="3 steps", log_every="1 steps"
    )
    whole_run.train_here(run.experiment(), tmp_path / "run")
    lines = [line for line in whole_run.read_metrics(tmp_path / "run") if line["split"] == "train"]
    weights = [[line[f"weights/{name}"] for name in tiny_problem.NAMES] for line in lines]
    assert np.isfinite(weights).all()
    assert (np.ptp(weights, axis=0) > 0).all()


def test_a_task_without_one_is_refused_before_training():
    config = toy_config.get_config()
    config.tasks = BLIND
    Experiment.from_config(config)
    config.weighting = "static+dtp"
    message = r"config\.weighting = 'static\+dtp' needs an indicator .*, and normal has none; set Task\.indicator"
    with pytest.raises(ValueError, match=message):
        Experiment.from_config(config)
