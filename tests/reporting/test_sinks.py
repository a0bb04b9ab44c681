import contextlib
import errno
import json
import logging
import math
import multiprocessing.synchronize
import os
import types

import jax
import pytest
from helpers.event_file_reader import read_events, read_scalars
from tensorboardX.proto import event_pb2

from mtan_jax.reporting.metrics_file import read_metrics
from mtan_jax.reporting.sinks import open_sinks


def run(workdir, first_step, last_step, *, total_steps=10, log_every=1, extra=()):
    with open_sinks(workdir, first_step, total_steps, extra) as writer:
        for step in range(first_step + 1, last_step + 1):
            if step % log_every == 0:
                losses = {"semantic/loss": 1 / step, "depth/loss": math.exp(-step), "weights/depth": 1.0}
                writer.write(step, step / 4, "train", {**losses, "steps_per_second": 3.0})
            if step % 4 == 0:
                writer.write(step, step / 4, "val", {"semantic/miou": math.sqrt(step)})
            writer.advance(step)


def refuse_constant(name):
    raise AssertionError(f"{name} is not JSON")


def test_numbers_read_back_exactly_and_what_is_not_finite_is_null(tmp_path):
    numbers = {"a/x": 0.1 + 0.2, "a/y": 1e-310, "a/z": math.pi * 1e20, "weights/a": 1.0}
    with open_sinks(tmp_path, 0, 3) as writer:
        writer.write(3, 0.75, "val", {**numbers, "a/nan": math.nan, "a/inf": -math.inf, "seconds": 2.5})
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
    with open_sinks(tmp_path, 0, 3) as writer:
        writer.write(1, 0.5, "train", {"a/loss": 2.0})
        assert read_metrics(tmp_path / "metrics.jsonl") == [{"step": 1, "epoch": 0.5, "split": "train", "a/loss": 2.0}]


def test_a_line_begins_with_step_epoch_and_split(tmp_path):
    run(tmp_path, 0, 4)
    first, *_, last = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert first == (
        '{"step": 1, "epoch": 0.25, "split": "train", "semantic/loss": 1.0, "depth/loss": 0.36787944117144233, '
        '"weights/depth": 1.0, "steps_per_second": 3.0}'
    )
    assert last == '{"step": 4, "epoch": 1.0, "split": "val", "semantic/miou": 2.0}'


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


def change_a_digit(lines):
    lines[1] = lines[1].replace(b"1.0", b"1.1", 1)


def lose_a_row(lines):
    del lines[2]


def lose_the_end(lines):
    del lines[3:]


def break_utf_8(lines):
    lines[1] = lines[1].replace(b"train", b"tra\xffn")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (change_a_digit, "line 2 is damaged \\(its checksum is wrong"),
        (lose_a_row, "line 3 is damaged \\(its checksum is wrong"),
        (lose_the_end, "line 4 is damaged \\(it is missing"),
        (break_utf_8, "line 2 is damaged \\(its checksum is wrong"),
    ],
)
def test_damaged_row_that_is_still_json_ends_the_run(tmp_path, damage, message):
    # Named after a fault: a run resumed with rows that were lost or had other numbers.
    run(tmp_path, 0, 7)
    path = tmp_path / "metrics.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    damage(lines)
    path.write_bytes(b"".join(lines))
    damaged = path.read_bytes()
    with pytest.raises(ValueError, match=rf"metrics\.jsonl, {message}"):
        run(tmp_path, 6, 7)
    assert path.read_bytes() == damaged


def test_damaged_rows_after_the_checkpoint_are_written_again(tmp_path):
    run(tmp_path / "straight", 0, 7)
    run(tmp_path / "damaged", 0, 7)
    path = tmp_path / "damaged" / "metrics.jsonl"
    content = path.read_bytes()
    path.write_bytes(content[:-60] + b"\xff" + content[-40:])
    run(tmp_path / "damaged", 4, 7)
    for name in ("metrics.jsonl", ".metrics.crc32"):
        assert (tmp_path / "damaged" / name).read_bytes() == (tmp_path / "straight" / name).read_bytes()


def test_rows_without_checksums_are_kept(tmp_path):
    # As older versions have written them, and as a kill leaves the last one.
    run(tmp_path, 0, 7)
    path, checksums = tmp_path / "metrics.jsonl", tmp_path / ".metrics.crc32"
    rows, sums = path.read_bytes(), checksums.read_bytes()
    for kept in (b"", sums[:-3]):
        checksums.write_bytes(kept)
        run(tmp_path, 7, 7)
        assert path.read_bytes() == rows
        assert checksums.read_bytes() == sums


