"""Runs in a bucket, which must equal local runs: training, kills, signals, evaluation, prediction, export."""

import json
import os
import signal
import time

import jax
import numpy as np
import pytest
from helpers import bucket_server, whole_run
from PIL import Image

import mtan_jax
from mtan_jax.commands import export
from mtan_jax.runtime import bucket, mirror

pytestmark = pytest.mark.filterwarnings("ignore:Sending a large body:ResourceWarning")


@pytest.fixture(scope="module")
def server():
    with bucket_server.serving() as running:
        yield running


@pytest.fixture(autouse=True)
def home(server, monkeypatch, tmp_path):
    """A home directory of the test's own, as on a new machine; the bucket without faults."""
    bucket_server.enter_machine(monkeypatch, tmp_path / "home")
    yield
    server.failures = server.stalls = 0


def in_bucket(run, workdir):
    """The command line of a run whose data and working directory are in the bucket."""
    other = run.copy(run._folder)
    other._options = {**run._options, "data.data_dir": "gs://bucket/data"}
    return other, f"gs://bucket/runs/{workdir}"


def local_copy(workdir):
    folder = mirror.local(workdir, "--workdir")
    mirror.pull(folder)
    return folder


def has_checkpoint(workdir, step):
    path = f"{workdir.removeprefix('gs://')}/checkpoints/{step}"

    def condition():
        time.sleep(0.2)  # the emulator runs in this process, and would have no time for the run
        return "metrics/metrics" in bucket.find(path)

    return condition


@pytest.mark.slow
def test_a_stopped_run_continues_from_the_bucket(run, experiment, straight, server, tmp_path):
    # Requests fail now and then, and the second start is on another machine, without the first one's disk.
    run, workdir = in_bucket(run.copy(tmp_path), "stopped")
    server.failures = 0.03
    started = run.start(workdir)
    assert run.signal_when(started, has_checkpoint(workdir, 4), signal.SIGTERM) == [128 + signal.SIGTERM]
    assert f"gs://{bucket_server.BUCKET}/data" in run.read_output(0)[1]
    os.environ["HOME"] = str(tmp_path / "another")
    _, error = run.finish(run.start(workdir))[0]
    assert "resuming from step" in error
    whole_run.assert_same_run(experiment, local_copy(workdir), straight)
    assert not any(name.endswith(".lock") for name in server.objects("runs/stopped"))


@pytest.mark.slow
def test_a_killed_run_continues_from_the_bucket(run, experiment, straight, server, tmp_path):
    run, workdir = in_bucket(run.copy(tmp_path), "killed")
    run.kill_when(run.start(workdir), has_checkpoint(workdir, 6))
    server.stalls, server.stall_seconds = 3, 5.0
    _, error = run.finish(run.start(workdir))[0]
    assert "taken over from process" in error
    assert "resuming from step" in error
    whole_run.assert_same_run(experiment, local_copy(workdir), straight)


@pytest.mark.slow
def test_two_processes_in_a_bucket(run, experiment, straight, server, tmp_path):
    run, workdir = in_bucket(run.copy(tmp_path), "pair")
    started = run.start(workdir, processes=2)
    assert run.signal_when(started, has_checkpoint(workdir, 4), signal.SIGTERM) == [128 + signal.SIGTERM] * 2
    run.finish(run.start(workdir, processes=2))
    found = local_copy(workdir)
    for mine, theirs in zip(*map(whole_run.read_metrics, (found, straight)), strict=True):
        assert [*mine] == [*theirs]
        assert (mine["step"], mine["split"]) == (theirs["step"], theirs["split"])
        for name in {"depth/loss", "semantic/loss"} & {*mine}:  # sums over other devices
            assert mine[name] == pytest.approx(theirs[name], rel=1e-3, nan_ok=True)
    assert whole_run.checkpoint_steps(found) == whole_run.checkpoint_steps(straight)


def test_a_run_in_use_is_refused(run, server, tmp_path):
    bucket.create("bucket/runs/used/.lock", b'{"pid": 1, "host": "elsewhere", "command": "train", "beats": 0}')
    run, workdir = in_bucket(run.copy(tmp_path), "used")
    started = run.start(workdir)
    for beat in range(600):
        if started[0].poll() is not None:
            break
        content = {"pid": 1, "host": "elsewhere", "command": "train", "beats": beat}
        bucket.write("bucket/runs/used/.lock", json.dumps(content).encode())
    (error,) = run.fail(started, 60)
    assert "the working directory gs://bucket/runs/used is in use by process 1 on host elsewhere (train)" in error
    assert server.objects("runs/used") == ["runs/used/.lock"]


def draw_photo(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (16, 24, 3)).astype(np.uint8)).save(path)


def test_results_of_a_run_in_a_bucket(run, straight, server, run_main, capsys, tmp_path):
    """Evaluation and predictions of the same run, copied to the bucket."""
    photos = tmp_path / "photos"
    draw_photo(photos / "a.png")
    bucket.upload({"bucket/photos/a.png": photos / "a.png"})
    mirrored = mirror.local("gs://bucket/runs/copied", "--workdir")
    for path in straight.rglob("*"):
        if path.is_file() and not path.name.startswith("."):
            target = mirrored / path.relative_to(straight)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(path.read_bytes())
    mirror.push(mirrored)
    results = []
    for workdir in (str(straight), "gs://bucket/runs/copied"):
        arguments = run.arguments(workdir)
        run_main(*arguments, "--mode=eval", "--checkpoint=best")
        results.append(json.loads(capsys.readouterr().out))
        run_main(*arguments, "--mode=predict", "--count=2")
        run_main(
            *arguments, "--mode=predict", f"--images={photos if workdir == str(straight) else 'gs://bucket/photos'}"
        )
    assert results[0] == results[1]
    panels = [name for name in server.objects("runs/copied/figures") if name.endswith(".npz")]
    assert len(panels) == 3
    for panel in panels:
        name = panel.removeprefix("runs/copied/")
        local, there = np.load(straight / name), np.load(mirrored / name)
        assert {*local} == {*there}
        for name in local:
            np.testing.assert_array_equal(local[name], there[name])


@pytest.mark.slow
def test_a_warm_start_from_a_run_in_a_bucket(server, tmp_path):
    config = mtan_jax.load_config("streets:smoke")
    config.data.data_dir = str(tmp_path / "data")
    config.model.arch, config.model.backbone = "split", "segnet"
    first = mtan_jax.fit(config, "gs://bucket/runs/first")
    config.model.init_from = "gs://bucket/runs/first"
    second = mtan_jax.Run.open(config, tmp_path / "second")
    state, initial = first.restore(), second.restore("initial")
    for a, b in zip(jax.tree.leaves(state.params), jax.tree.leaves(initial.params), strict=True):
        np.testing.assert_array_equal(a, b)
    for output in ("gs://bucket/network.npz", str(tmp_path / "network.npz")):
        export.export(first.experiment, first.workdir, "newest", output)
    assert bucket.read("bucket/network.npz") == (tmp_path / "network.npz").read_bytes()
