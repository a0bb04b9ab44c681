"""A run that is stopped at any moment and resumed equals an uninterrupted run, bit for bit."""

import json
import logging

import pytest
from helpers import whole_run

from mtan_jax.reporting.sinks import MetricWriter
from mtan_jax.runtime.checkpoint import Checkpoints
from mtan_jax.training import evaluation, loop, restore
from mtan_jax.weighting import task_weights


class StopError(Exception):
    pass


def test_a_straight_run_logs_and_keeps_what_it_should(straight):
    lines = [(line["step"], line["split"]) for line in whole_run.read_metrics(straight)]
    assert lines == [
        *[(3, "train"), (4, "val"), (6, "train"), (8, "val"), (9, "train"), (12, "train"), (12, "val")],
        *[(13, "train"), (13, "val"), (13, "val_constant")],
    ]
    assert whole_run.checkpoint_steps(straight)[-2:] == [12, 13]
    weights = [line["weights/semantic"] for line in whole_run.read_metrics(straight) if line["split"] == "train"]
    assert len(set(weights)) > 2  # or the state of the weighting would not be tested


# Where a run is stopped: owner and name of the function whose call stops it, and the step from its arguments.
ENDS_OF_STEPS = (MetricWriter, "advance", lambda writer, step: step)
BEFORE_SAVING = (Checkpoints, "save", lambda checkpoints, state, metrics: int(state.step))
BEFORE_EVALUATING = (evaluation, "evaluate", lambda experiment, state, **options: int(state.step))
BEFORE_REPORTING = (loop, "report", lambda *arguments: 13)


def train_until(moment, step, experiment, folder, monkeypatch):
    owner, name, step_of = moment
    original = getattr(owner, name)

    def stop_or_go_on(*arguments, **named):
        if step_of(*arguments, **named) == step:
            raise StopError
        return original(*arguments, **named)

    with monkeypatch.context() as patch:
        patch.setattr(owner, name, stop_or_go_on)
        with pytest.raises(StopError):
            whole_run.train_here(experiment, folder)


def test_stops_anywhere_in_the_loop_change_nothing(experiment, straight, tmp_path, monkeypatch, caplog):
    caplog.set_level(logging.INFO)
    stops = [
        (ENDS_OF_STEPS, 1, 0),  # nothing saved yet
        (BEFORE_SAVING, 4, 0),  # evaluated and logged, not saved
        (ENDS_OF_STEPS, 7, 2),  # between checkpoints, with two workers
        (BEFORE_EVALUATING, 12, 0),
        (BEFORE_REPORTING, 13, 0),
    ]
    for moment, step, workers in stops:
        experiment.config.data.workers = workers
        train_until(moment, step, experiment, tmp_path, monkeypatch)
    experiment.config.data.workers = 0
    whole_run.train_here(experiment, tmp_path)
    whole_run.assert_same_run(experiment, tmp_path, straight)
    resumed = [record.getMessage() for record in caplog.records if "resuming" in record.getMessage()]
    assert resumed == [f"resuming from step {step} of 13" for step in (2, 6, 10, 13)]


def test_a_complete_run_run_again_stays_as_it_is(experiment, straight):
    def files():
        paths = [*straight.glob("checkpoints/**/*"), straight / "metrics.jsonl"]
        return {path: path.read_bytes() for path in paths if path.is_file()}

    before = files()
    metrics = whole_run.train_here(experiment, straight)
    assert files() == before
    last = [line for line in whole_run.read_metrics(straight) if line["split"] == "val"][-1]
    assert metrics == {name: last[name] for name in metrics}


def test_checkpoints_evaluate_to_the_numbers_that_were_logged(experiment, straight):
    logged = {line["step"]: line for line in whole_run.read_metrics(straight) if line["split"] == "val"}
    best = min(logged, key=lambda step: logged[step]["normal/median"])
    assert best < 12  # neither of the newest two
    for checkpoint, step in (("newest", 13), ("best", best), ("12", 12)):
        metrics = evaluation.evaluate(experiment, restore.restore(experiment, straight, checkpoint), "val")
        assert len(metrics) > 10
        assert metrics == {name: logged[step][name] for name in metrics}