@pytest.mark.parametrize("damage", [(b"2 ", b"9 "), (b"2 ", b"xx")])
def test_damaged_checksums_are_named(tmp_path, damage):
    run(tmp_path, 0, 3)
    checksums = tmp_path / ".metrics.crc32"
    checksums.write_bytes(checksums.read_bytes().replace(*damage, 1))
    with pytest.raises(ValueError, match=r"\.metrics\.crc32 is damaged; delete it"):
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


def test_tensorboard_leaves_out_numbers_that_are_not_finite(tmp_path):
    with open_sinks(tmp_path, 0, 3) as writer:
        writer.write(3, 0.75, "val", {"a/nan": math.nan, "a/inf": math.inf, "a/x": 2.0})
    assert read_scalars(tmp_path) == {("val/a/x", 3): 2.0}


def test_no_semaphores_are_needed(tmp_path, monkeypatch):
    # Named after a fault: a run ended with "[Errno 28] No space left on device" where /dev/shm had no room for them.
    def refuse(*arguments, **named):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(multiprocessing.synchronize.SemLock, "__init__", refuse)
    run(tmp_path, 0, 4)
    assert read_scalars(tmp_path)["val/semantic/miou", 4] == 2


class Recorder:
    """A user's sink; fails from one step on where told to."""

    def __init__(self, fails_at=None):
        self.rows, self.fails_at, self.calls, self.closed = [], fails_at, 0, 0

    def write(self, step, split, metrics):
        self.calls += 1
        if self.fails_at is not None and step >= self.fails_at:
            raise ConnectionError("no route to host")
        self.rows.append((step, split, dict(metrics)))
        metrics.clear()  # other sinks must not see this

    def close(self):
        self.closed += 1
        if self.fails_at is not None:
            raise ConnectionError("still no route")


def test_other_processes_write_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(jax, "process_index", lambda: 1)
    sink = Recorder()
    run(tmp_path / "run", 0, 10, extra=[sink])
    assert not (tmp_path / "run").exists()
    assert sink.calls == 0


def test_a_users_sink_receives_every_row_once(tmp_path):
    first, second = Recorder(), Recorder()
    run(tmp_path, 0, 10, extra=[first, second])
    lines = read_metrics(tmp_path / "metrics.jsonl")
    expected = [
        (line["step"], line["split"], {name: value for name, value in line.items() if name not in ("step", "split")})
        for line in lines
    ]
    assert first.rows == second.rows == expected
    assert len(expected) == 10 + 2
    assert first.closed == 1


def test_a_users_sink_receives_rows_from_the_resumed_step_on(tmp_path):
    run(tmp_path, 0, 7)
    sink = Recorder()
    run(tmp_path, 4, 10, extra=[sink])
    assert [row[:2] for row in sink.rows] == [
        *[(5, "train"), (6, "train"), (7, "train"), (8, "train"), (8, "val"), (9, "train"), (10, "train")]
    ]


def test_a_users_sink_that_fails_is_reported_once_and_dropped(tmp_path, caplog):
    broken, whole = Recorder(fails_at=3), Recorder()
    run(tmp_path, 0, 10, extra=[broken, whole])
    warnings = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert [record.getMessage() for record in warnings] == [
        "the sink Recorder failed at step 3 and receives no more metrics; training continues",
        "the sink Recorder failed to close",
    ]
    assert isinstance(warnings[0].exc_info[1], ConnectionError)
    assert broken.calls == 3
    assert broken.closed == 1
    assert len(whole.rows) == len(read_metrics(tmp_path / "metrics.jsonl")) == 12


def test_ctrl_c_in_a_users_sink_ends_the_run(tmp_path):
    class Interrupted:
        def write(self, step, split, metrics):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, 0, 1, extra=[Interrupted()])


def test_a_sink_needs_no_close(tmp_path):
    rows = []
    run(tmp_path, 0, 1, extra=[types.SimpleNamespace(write=lambda *row: rows.append(row))])
    assert len(rows) == 1


def test_an_error_of_the_run_closes_the_users_sinks(tmp_path):
    sink = Recorder()
    with contextlib.suppress(ZeroDivisionError), open_sinks(tmp_path, 0, 1, [sink]):
        raise ZeroDivisionError
    assert sink.closed == 1


def test_an_object_that_is_no_sink_is_refused(tmp_path):
    with (
        pytest.raises(TypeError, match=r"sink .*len.* has no method write\(step, split, metrics\)"),
        open_sinks(tmp_path / "run", 0, 1, [len]),
    ):
        pass
    assert not (tmp_path / "run").exists()
