"""Fits worker processes into shared memory (`/dev/shm`), through which they send their batches.

A Docker container has 64 MB of it by default. A worker that runs out of it is killed by SIGBUS.
"""

import dataclasses
import logging
import os
import sys
import time
import weakref
from collections.abc import Iterable, Iterator, Mapping
from typing import cast

import numpy as np

from mtan_jax.types import Batch

log = logging.getLogger(__name__)

FOLDER = "/dev/shm"
_MAX_WAIT = 5.0  # seconds to wait for grain to free the memory of a batch
_PROCESS_BYTES = 50 * 4096  # measured: the semaphores of a worker, one page each
USABLE = 0.95  # fraction of the free memory to use; the rest is left to other programs


@dataclasses.dataclass(frozen=True)
class Workers:
    """The worker processes of a stream of batches.

    Attributes:
        count: number of worker processes; 0 for threads of this process.
        buffer: number of batches that each worker may prefetch.
    """

    count: int
    buffer: int = 2

    def bytes_needed(self, batch_bytes: int) -> int:
        """The peak use of shared memory.

        For each worker, grain holds a queue of `buffer` batches and one batch that waits to enter it, and the same
        number again in the main process. One more batch is being copied in the main process (`own_arrays`).
        """
        if self.count == 0:
            return 0
        return (self.count * (2 * self.buffer + 2) + 1) * batch_bytes + self.count * _PROCESS_BYTES


def fit(workers: int, batch_bytes: int, streams: int = 1) -> Workers:
    """Chooses the largest number of workers, at most `workers`, whose batches fit into shared memory.

    Logs a warning if it is smaller than `workers`.

    Args:
        workers: the requested number of processes.
        batch_bytes: size of a batch.
        streams: number of streams that are read concurrently, each with the same number of workers.
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
            "%s has %d MB free, but config.data.workers = %d needs %d MB: using %s. "
            "In a container, --shm-size=%dm provides enough.",
            *(FOLDER, free // 2**20, workers, _megabytes(needed), how, _megabytes(needed)),
        )
    return chosen


def own_arrays(batches: Iterable[Batch]) -> Iterator[Batch]:
    """Copies batches out of shared memory, and waits until a batch's memory is freed before it yields the next one.

    A worker's shared memory does not outlive the worker. grain frees it in another thread, which could fall several
    batches behind.
    """
    for batch in batches:
        blocks: list[weakref.ref] = []
        own = cast(Batch, _copied(batch, blocks))
        del batch
        yield own
        _wait_until_freed(blocks)


def _copied(values: Mapping[str, object], blocks: list[weakref.ref]) -> dict[str, object]:
    """Copies nested arrays, and adds weak references to their blocks of shared memory to `blocks`."""
    copies: dict[str, object] = {}
    for key, value in values.items():
        if isinstance(value, dict):
            copies[key] = _copied(value, blocks)
        elif type(value) is np.ndarray:
            copies[key] = value
        else:
            copies[key] = np.array(value)
            if (block := getattr(value, "shm", None)) is not None:
                blocks.append(weakref.ref(block))
    return copies


def _wait_until_freed(blocks: list[weakref.ref]) -> None:
    end = time.monotonic() + _MAX_WAIT
    while any(block() is not None for block in blocks) and time.monotonic() < end:
        time.sleep(0.0005)


def free_bytes() -> int | None:
    """The shared memory available to this user; None if the system has no separate limit."""
    if sys.platform != "linux":
        return None
    if not os.access(FOLDER, os.W_OK | os.X_OK):  # read-only or missing
        return 0
    stat = os.statvfs(FOLDER)
    return stat.f_bavail * stat.f_frsize


def _megabytes(size: float) -> int:
    return -int(-size // 2**20)