def test_devices_that_cannot_share_an_evaluation_batch(experiment, straight, monkeypatch):
    # Named after a fault: a run could be evaluated only on a number of devices that divides its batch size.
    state = restore.restore(experiment, straight, "newest")
    expected = evaluation.evaluate(experiment, state)
    monkeypatch.setattr(experiment.config.eval, "batch_size", 3)
    assert evaluation.evaluate(experiment, state) == pytest.approx(expected, rel=1e-6)


def test_a_run_with_second_batches_stops_and_goes_on(tmp_path, monkeypatch):
    options = {"weighting": "auto_lambda", "weighting_options.auto_lambda.meta_rate": 0.01, "duration": "5 steps"}
    experiment = whole_run.Run("toy_config", tmp_path / "data", tmp_path, **options).experiment()
    whole_run.train_here(experiment, tmp_path / "straight")
    train_until(ENDS_OF_STEPS, 3, experiment, tmp_path / "stopped", monkeypatch)
    whole_run.train_here(experiment, tmp_path / "stopped")
    whole_run.assert_same_run(experiment, tmp_path / "stopped", tmp_path / "straight")
    state = whole_run.read_state(experiment, tmp_path / "straight")
    assert abs(task_weights(state.opt_state) - 0.1).min() > 0.002  # every weight has changed


@pytest.mark.slow
def test_a_run_with_telemetry_stops_and_goes_on(tmp_path, monkeypatch):
    options = {"weighting": "telemetry+dwa", "weighting_options.telemetry": {"every": 3}, "duration": "5 steps"}
    experiment = whole_run.Run("toy_config", tmp_path / "data", tmp_path, **options).experiment()
    whole_run.train_here(experiment, tmp_path / "straight")
    train_until(ENDS_OF_STEPS, 2, experiment, tmp_path / "stopped", monkeypatch)
    whole_run.train_here(experiment, tmp_path / "stopped")
    whole_run.assert_same_run(experiment, tmp_path / "stopped", tmp_path / "straight")


def test_killed_while_a_checkpoint_is_written(run, experiment, straight, tmp_path):
    folder = tmp_path / "run"

    def is_writing():
        return whole_run.checkpoint_steps(folder) and whole_run.unfinished_checkpoints(folder)

    run.kill_when(run.start(folder), is_writing)
    assert whole_run.unfinished_checkpoints(folder)  # it was killed during a save
    first_step = whole_run.checkpoint_steps(folder)[-1]
    assert first_step < 13
    [(out, err)] = run.finish(run.start(folder))
    assert not whole_run.unfinished_checkpoints(folder)
    whole_run.assert_same_run(experiment, folder, straight)
    # What the user sees: our own lines, on stderr, and no other package's.
    assert out == ""
    lines = err.splitlines()
    assert lines.pop(0).startswith(f"the working directory {folder} is taken over from process ")
    assert lines[0] == f"resuming from step {first_step} of 13"
    starts = ("compiling ", "step ", "split val after", "semantic/", "depth/", "normal/", "metrics, checkpoints", " ")
    assert [line for line in lines[1:] if line and not line.startswith(starts)] == []


@pytest.mark.slow
def test_three_kills_of_a_real_network_with_workers(tmp_path):
    run = whole_run.Run("tiny_config", tmp_path / "data", tmp_path / "output", **{"data.workers": 2})
    straight, folder = tmp_path / "straight", tmp_path / "killed"
    run.finish(run.start(straight))
    log = folder / "metrics.jsonl"

    def lines():
        return log.read_text().count("\n") if log.exists() else 0

    def is_writing():
        return whole_run.checkpoint_steps(folder) and whole_run.unfinished_checkpoints(folder)

    run.kill_when(run.start(folder), is_writing)
    assert whole_run.unfinished_checkpoints(folder)
    before = lines()
    run.kill_when(run.start(folder), lambda: lines() > before)  # just after a line was logged
    before = whole_run.checkpoint_steps(folder)[-1]
    # just after a checkpoint was completed
    run.kill_when(run.start(folder), lambda: whole_run.checkpoint_steps(folder)[-1] > before)
    run.finish(run.start(folder))
    experiment = run.experiment()
    whole_run.assert_same_run(experiment, folder, straight)
    [(out, _)] = run.finish(run.start(folder, "--mode=eval"))
    metrics = json.loads(out)
    last = [line for line in whole_run.read_metrics(straight) if line["split"] == "val"][-1]
    assert metrics == {name: last[name] for name in metrics}
