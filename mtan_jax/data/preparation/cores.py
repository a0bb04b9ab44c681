"""How many processor cores this process may use."""

import math
import os
from pathlib import Path

CGROUP = Path("/sys/fs/cgroup")  # where a container finds its own limits


def usable_cores() -> int:
    """The cores that this process may run on, and no more than its container's share of time (`docker run --cpus`)."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(math.ceil(min(cores, _quota(CGROUP))), 1)


def _quota(folder: Path) -> float:
    """The cores' worth of time that a control group allows, of either version; infinity where it sets no limit."""
    for read in (
        lambda: (folder / "cpu.max").read_text().split(),
        lambda: [(folder / "cpu" / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period")],
    ):
        try:
            quota, period = map(float, read())
        except (OSError, ValueError):  # not there, or "max"
            continue
        if quota > 0 and period > 0:  # -1 is no limit
            return quota / period
    return math.inf
