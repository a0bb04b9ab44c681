"""Fits worker processes into shared memory (`/dev/shm`), through which they hand over their batches.

Docker gives a container 64 MB of it. A worker that writes more than there is dies of SIGBUS.
"""

import dataclasses
import logging
import os
import sys
import time
import weakref
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

Batch = dict[str, Any]

log = logging.getLogger(__name__)

FOLDER = "/dev/shm"
_LONGEST_WAIT = 5.0  # seconds until memory that somebody else holds is given up
_PROCESS_BYTES = 50 * 4096  # of a worker's semaphores, each a page, as measured
USABLE = 0.95  # of what is free; the rest is for other programs


@dataclasses.dataclass(frozen=True)
class Workers:
    """How a stream of batches is read.

    Attributes:
        count: number of worker processes; 0 for threads of this process.
        buffer: batches that each worker may be ahead.
    """

    count: int
    buffer: int = 2

    def bytes_needed(self, batch_bytes: int) -> int:
        """The most that is in shared memory at a time.

        grain keeps, for each worker, a queue of `buffer` batches and one that waits for room in it, and the same
        again in the main process. One batch more is being copied there (`own_arrays`).
        """
        if self.count == 0:
            return 0
        return (self.count * (2 * self.buffer + 2) + 1) * batch_bytes + self.count * _PROCESS_BYTES


def fit(workers: int, batch_bytes: int, streams: int = 1) -> Workers:
    """Chooses the most workers, up to those asked for, whose batches fit; logs one line where these are fewer.

    Args:
        workers: processes asked for.
        batch_bytes: size of a batch.
        streams: number of streams with as many workers each that are read at the same time.
    """
    wanted, free = Workers(workers), free_bytes()
    if workers == 0 or free is None:
        return wanted
    choices = [wanted, *(Workers(count, buffer=1) for count in range(workers, 0, -1)), Workers(0)]
    chosen = next(choice for choice in choices if streams * choice.bytes_needed(batch_bytes) <= USABLE * free)
    if chosen != wanted:
        needed = streams * wanted.bytes_needed(batch_bytes) / USABLE
        how = f"{chosen.count} with shorter queues" if chosen.count else "threads of this process instead"
        log.warning(
            "%s has %d MB free, and config.data.workers = %d needs %d MB: using %s. "
            "In a container, --shm-size=%dm makes room for all.",
            *(FOLDER, free // 2**20, workers, _megabytes(needed), how, _megabytes(needed)),
        )
    return chosen


def own_arrays(batches: Iterable[Batch]) -> Iterator[Batch]:
    """Copies batches out of shared memory, which goes with the worker; the next one is asked for when it is free again.

    grain frees it in another thread, which can fall several batches behind.
    """
    for batch in batches:
        blocks: list[weakref.ref] = []
        own = _copied(batch, blocks)
        del batch
        yield own
        _wait_for_end_of(blocks)


def _copied(batch: Batch, blocks: list[weakref.ref]) -> Batch:
    own: Batch = {}
    for key, value in batch.items():
        if isinstance(value, dict):
            own[key] = _copied(value, blocks)
        elif type(value) is np.ndarray:
            own[key] = value
        else:
            own[key] = np.array(value)
            if (block := getattr(value, "shm", None)) is not None:
                blocks.append(weakref.ref(block))
    return own


def _wait_for_end_of(blocks: list[weakref.ref]) -> None:
    end = time.monotonic() + _LONGEST_WAIT
    while any(block() is not None for block in blocks) and time.monotonic() < end:
        time.sleep(0.0005)


def free_bytes() -> int | None:
    """Shared memory that this user can take; None where the system sets no limit of its own."""
    if sys.platform != "linux":
        return None
    if not os.access(FOLDER, os.W_OK | os.X_OK):  # read-only, or not there
        return 0
    stat = os.statvfs(FOLDER)
    return stat.f_bavail * stat.f_frsize


def _megabytes(size: float) -> int:
    return -int(-size // 2**20)
