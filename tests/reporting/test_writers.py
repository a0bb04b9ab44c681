import errno
import io
import json
import logging
import math
import multiprocessing.synchronize
import os
import sys
import types

import pytest
from helpers.event_file_reader import read_events, read_scalars
from tensorboardX.proto import event_pb2

from mtan_jax.reporting import writers
from mtan_jax.reporting.writers import MetricWriter, read_metrics


def run(workdir, first_step, last_step, *, total_steps=10, log_every=1, **options):
    with MetricWriter(workdir, first_step=first_step, total_steps=total_steps, **options) as writer:
        for step in range(first_step + 1, last_step + 1):
            if step % log_every == 0:
                losses = {"semantic/loss": 1 / step, "depth/loss": math.exp(-step), "weights/depth": 1.0}
                writer.write(step, step / 4, "train", losses, {"steps_per_second": 3.0})
            if step % 4 == 0:
                writer.write(step, step / 4, "val", {"semantic/miou": math.sqrt(step)})
            writer.advance(step)


def refuse_constant(name):
    raise AssertionError(f"{name} is not JSON")


def test_numbers_read_back_exactly_and_what_is_not_finite_is_null(tmp_path):
    numbers = {"a/x": 0.1 + 0.2, "a/y": 1e-310, "a/z": math.pi * 1e20, "weights/a": 1.0}
    with MetricWriter(tmp_path, first_step=0, total_steps=3) as writer:
        writer.write(3, 0.75, "val", {**numbers, "a/nan": math.nan, "a/inf": -math.inf}, {"seconds": 2.5})
    (text,) = (tmp_path / "metrics.jsonl").read_text().splitlines()
    line = json.loads(text, parse_constant=refuse_constant)
    assert line == {
        "step": 3, "epoch": 0.75, "split": "val", **numbers, "a/nan": None, "a/inf": None, "seconds": 2.5
    }  # fmt: skip
    (read,) = read_metrics(tmp_path / "metrics.jsonl", timing=False)
    assert math.isnan(read.pop("a/nan"))
    assert math.isnan(read.pop("a/inf"))
    assert read == {"step": 3, "epoch": 0.75, "split": "val", **numbers}


def test_lines_are_there_at_once(tmp_path):
    with MetricWriter(tmp_path, first_step=0, total_steps=3) as writer:
        writer.write(1, 0.5, "train", {"a/loss": 2.0})
        assert read_metrics(tmp_path / "metrics.jsonl") == [{"step": 1, "epoch": 0.5, "split": "train", "a/loss": 2.0}]


@pytest.mark.parametrize("half_line", ["", '{"step": 8, "epoch": 2.0, "spl', '{"step": 8'])
def test_log_of_a_killed_and_resumed_run_equals_the_straight_one(tmp_path, half_line):
    run(tmp_path / "straight", 0, 10)
    run(tmp_path / "killed", 0, 7)
    with (tmp_path / "killed" / "metrics.jsonl").open("a") as file:
        file.write(half_line)
    run(tmp_path / "killed", 4, 10)
    logs = [(tmp_path / name / "metrics.jsonl").read_text() for name in ("straight", "killed")]
    assert logs[0] == logs[1]
    assert logs[0].count("\n") == 10 + 2
    assert not (tmp_path / "killed" / "metrics.tmp").exists()


def test_complete_last_line_without_its_end_is_kept(tmp_path):
    run(tmp_path, 0, 3)
    path = tmp_path / "metrics.jsonl"
    text = path.read_text()
    path.write_text(text.removesuffix("\n"))
    run(tmp_path, 3, 3)
    assert path.read_text() == text


def test_damaged_line_in_the_middle_is_named(tmp_path):
    run(tmp_path, 0, 3)
    path = tmp_path / "metrics.jsonl"
    lines = path.read_text().splitlines()
    path.write_text("\n".join([lines[0], lines[1][:20], lines[2]]) + "\n")
    with pytest.raises(ValueError, match=r"metrics\.jsonl, line 2 is damaged"):
        run(tmp_path, 3, 4)


def test_tensorboard_has_the_same_numbers_and_a_resumed_run_purges(tmp_path):
    run(tmp_path, 0, 7)
    run(tmp_path, 4, 10)
    events, scalars = read_events(tmp_path), read_scalars(tmp_path)
    expected = {
        (f"{line['split']}/{name}", line["step"]): value
        for line in read_metrics(tmp_path / "metrics.jsonl")
        for name, value in line.items()
        if name not in ("step", "epoch", "split")
    }
    assert scalars == pytest.approx(expected, rel=1e-7)  # float32
    # A viewer drops what older files have from the step of such an event on.
    starts = [event.step for event in events if event.session_log.status == event_pb2.SessionLog.START]
    assert starts == [1, 5]


def test_no_semaphores_are_needed(tmp_path, monkeypatch):
    # Named after a fault: a run ended with "[Errno 28] No space left on device" where /dev/shm had no room for them.
    def refuse(*arguments, **named):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(multiprocessing.synchronize.SemLock, "__init__", refuse)
    run(tmp_path, 0, 4)
    assert read_scalars(tmp_path)["val/semantic/miou", 4] == 2


def test_other_processes_write_nothing(tmp_path):
    run(tmp_path / "run", 0, 10, enabled=False)
    assert not (tmp_path / "run").exists()


def test_unknown_timing(tmp_path):
    with (
        MetricWriter(tmp_path, first_step=0, total_steps=1, enabled=False) as writer,
        pytest.raises(ValueError, match="'speed'; known: steps_per_second, seconds"),
    ):
        writer.write(1, 1, "train", {}, {"speed": 1.0})


def test_without_a_terminal_a_long_run_logs_few_lines(tmp_path, caplog, capsys):
    caplog.set_level(logging.INFO)
    run(tmp_path, 0, 3999, total_steps=4000, log_every=100)
    lines = [record.message for record in caplog.records if "val" not in record.message]
    assert lines == []  # less than SECONDS_BETWEEN_LINES and not at the end
    assert sum("val: semantic/miou" in record.message for record in caplog.records) == 999
    assert capsys.readouterr().err == ""


def test_plain_lines_tell_losses_rate_and_time_left(tmp_path, caplog, monkeypatch):
    now = iter(range(0, 10_000, 20))
    monkeypatch.setattr(writers, "time", types.SimpleNamespace(monotonic=lambda: next(now)))
    caplog.set_level(logging.INFO)
    run(tmp_path, 10, 13, total_steps=110)
    # The clock is read at the start, and once (or twice, for a line) a step, 20 s apart: a line at 40 s and at 80 s.
    lines = [record.message for record in caplog.records if "steps/s" in record.message]
    assert lines[0] == "step 12/110, semantic/loss 0.08333, depth/loss 6.144e-06, 0.0333 steps/s, 49:00 left"


def test_on_a_terminal_a_bar_shows_steps_and_losses(tmp_path, monkeypatch):
    terminal = io.StringIO()
    terminal.isatty = lambda: True
    monkeypatch.setattr(sys, "stderr", terminal)
    run(tmp_path, 2, 10)
    drawn = terminal.getvalue()
    assert "\r" in drawn
    assert "10/10" in drawn
    assert "semantic/loss 0.1" in drawn
