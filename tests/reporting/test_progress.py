import io
import logging
import sys
import types

import pytest

from mtan_jax.reporting import progress
from mtan_jax.reporting.progress import COMPILING, Progress


@pytest.fixture
def clock(monkeypatch):
    """A clock that stands still until it is moved on."""
    clock = types.SimpleNamespace(now=1000.0)
    monkeypatch.setattr(progress, "time", types.SimpleNamespace(monotonic=lambda: clock.now))
    return clock


@pytest.fixture
def messages(caplog):
    caplog.set_level(logging.INFO)
    return lambda: [record.getMessage() for record in caplog.records]


def use_terminal(monkeypatch):
    # Not a fixture: pytest sets its own sys.stderr after the fixtures have run.
    terminal = io.StringIO()
    terminal.isatty = lambda: True
    monkeypatch.setattr(sys, "stderr", terminal)
    return terminal


def run(first_step, last_step, total_steps, log_every=1):
    shown = Progress(first_step, total_steps)
    for step in range(first_step + 1, last_step + 1):
        if step % log_every == 0:
            shown.write(step, "train", {"epoch": step / 4, "semantic/loss": 1 / step, "steps_per_second": 3.0})
        if step % 4 == 0:
            shown.write(step, "val", {"epoch": step / 4, "semantic/miou": step**0.5})
        shown.advance(step)
    shown.close()


def test_without_a_terminal_a_long_run_logs_few_lines(messages, capsys):
    run(0, 3999, total_steps=4000, log_every=100)
    lines = [message for message in messages() if "val" not in message]
    assert lines == [COMPILING]  # less than SECONDS_BETWEEN_LINES and not at the end
    assert "step 16, val: semantic/miou 4" in messages()
    assert sum("val: semantic/miou" in message for message in messages()) == 999
    assert capsys.readouterr().err == ""


def test_plain_lines_show_losses_rate_and_time_left(clock, messages):
    shown = Progress(10, 110)
    clock.now += 300  # compilation
    for step in range(11, 16):
        shown.write(step, "train", {"epoch": 1.0, "semantic/loss": 1 / step, "weights/depth": 1.0})
        shown.advance(step)
        clock.now += 20
    # The first step is done at 0 s; a line at 40 s and at 80 s.
    assert messages() == [
        COMPILING,
        "step 13/110, semantic/loss 0.07692, 0.05 steps/s, 32:20 left",
        "step 15/110, semantic/loss 0.06667, 0.05 steps/s, 31:40 left",
    ]


def test_the_first_steps_time_does_not_count(clock, messages):
    # Named after a fault: the first line of a run said "49:22:48 left", because the compilation counted.
    shown = Progress(0, 1000)
    clock.now += 177
    shown.advance(1)
    clock.now += 31
    shown.advance(32)
    assert messages()[-1] == "step 32/1000, 1 steps/s, 16:08 left"


@pytest.mark.parametrize(("first_step", "total_steps"), [(0, 1), (9, 10)])
def test_a_run_of_one_step_has_no_rate(first_step, total_steps, clock, messages):
    shown = Progress(first_step, total_steps)
    shown.advance(total_steps)
    assert messages() == [COMPILING, f"step {total_steps}/{total_steps}"]


def test_a_complete_run_compiles_nothing(messages):
    Progress(10, 10).close()
    assert messages() == []


def test_on_a_terminal_a_bar_shows_steps_and_losses(monkeypatch, messages):
    terminal = use_terminal(monkeypatch)
    run(2, 10, total_steps=10)
    drawn = terminal.getvalue()
    assert messages()[0] == COMPILING
    assert "\r" in drawn
    assert "10/10" in drawn
    assert "semantic/loss 0.1" in drawn


def test_the_bar_appears_after_the_first_step(monkeypatch):
    terminal = use_terminal(monkeypatch)
    shown = Progress(0, 10)
    assert terminal.getvalue() == ""
    shown.write(1, "train", {"epoch": 0.1, "a/loss": 2.5})
    shown.advance(1)
    assert "1/10" in terminal.getvalue()
    assert "a/loss 2.5" in terminal.getvalue()
    shown.close()


def test_a_notebook_shows_a_bar(monkeypatch):
    output = io.StringIO()
    monkeypatch.setattr(sys, "stderr", output)
    shell = types.SimpleNamespace(config={"IPKernelApp": {}})
    monkeypatch.setitem(sys.modules, "IPython", types.SimpleNamespace(get_ipython=lambda: shell))
    shown = Progress(0, 10)
    shown.advance(1)
    shown.advance(10)
    shown.close()
    assert "10/10" in output.getvalue()
