"""Shows the runs of a sweep: a live table in terminals and notebooks, lines elsewhere."""

import contextlib
import logging
import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from tqdm import tqdm

from mtan_jax.sweep.scheduler import Display, Entry

if TYPE_CHECKING:
    from rich.live import Live
    from rich.table import Table

log = logging.getLogger(__name__)

SECONDS_BETWEEN_LINES = 60.0  # about the runs that are running
COLOURS = {"complete": "green", "failed": "red", "running": "cyan", "running elsewhere": "cyan"}


@contextlib.contextmanager
def open_display() -> Iterator[Display]:
    """The display that fits the terminal."""
    from rich.console import Console
    from rich.live import Live

    console = Console()
    if not (console.is_terminal or console.is_jupyter):
        yield Lines()
        return
    with Live(console=console, auto_refresh=False, vertical_overflow="ellipsis") as live:
        yield LiveTable(live)


class LiveTable:
    """Redraws a table of all runs. If the screen is too short, complete and waiting runs are left out first."""

    def __init__(self, live: "Live"):
        self._live = live

    def update(self, entries: Sequence[Entry]) -> None:
        """Redraws the table."""
        height = self._live.console.height - 6  # title, heading, caption and borders
        self._live.update(make_table(_most_interesting(entries, height), count_states(entries)), refresh=True)


class Lines:
    """Logs each change of a state, and the progress of running runs from time to time."""

    def __init__(self) -> None:
        self._states: dict[str, str] = {}
        self._written = time.monotonic()

    def update(self, entries: Sequence[Entry]) -> None:
        """Logs what has changed."""
        first = not self._states
        for entry in entries:
            name, state = entry.command.name, entry.state
            if self._states.get(name, "waiting") != state and not (first and state == "complete"):
                log.info("%s: %s%s", name, state, _details(entry))
            self._states[name] = state
        if first:
            log.info("%s", count_states(entries))
        elif time.monotonic() > self._written + SECONDS_BETWEEN_LINES:
            self._written = time.monotonic()
            for entry in entries:
                if entry.state == "running":
                    log.info("%s: running%s", entry.command.name, _details(entry))
            log.info("%s", count_states(entries))


def make_table(entries: Sequence[Entry], caption: str) -> "Table":
    """Makes the table: a row per run with its state, step, time left and latest metrics."""
    from rich.markup import escape
    from rich.table import Table

    names = list(dict.fromkeys(name for entry in entries for name in entry.progress.metrics))
    table = Table(caption=caption)
    table.add_column("run", overflow="fold")
    table.add_column("state")
    for heading in ("step", "done", "left", *names):
        table.add_column(heading, justify="right", no_wrap=True)
    for entry in entries:
        colour = COLOURS.get(entry.state)
        state = f"[{colour}]{entry.state}[/]" if colour else entry.state
        metrics = (entry.progress.metrics.get(name) for name in names)
        table.add_row(
            escape(entry.command.name),
            f"{state}: {escape(entry.message)}" if entry.message else state,
            str(entry.progress.step) if entry.progress.step else "",
            f"{100 * entry.progress.fraction:.0f} %" if entry.progress.step else "",
            "" if entry.seconds_left is None else tqdm.format_interval(entry.seconds_left),
            *("" if value is None else f"{value:.4g}" for value in metrics),
        )
    return table


def count_states(entries: Sequence[Entry]) -> str:
    """Such as "12 runs: 3 complete, 2 running, 7 waiting"."""
    states = [entry.state for entry in entries]
    order = ("complete", "failed", "stopped", "running", "running elsewhere", "waiting")
    counts = ", ".join(f"{states.count(state)} {state}" for state in order if state in states)
    return f"{len(entries)} run{'s' if len(entries) > 1 else ''}: {counts}"


def _most_interesting(entries: Sequence[Entry], count: int) -> list[Entry]:
    """As many of the entries as fit on the screen, in their order."""
    ranks = {"running": 0, "failed": 1, "stopped": 2, "running elsewhere": 3, "complete": 4, "waiting": 5}
    shown = set(sorted(range(len(entries)), key=lambda i: ranks[entries[i].state])[: max(count, 1)])
    return [entry for i, entry in enumerate(entries) if i in shown]


def _details(entry: Entry) -> str:
    if entry.message:
        return f": {entry.message}"
    parts = []
    if entry.progress.step:
        parts.append(f"step {entry.progress.step} ({100 * entry.progress.fraction:.0f} %)")
    if entry.seconds_left is not None:
        parts.append(f"{tqdm.format_interval(entry.seconds_left)} left")
    parts += [f"{name} {value:.4g}" for name, value in entry.progress.metrics.items()]
    return f", {', '.join(parts)}" if parts else ""
