"""Several processes train, evaluate, save and resume as one does.

Batches have the same rows, in another order: sums over a batch differ by rounding, and so does all that follows.
"""

import json
import re
import shutil

import jax
import numpy as np
import pytest
from helpers import whole_run

from mtan_jax.commands import predict_dense
from mtan_jax.runtime import parallel
from mtan_jax.training import restore

# What gloo says of itself.
GLOO = re.compile(r"\[Gloo\] Rank|is connected to|Expected number of connected peer ranks is :|peer ranks\.|\d+")
# Plain gradient descent: Adam's division would turn the rounding of a gradient that should be 0 into a step.
SGD = {"optimizer.name": "sgd", "optimizer.learning_rate": 0.05}


def assert_close_runs(experiment, found, expected, tolerance):
    """The same lines and the same newest state to a relative difference, of the largest entry for arrays."""
    lines = [whole_run.read_metrics(folder) for folder in (found, expected)]
    assert [list(line) for line in lines[0]] == [list(line) for line in lines[1]]
    for a, b in zip(*lines, strict=True):
        place = b["step"], b["split"]
        assert (a.pop("step"), a.pop("split")) == (b.pop("step"), b.pop("split"))
        for name, value in b.items():
            assert a[name] == pytest.approx(value, rel=tolerance, nan_ok=True), (place, name)
    states = [whole_run.read_state(experiment, folder) for folder in (found, expected)]
    for field in ("params", "batch_stats", "opt_state", "window"):
        arrays = [jax.tree.leaves(getattr(state, field)) for state in states]
        largest = max(np.abs(array).max() for array in arrays[1] if array.size)
        for a, b in zip(*arrays, strict=True):
            np.testing.assert_allclose(a, b, rtol=0, atol=tolerance * max(largest, 1), err_msg=field)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("toy")
    return whole_run.Run("toy_config", folder / "data", folder, **SGD)


@pytest.fixture(scope="module")
def experiment(run):
    return run.experiment()


@pytest.fixture(scope="module")
def alone(experiment, tmp_path_factory):
    """A working directory of one process with four devices."""
    folder = tmp_path_factory.mktemp("alone")
    whole_run.train_here(experiment, folder)
    return folder


@pytest.fixture(scope="module")
def killed(run, tmp_path_factory):
    """A working directory of two processes with two devices each, both killed at about step 6 of 13.

    The second reads the first checkpoint back a second after the first: it must not have been renamed by then.
    """
    folder = tmp_path_factory.mktemp("killed") / "run"
    started = run.with_file("toy_late_reader_config").start(folder, processes=2)
    run.kill_when(started, lambda: 6 in whole_run.checkpoint_steps(folder))
    assert 12 not in whole_run.checkpoint_steps(folder)
    return folder


def test_two_processes_resume_and_end_as_one(run, experiment, alone, killed, tmp_path):
    folder = shutil.copytree(killed, tmp_path / "run")
    (out, err), (other_out, other_err) = run.finish(run.start(folder, processes=2))
    assert_close_runs(experiment, folder, alone, 1e-5)
    # Process 0 speaks for both; gloo, which is there on CPUs only, cannot be told to be quiet.
    assert re.match(r"the working directory \S+ is taken over from process .*\nresuming from step ", err)
    assert err.count("split val after 13 steps") == 1
    assert other_err == ""
    # Its two threads write into each other's lines, so its own words are looked for piece by piece.
    assert GLOO.sub("", out + other_out).strip() == ""
    assert len(list(folder.glob("events.*"))) == 2  # a file a start, and not one more a process


def test_shard_map_in_one_process_equals_pmap(run, experiment, alone, tmp_path, monkeypatch):
    monkeypatch.setattr(parallel, "_method", "shard_map")
    other = run.experiment()  # with steps of its own
    whole_run.train_here(other, tmp_path / "run")
    assert_close_runs(other, tmp_path / "run", alone, 1e-5)
    images = next(other.data.eval_batches("val"))["image"]
    state = restore.restore(other, alone, "newest")
    found = predict_dense.predict_arrays(other, state, list(images))
    monkeypatch.setattr(parallel, "_method", "pmap")
    state = restore.restore(experiment, alone, "newest")
    for name, expected in predict_dense.predict_arrays(experiment, state, list(images)).items():
        np.testing.assert_allclose(found[name], expected, atol=1e-5, err_msg=name)


@pytest.mark.long
@pytest.mark.parametrize("method", ["pmap", "shard_map"])
@pytest.mark.parametrize("processes", [2, 4])
def test_processes_with_two_devices_each(processes, method, tmp_path):
    run = whole_run.Run("toy_config", tmp_path / "data", tmp_path / "output", **SGD, batch_size=8)
    experiment = run.experiment()
    whole_run.train_here(experiment, tmp_path / "alone")
    run.finish(run.start(tmp_path / "run", f"--parallel={method}", processes=processes, devices=2 * processes))
    assert_close_runs(experiment, tmp_path / "run", tmp_path / "alone", 1e-5)


