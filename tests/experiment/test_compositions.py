"""Weighting methods, a schedule and what optax has in one chain: from a configuration and in Python, under pmap."""

import pathlib
import runpy

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import toy_config, whole_run

from mtan_jax import steps
from mtan_jax.experiment import Experiment
from mtan_jax.reporting import metrics_file
from mtan_jax.runtime import parallel
from mtan_jax.training import evaluation
from mtan_jax.weighting import dwa, pcgrad, task_weights

STREETS = pathlib.Path(__file__).parents[2] / "configs" / "streets.py"
STEPS = 3


def favour_the_largest(step, losses):
    return len(losses) * losses / jnp.maximum(losses.sum(), 1e-6) + 1 / (1 + step)


STATIC = {"weights": {"semantic": 1.0, "depth": 20.0, "normal": 20.0}}
ADAMW = {"optimizer.name": "adamw", "optimizer.clip_norm": 1.0, "optimizer.learning_rate": 1e-4}
COMPOSITIONS = {
    "dwa, pcgrad, clipping, adamw": {"weighting": "dwa+pcgrad", **ADAMW},
    "static, cagrad": {"weighting": (("static", STATIC), "cagrad")},
    "uncertainty, mgda": {"weighting": "uncertainty+mgda"},
    "schedule, nash_mtl": {"weighting": (("schedule", {"weights": favour_the_largest}), "nash_mtl")},
}


def make_experiment(config, fields, folder):
    config.data.data_dir = str(folder)
    config.data.augment = False
    config.optimizer.options = {}
    config.optimizer.schedule = "constant"
    config.optimizer.warmup = None
    config.update_from_flattened_dict(fields)
    experiment = Experiment.from_config(config)
    experiment.data.prepare()
    return experiment


def train(experiment, tx, devices):
    """The states before the first step and after each, and each step's weights, on the first so many devices."""
    step = steps.make_train_step(experiment.model, experiment.tasks, tx, key=jax.random.key(0), axis_name=parallel.AXIS)
    step = jax.pmap(step, parallel.AXIS, in_axes=(None, 0), out_axes=None, devices=jax.devices()[:devices])
    size = experiment.data.info.image_size
    make_state = jax.jit(lambda key: steps.create_state(experiment.model, tx, key, size, len(experiment.tasks)))
    states = [jax.device_get(make_state(jax.random.key(0)))]
    batches = map(evaluation.without_ids, experiment.train_batches(0))
    for _ in range(STEPS):
        batch = jax.tree.map(lambda x: x.reshape(devices, -1, *x.shape[1:]), next(batches))
        states.append(jax.device_get(step(states[-1], batch)))
    return states, np.stack([task_weights(state.opt_state) for state in states[1:]])


def moved(states):
    """How far parameters went, as one vector.

    Without the biases of convolutions: before a BatchNorm their gradients are rounding, which Adam magnifies.
    """
    ways = jax.tree.leaves_with_path(jax.tree.map(lambda a, b: np.ravel(b - a), states[0].params, states[-1].params))
    names = [("/".join(str(key.key) for key in path), way) for path, way in ways]
    return np.concatenate([way for name, way in names if not name.endswith(("conv/bias", "conv_bias"))])


def assert_same_run(found, expected, tolerance):
    (states, weights), (expected_states, expected_weights) = found, expected
    for state, other in zip(states[1:], expected_states[1:], strict=True):
        np.testing.assert_allclose(state.window.loss_total, other.window.loss_total, rtol=tolerance)
    np.testing.assert_allclose(weights, expected_weights, rtol=tolerance)
    way, other = moved(states), moved(expected_states)
    assert np.linalg.norm(other) > 0
    assert np.linalg.norm(way - other) < tolerance * np.linalg.norm(other)


def test_a_chain_in_python_is_that_of_a_configuration_on_one_and_four_devices(tmp_path):
    experiment = make_experiment(toy_config.get_config(), {"weighting": "dwa+pcgrad", **ADAMW}, tmp_path)
    tasks, steps_per_epoch = experiment.task_names, round(experiment.lengths.steps_per_epoch)
    tx = optax.chain(
        dwa(tasks, steps_per_epoch=steps_per_epoch),
        pcgrad(tasks),
        optax.clip_by_global_norm(1.0),
        optax.adamw(1e-4),
    )
    # Float32 sums in another order. Seen: 1e-6 in the losses, 2e-6 in the parameters' way.
    assert_same_run(train(experiment, tx, devices=4), train(experiment, experiment.tx, devices=1), 2e-5)


CONFIG = """
import runpy

COMPOSITIONS = runpy.run_path({tests!r})["COMPOSITIONS"]


def get_config(arg=None):
    config = runpy.run_path({streets!r})["get_config"]("smoke")
    config.optimizer.options = {{}}
    config.update_from_flattened_dict(COMPOSITIONS[{name!r}])
    config.log_every = "1 steps"
    config.compilation_cache = ""
    return config
"""


@pytest.mark.long
@pytest.mark.parametrize("name", COMPOSITIONS)
def test_streets_trains_under_pmap(name, tmp_path_factory, tmp_path, run_main):
    file = tmp_path / "config.py"
    file.write_text(CONFIG.format(streets=str(STREETS), tests=__file__, name=name))
    data, folder = tmp_path_factory.getbasetemp() / "streets", tmp_path / "run"
    run_main(f"--config={file}", f"--workdir={folder}", f"--config.data.data_dir={data}")
    lines = [line for line in metrics_file.read_metrics(folder / "metrics.jsonl") if line["split"] == "train"]
    assert [line["step"] for line in lines] == [1, 2, 3, 4]
    for line in lines:
        for task in ("semantic", "depth", "normal"):
            assert np.isfinite(line[f"{task}/loss"])
            assert np.isfinite(line[f"weights/{task}"])
    weights = [[line[f"weights/{task}"] for task in ("semantic", "depth", "normal")] for line in lines]
    assert len({tuple(row) for row in weights}) > 1  # those of gradient methods change from step to step
    config = runpy.run_path(str(file))["get_config"]()
    config.data.data_dir = str(data)
    experiment = Experiment.from_config(config)
    experiment.data.prepare()
    initial, last = experiment.init_state(), whole_run.read_state(experiment, folder)
    way = moved([jax.device_get(initial), last])
    assert np.isfinite(way).all()
    assert (way != 0).mean() > 0.9
