"""A run that Ctrl-C or SIGTERM stops saves its step, and the same command continues from there, bit for bit."""

import random
import re
import signal
import time

import pytest
from helpers import whole_run

from mtan_jax.runtime import interrupts

EXIT_CODES = {signal.SIGINT: 130, signal.SIGTERM: 143}
SECONDS = 25  # within which a run stops


def stop_once(experiment, folder, monkeypatch, *, after=None, evaluating=False):
    """Trains until the end of a step or, with `evaluating`, until the next evaluation; returns the step."""
    with monkeypatch.context() as patch:
        patch.setattr(interrupts, "should_stop", lambda step: step == after)
        patch.setattr(interrupts, "is_requested", lambda: evaluating)
        with pytest.raises(interrupts.Stopped) as stopped:
            whole_run.train_here(experiment, folder)
    message = re.fullmatch(
        r"stopped by SIGTERM at step (\d+) of 13, which is saved; the same command continues from there",
        stopped.value.code,
    )
    assert whole_run.checkpoint_steps(folder)[-1] == int(message[1])
    return int(message[1])


def test_stops_after_steps_and_during_evaluations_change_nothing(experiment, straight, tmp_path, monkeypatch):
    # Checkpoints are due every 2 steps, evaluations every 4, lines every 3.
    for step in (1, 3, 4, 5):
        assert stop_once(experiment, tmp_path, monkeypatch, after=step) == step
    for step in (8, 12):
        assert stop_once(experiment, tmp_path, monkeypatch, evaluating=True) == step
        assert stop_once(experiment, tmp_path, monkeypatch, evaluating=True) == step  # while it is made up for
        lines = [(line["step"], line["split"]) for line in whole_run.read_metrics(tmp_path)]
        assert (step, "val") not in lines
        assert stop_once(experiment, tmp_path, monkeypatch, after=step + 1) == step + 1
    whole_run.train_here(experiment, tmp_path)
    whole_run.assert_same_run(experiment, tmp_path, straight)


def send(started, signum, target=0):
    """Sends a signal and returns the seconds until all processes have ended."""
    started[target].send_signal(signum)
    sent = time.monotonic()
    try:
        for process in started:
            process.wait(60)
        return time.monotonic() - sent
    finally:
        whole_run.kill(started)


def wait_for_lines(run, started, folder, count):
    path, deadline = folder / "metrics.jsonl", time.monotonic() + 240
    while not path.exists() or path.read_text().count("\n") < count:
        assert all(process.poll() is None for process in started), run.read_output(0)
        assert time.monotonic() < deadline, run.read_output(0)
        time.sleep(0.005)


def finish_and_compare(run, experiment, folder, straight, processes=1):
    run.finish(run.start(folder, processes=processes))
    whole_run.assert_same_run(experiment, folder, straight)


@pytest.fixture(scope="module")
def endless(tmp_path_factory):
    """A run that is still training when a signal comes."""
    folder = tmp_path_factory.mktemp("endless")
    options = {"duration": "100000 steps", "eval.every": "1000 steps", "checkpoint.every": "1000 steps"}
    return whole_run.Run("toy_config", folder / "data", folder, **options)


@pytest.mark.parametrize("signum", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.long)])
@pytest.mark.parametrize("processes", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_a_signal_saves_the_step(signum, processes, endless, tmp_path):
    started = endless.start(tmp_path, processes=processes)
    wait_for_lines(endless, started, tmp_path, 2)
    seconds = send(started, signum, target=processes - 1)
    errors = [endless.read_output(i)[1] for i in range(processes)]
    # Only the process that has received the signal knows which it was.
    codes = [process.returncode for process in started]
    assert codes[-1] == EXIT_CODES[signum], errors
    assert set(codes) <= {143, EXIT_CODES[signum]}, errors
    assert seconds < SECONDS
    [step] = whole_run.checkpoint_steps(tmp_path)
    assert step % 1000
    for error in errors:
        assert f"at step {step} of 100000, which is saved; the same command continues from there" in error
        assert "Traceback" not in error


@pytest.mark.slow
def test_a_second_signal_ends_the_program_at_once(endless, tmp_path):
    started = endless.start(tmp_path)
    wait_for_lines(endless, started, tmp_path, 2)
    started[0].send_signal(signal.SIGTERM)
    seconds = send(started, signal.SIGTERM)
    assert started[0].returncode == 143
    assert seconds < 5


@pytest.mark.long
@pytest.mark.parametrize("processes", [1, 2])
def test_signals_at_random_moments(processes, run, experiment, straight, tmp_path):
    rng, expected = random.Random(processes), straight
    if processes > 1:
        expected = tmp_path / "together"
        run.finish(run.start(expected, processes=processes))
    start = time.monotonic()
    run.finish(run.start(tmp_path / "timed", processes=processes))
    whole = time.monotonic() - start
    worst = 0.0
    for attempt in range(20):
        folder, signum = tmp_path / str(attempt), rng.choice(list(EXIT_CODES))
        started = run.start(folder, processes=processes)
        time.sleep(rng.uniform(0, whole))
        if all(process.poll() is None for process in started):
            worst = max(worst, send(started, signum, target=rng.randrange(processes)))
            assert {process.returncode for process in started} <= {0, 1, 130, 143}, run.read_output(0)
        whole_run.kill(started)
        finish_and_compare(run, experiment, folder, expected, processes)
    assert worst < SECONDS
    print(f"{processes} processes: {worst:.1f} s")  # noqa: T201
