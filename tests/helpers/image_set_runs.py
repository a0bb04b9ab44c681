"""Runs on the toy sets of images, for the tests of architectures whose images belong to one task each."""

import functools
import itertools

import jax
import numpy as np
import pytest
from flax import traverse_util
from helpers import toy_sets_config, whole_run

from mtan_jax.experiment import Experiment
from mtan_jax.models import Backbone
from mtan_jax.models.backbones.wide_resnet import Group, Stem
from mtan_jax.reporting.sinks import MetricWriter
from mtan_jax.runtime import parallel
from mtan_jax.training import evaluation


def one_group(width, layers):
    """A backbone of four convolutions, which compiles in no time."""
    made = {
        "stem": functools.partial(Stem, layers, 2, 4),
        "group_0": functools.partial(Group, layers, 4, 4, 1, True),
    }
    return Backbone(made, head=None, multiple=8, numerics=layers.numerics)


class StopError(Exception):
    """Stops a run in the middle."""


def make_experiment(data_dir, arch, fields):
    """An experiment with the configuration of `toy_sets_config`, changed in fields by dotted name."""
    config = toy_sets_config.get_config()
    config.data.data_dir, config.model.arch = str(data_dir), arch
    for name, value in fields.items():
        config.update_from_flattened_dict({name: value})
    experiment = Experiment.from_config(config)
    experiment.data.prepare()
    return experiment


def take_steps(experiment, count, state=None):
    """The state after some steps on all devices, and the batches."""
    state = experiment.init_state() if state is None else state
    stream = experiment.train_batches(0)
    batches = [evaluation.without_ids(batch) for batch in itertools.islice(stream, count)]
    stream.close()
    for batch in batches:
        state = experiment.train_step(state, parallel.place_batch(batch))
    return jax.device_get(state), batches


def flat(tree):
    return traverse_util.flatten_dict(tree, sep="/")


def assert_same(found, expected):
    assert found.keys() == expected.keys()
    for name, array in found.items():
        assert array.tobytes() == expected[name].tobytes(), name


def predict(experiment, state, task):
    """Predictions of the images of "val" of one set."""
    found = []
    for batch in experiment.data.whole_split("val"):
        if experiment.task_names[batch["task"][0]] == task:
            inputs = parallel.place_batch({"image": batch["image"], "task": batch["task"]})
            found.append(
                jax.device_get(experiment.predict_step(parallel.place_state(state.variables), inputs)[0][task])
            )
    return np.concatenate(found)


def assert_stopped_run_is_straight(experiment, folder, monkeypatch):
    """Trains twice, once with a stop after 5 of 6 steps; the checkpoints and metrics are equal bit for bit."""

    def stop(writer, step):
        if step == 5:
            raise StopError

    whole_run.train_here(experiment, folder / "straight")
    with monkeypatch.context() as patch:
        patch.setattr(MetricWriter, "advance", stop)
        with pytest.raises(StopError):
            whole_run.train_here(experiment, folder / "stopped")
    assert whole_run.checkpoint_steps(folder / "stopped") == [3]
    whole_run.train_here(experiment, folder / "stopped")
    whole_run.assert_same_run(experiment, folder / "stopped", folder / "straight")
