import io
import logging

import pytest
from rich.console import Console
from rich.live import Live

from mtan_jax.commands.config_file import load_config
from mtan_jax.sweep import table
from mtan_jax.sweep.command import Command
from mtan_jax.sweep.run_state import Progress
from mtan_jax.sweep.scheduler import Entry


@pytest.fixture
def entries(tmp_path):
    def entry(name, state, progress=None, **fields):
        command = Command(name, tmp_path / name, (), load_config("streets:smoke"))
        return Entry(command, state, progress or Progress(), **fields)

    return [
        entry("seed=0", "complete", Progress(4, 1.0, {"semantic/miou": 0.41, "depth/abs_error": 0.02})),
        entry("seed=1", "running", Progress(2, 0.5, {"semantic/miou": 0.3}), seconds_left=3700.0),
        entry("seed=[2]", "failed", message="it does [not] fit"),
        entry("seed=3", "waiting"),
    ]


def render(entries, height=30):
    console = Console(file=io.StringIO(), width=140, height=height, force_terminal=True, color_system=None)
    with Live(console=console, auto_refresh=False) as live:
        table.LiveTable(live).update(entries)
    return console.file.getvalue()


def test_the_table_shows_state_step_time_left_and_metrics(entries):
    lines = [[cell.strip() for cell in line.split("│")[1:-1]] for line in render(entries).splitlines() if "│" in line]
    assert ["seed=0", "complete", "4", "100 %", "", "0.41", "0.02"] in lines
    assert ["seed=1", "running", "2", "50 %", "1:01:40", "0.3", ""] in lines
    assert ["seed=[2]", "failed: it does [not] fit", "", "", "", "", ""] in lines
    assert "4 runs: 1 complete, 1 failed, 1 running, 1 waiting" in render(entries)


def test_a_short_screen_shows_the_running_runs(entries):
    text = render(entries, height=7)
    assert "seed=1" in text
    assert "seed=3" not in text


def test_lines_report_changes_only(entries, caplog):
    caplog.set_level(logging.INFO)
    lines = table.Lines()
    lines.update(entries)
    assert caplog.messages == [
        "seed=1: running, step 2 (50 %), 1:01:40 left, semantic/miou 0.3",
        "seed=[2]: failed: it does [not] fit",
        "4 runs: 1 complete, 1 failed, 1 running, 1 waiting",
    ]
    caplog.clear()
    lines.update(entries)
    assert caplog.messages == []
    entries[1].state = "complete"
    lines.update(entries)
    assert caplog.messages == ["seed=1: complete, step 2 (50 %), 1:01:40 left, semantic/miou 0.3"]
