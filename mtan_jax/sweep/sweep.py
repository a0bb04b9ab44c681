"""Runs a sweep."""

import logging
import os
from collections.abc import Sequence

from mtan_jax.runtime import paths
from mtan_jax.sweep.command import make_commands
from mtan_jax.sweep.grid import SweepRun, name_runs
from mtan_jax.sweep.scheduler import Entry, Scheduler
from mtan_jax.sweep.slots import find_slots
from mtan_jax.sweep.table import count_states, open_display

log = logging.getLogger(__name__)


def run_sweep(
    runs: Sequence[SweepRun],
    workdir: str | os.PathLike[str],
    *,
    jobs: int | None = None,
    flags: Sequence[str] = (),
) -> list[Entry]:
    """Trains all runs of a sweep, each in a process of its own and in a folder of its own.

    Complete runs are not started again, and others continue from their last checkpoint, so calling this again
    completes a sweep that was interrupted. A run that fails stops nothing.

    Args:
        runs: such as `product("streets", {"weighting": ["equal", "dwa"], "seed": [0, 1, 2]})`.
        workdir: folder of the sweep. Each run gets a working directory in it, named after the fields that differ.
        jobs: number of processes at a time. None: one per GPU or TPU chip, or one on CPUs.
        flags: of all runs, such as ["--config.data.raw_dir=DIR"].

    Returns:
        The runs, in the given order, with their state ("complete" or "failed"), metrics, and message if they failed.

    Raises:
        GridError: the runs cannot be named, or a run has no valid configuration; nothing was started.
        SlotsError: there are fewer GPUs or TPU chips than `jobs`.
        PathError: the folder is remote or cannot be written.
    """
    folder = paths.local(os.fspath(workdir), "--workdir")
    if jobs is not None and jobs < 1:
        raise ValueError(f"jobs={jobs}: expected at least 1")
    scheduler = Scheduler(make_commands(name_runs(runs), folder, flags))
    if scheduler.has_work:
        paths.check_folder(folder, "--workdir", write=True)
        slots = find_slots(jobs)
        with open_display() as display:
            scheduler.run(slots, display)
    log.info("%s in %s", count_states(scheduler.entries), folder)
    for entry in scheduler.entries:
        if entry.state == "failed":
            log.error("%s: %s", entry.command.name, entry.message)
    return scheduler.entries
