"""Devices and processes: pmap, placement of arrays, start and end of processes.

Steps only know the name of an axis, so replacing pmap by `jax.shard_map` (with `check_vma=False`) would only change
this file.
"""

import collections
import contextlib
import functools
import itertools
import logging
import os
import sys
import traceback
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeVar

import jax
import numpy as np
from jax import lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jax.stages import Wrapped
from jaxtyping import Array, Int32

from mtan_jax.runtime import interrupts

AXIS = "devices"

Tree = TypeVar("Tree")


def start_processes(coordinator: str | None, num_processes: int | None, process_id: int | None) -> None:
    """Connects the processes of a run.

    Args:
        coordinator: address and port of process 0, or "auto" on a Cloud TPU pod or another cluster that JAX detects;
            None for a run of one process.
        num_processes: number of processes; not needed with "auto".
        process_id: index of this process; not needed with "auto".

    Raises:
        ValueError: `num_processes` or `process_id` is missing.
    """
    if coordinator is None:
        return
    if coordinator == "auto":
        jax.distributed.initialize()
    elif num_processes is None or process_id is None:
        raise ValueError(
            f"--coordinator={coordinator} needs --num_processes and --process_id; or use --coordinator=auto"
        )
    else:
        jax.distributed.initialize(coordinator, num_processes, process_id)
    interrupts.share_with_jax()
    wait_for_all("start")
    if jax.process_index() > 0:
        logging.getLogger("mtan_jax").setLevel(logging.WARNING)  # process 0 reports the progress


@contextlib.contextmanager
def ending_together() -> Iterator[None]:
    """Ends all processes of a run together, whether they succeed or one of them fails.

    Otherwise processes would wait five minutes for one that has failed.
    """
    try:
        yield
        wait_for_all("end")
    except (Exception, SystemExit) as error:
        if not jax.distributed.is_initialized():
            raise
        if isinstance(error, interrupts.Stopped):
            if error.together:
                jax.distributed.shutdown()  # waits until all processes have stopped
            interrupts.end(str(error.code))
        if isinstance(error, SystemExit):
            sys.stderr.write(f"{error.code}\n")
        else:
            traceback.print_exc()
        sys.stderr.flush()
        os._exit(1)  # breaks the connection, which ends the other processes


def check_batch_size(
    batch_size: int, field: str, accumulate: int = 1, groups: int = 1, devices: int | None = None
) -> None:
    """Raises a ValueError if a batch cannot be divided evenly among devices, accumulation parts and tasks.

    Args:
        batch_size: batch size of all devices together.
        field: name of the field, for the message.
        accumulate: number of sequential parts per device.
        groups: number of tasks per batch.
        devices: number of devices; None for all.
    """
    devices = jax.device_count() if devices is None else devices
    parts = devices * accumulate * groups
    if batch_size % parts or batch_size < 1:
        nearest = max(round(batch_size / parts), 1) * parts
        raise ValueError(
            f"{field}={batch_size} is not divisible by {devices} devices"
            + (f" x {accumulate} accumulation parts" if accumulate > 1 else "")
            + (f" x {groups} tasks per step" if groups > 1 else "")
            + f"; use a multiple of {parts}, such as {nearest}"
        )


def round_up(batch_size: int) -> int:
    """Rounds a batch size of all devices together up to a multiple of their number."""
    devices = jax.device_count()
    return -(-batch_size // devices) * devices


def map_train_step(step: Callable, devices: Sequence[jax.Device] | None = None) -> Wrapped:
    """Maps `(state, batch) -> state` over placed batches on all or the given devices. Donates the state."""
    return jax.pmap(step, axis_name=AXIS, in_axes=(None, 0), out_axes=None, donate_argnums=0, devices=devices)


def map_eval_step(step: Callable) -> Wrapped:
    """Maps `(variables, batch) -> states` over placed batches. The step must reduce its results over devices."""
    return jax.pmap(step, axis_name=AXIS, in_axes=(None, 0), out_axes=None)


def map_predict_step(step: Callable) -> Wrapped:
    """Maps `(variables, batch) -> predictions` over placed batches; results have a leading axis of local devices."""
    return jax.pmap(step, axis_name=AXIS, in_axes=(None, 0), out_axes=0)


def place_state(state: Tree) -> Tree:
    """Replicates a state on the devices of this process."""
    return jax.device_put(state, _sharding(PartitionSpec()))


def place_batch(batch: Tree) -> Tree:
    """Splits the rows of this process' batch over its devices: [b, ...] becomes [devices, b/devices, ...]."""
    devices = jax.local_device_count()
    split = jax.tree.map(lambda x: np.reshape(x, (devices, x.shape[0] // devices, *x.shape[1:])), batch)
    return jax.device_put(split, _sharding(PartitionSpec(AXIS)))


def fill_rows(batch: Tree) -> Tree:
    """Repeats the last row until the rows can be split evenly over the devices of this process."""
    devices = jax.local_device_count()
    return jax.tree.map(lambda x: np.pad(x, [(0, -len(x) % devices)] + [(0, 0)] * (x.ndim - 1), mode="edge"), batch)


def place_ahead(batches: Iterable[Tree], size: int = 2) -> Iterator[Tree]:
    """Places batches on the devices, `size` batches ahead of their use."""
    batches = iter(batches)
    queue = collections.deque(map(place_batch, itertools.islice(batches, size)))
    while queue:
        yield queue.popleft()
        queue.extend(map(place_batch, itertools.islice(batches, 1)))


def _sharding(spec: PartitionSpec) -> NamedSharding:
    return NamedSharding(Mesh(np.array(jax.local_devices()), (AXIS,)), spec)


def wait_for_all(place: str) -> None:
    """Waits until all processes have reached the same named place."""
    if not agree(zlib.crc32(place.encode()) >> 1):
        raise RuntimeError(f"this process has reached {place!r}, but another one has not")


def agree(number: int) -> bool:
    """Whether all processes pass the same number. Waits for all of them."""
    if jax.process_count() == 1:
        return True
    # Use the devices of training, since on CPUs the first connection of others times out after 30 seconds.
    lowest, highest = _extremes()(np.full(jax.local_device_count(), number, np.int32))
    return bool(lowest == highest)


def any_process(flag: bool) -> bool:
    """Whether a process passes True. Waits for all of them."""
    if jax.process_count() == 1:
        return flag
    return bool(_extremes()(np.full(jax.local_device_count(), flag, np.int32))[1])


def gather_texts(text: str) -> list[str]:
    """The texts that all processes pass, in the order of the processes. Waits for all of them."""
    if jax.process_count() == 1:
        return [text]
    data = np.frombuffer(text.encode(), np.uint8)
    length = int(_extremes()(np.full(jax.local_device_count(), len(data), np.int32))[1])
    rows = np.zeros((jax.local_device_count(), jax.process_count(), -(-length // 64) * 64), np.int32)  # few shapes
    rows[0, jax.process_index(), : len(data)] = data
    return [bytes(row[row > 0].astype(np.uint8)).decode() for row in np.asarray(_total()(rows))]


@functools.cache
def _total() -> Callable[[np.ndarray], Int32[Array, "p n"]]:
    return jax.pmap(lambda x: lax.psum(x, AXIS), axis_name=AXIS, out_axes=None)


@functools.cache
def _extremes() -> Callable[[np.ndarray], tuple[Int32[Array, ""], Int32[Array, ""]]]:
    return jax.pmap(lambda x: (lax.pmin(x, AXIS), lax.pmax(x, AXIS)), axis_name=AXIS, out_axes=None)