def test_one_process_resumes_what_two_began(experiment, alone, killed, tmp_path):
    folder = shutil.copytree(killed, tmp_path / "run")
    whole_run.train_here(experiment, folder)
    assert_close_runs(experiment, folder, alone, 1e-5)


@pytest.mark.long
def test_processes_of_a_real_network(tmp_path):
    options = {**SGD, "duration": "5 steps", "log_every": "1 steps", "eval.every": "1 steps"}
    # Small steps: rounding that turns over one rectifier grows tenfold a step at 0.05, and hardly at all at 0.005.
    options["optimizer.learning_rate"] = 0.005
    run = whole_run.Run("tiny_config", tmp_path / "data", tmp_path / "output", **options)
    alone, straight, stopped = (tmp_path / name for name in ("alone", "straight", "stopped"))
    experiment = run.experiment()
    whole_run.train_here(experiment, alone)
    run.finish(run.start(straight, processes=2))
    assert_close_runs(experiment, straight, alone, 1e-5)
    moved = jax.tree.map(
        lambda a, b: np.abs(a - b).max(), experiment.init_state().params, whole_run.read_state(experiment, alone).params
    )
    assert max(jax.tree.leaves(moved)) > 0.01  # a thousand times that tolerance
    # Among two processes a stop changes nothing at all.
    run.kill_when(run.start(stopped, processes=2), lambda: whole_run.checkpoint_steps(stopped))
    assert 5 not in whole_run.checkpoint_steps(stopped)
    run.finish(run.start(stopped, processes=2))
    whole_run.assert_same_run(experiment, stopped, straight)
    # Evaluation by two processes gives what two logged; by four, to rounding.
    last = [line for line in whole_run.read_metrics(straight) if line["split"] == "val"][-1]
    for processes, tolerance in ((2, 0), (4, 1e-5)):
        (out, _), *others = run.finish(run.start(straight, "--mode=eval", processes=processes))
        metrics = json.loads(out[out.index("{") :])
        assert len(metrics) > 10
        assert metrics == pytest.approx({name: last[name] for name in metrics}, rel=tolerance)
        assert all("{" not in other_out for other_out, _ in others)


@pytest.mark.long
def test_second_batches_of_two_processes_are_those_of_one(tmp_path):
    options = {**SGD, "weighting": "auto_lambda", "weighting_options.auto_lambda.epsilon": 0.0, "duration": "5 steps"}
    run = whole_run.Run("toy_config", tmp_path / "data", tmp_path / "output", **options)
    experiment = run.experiment()
    whole_run.train_here(experiment, tmp_path / "alone")
    run.finish(run.start(tmp_path / "two", processes=2))
    assert_close_runs(experiment, tmp_path / "two", tmp_path / "alone", 1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["equal", "pcgrad"])
def test_telemetry_of_two_processes_is_that_of_one(method, tmp_path):
    options = {**SGD, "weighting": f"telemetry+{method}", "duration": "5 steps", "log_every": "2 steps"}
    run = whole_run.Run("toy_config", tmp_path / "data", tmp_path / "output", **options)
    experiment = run.experiment()
    whole_run.train_here(experiment, tmp_path / "alone")
    run.finish(run.start(tmp_path / "two", processes=2))
    assert "telemetry/stationarity" in whole_run.read_metrics(tmp_path / "two")[0]
    assert_close_runs(experiment, tmp_path / "two", tmp_path / "alone", 1e-3)


@pytest.mark.long
def test_processes_share_the_images_of_every_set_of_a_step(tmp_path):
    options = {"mixing.tasks_per_step": 2, "batch_size": 16, "duration": "3 steps", "log_every": "1 steps"}
    options |= {"optimizer.learning_rate": 0.005, "eval.every": "3 steps", "checkpoint.best_metric": "mean/accuracy"}
    run = whole_run.Run("toy_sets_config", tmp_path / "data", tmp_path / "output", **options)
    experiment = run.experiment()
    whole_run.train_here(experiment, tmp_path / "alone")
    run.finish(run.start(tmp_path / "two", processes=2))
    assert_close_runs(experiment, tmp_path / "two", tmp_path / "alone", 1e-4)


@pytest.mark.slow
def test_an_error_in_one_process_ends_the_others_soon(run, tmp_path):
    started = run.start(tmp_path, "--config.data.name=nyuv2", "--config.data.raw_dir=nowhere", processes=2)
    for process in started:
        process.wait(60)
    assert started[0].returncode == 1
    assert started[1].returncode != 0
