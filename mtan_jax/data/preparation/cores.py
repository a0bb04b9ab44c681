"""The number of CPU cores that this process may use."""

import math
import os
from pathlib import Path

CGROUP = Path("/sys/fs/cgroup")  # where a container's limits are mounted


def usable_cores() -> int:
    """The number of cores in the CPU affinity mask, capped by the container's CPU quota (`docker run --cpus`)."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(math.ceil(min(cores, _quota(CGROUP))), 1)


def _quota(folder: Path) -> float:
    """The CPU quota of a cgroup (v1 or v2) in cores; infinity without a limit."""
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
