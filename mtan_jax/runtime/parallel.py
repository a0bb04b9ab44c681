"""Everything that knows of devices and processes: pmap, placing batches, starting processes.

The steps know an axis name only, so a move from pmap to `jax.shard_map` (with `check_vma=False`) is a change of this
file.
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
from typing import Any

import jax
import numpy as np
from jax import lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

AXIS = "devices"


def start_processes(coordinator: str | None, num_processes: int | None, process_id: int | None) -> None:
    """Joins the processes of a run into one.

    Args:
        coordinator: address and port of process 0, or "auto" on a Cloud TPU pod or another cluster that JAX knows;
            None for a run of one process.
        num_processes: how many there are; found by itself with "auto".
        process_id: which this is; found by itself with "auto".

    Raises:
        ValueError: an address without a number of processes and the number of this one.
    """
    if coordinator is None:
        return
    if coordinator == "auto":
        jax.distributed.initialize()
    elif num_processes is None or process_id is None:
        raise ValueError(
            f"--coordinator={coordinator} needs --num_processes and --process_id too, or --coordinator=auto"
        )
    else:
        jax.distributed.initialize(coordinator, num_processes, process_id)
    wait_for_all("start")
    if jax.process_index() > 0:
        logging.getLogger("mtan_jax").setLevel(logging.WARNING)  # process 0 tells how the run goes


@contextlib.contextmanager
def ending_together() -> Iterator[None]:
    """Ends all processes of a run together: none before the others are done, none long after another has failed.

    Left to themselves, processes that wait for one that has failed do so for five minutes.
    """
    try:
        yield
        wait_for_all("end")
    except (Exception, SystemExit) as error:
        if not jax.distributed.is_initialized():
            raise
        if isinstance(error, SystemExit):
            sys.stderr.write(f"{error.code}\n")
        else:
            traceback.print_exc()
        sys.stderr.flush()
        os._exit(1)  # the connection breaks, which ends the others


def check_batch_size(
    batch_size: int, field: str, accumulate: int = 1, groups: int = 1, devices: int | None = None
) -> None:
    """Raises a ValueError unless every device gets as many rows as others, in `accumulate` parts of `groups` tasks.

    `devices` is their number; None: those that there are.
    """
    devices = jax.device_count() if devices is None else devices
    parts = devices * accumulate * groups
    if batch_size % parts or batch_size < 1:
        nearest = max(round(batch_size / parts), 1) * parts
        raise ValueError(
            f"{field} = {batch_size} cannot be divided among {devices} devices"
            + (f" and {accumulate} parts of accumulation" if accumulate > 1 else "")
            + (f" and {groups} tasks a step" if groups > 1 else "")
            + f"; {nearest} would do"
        )


def map_train_step(step: Callable, devices: Sequence[Any] | None = None) -> Callable:
    """`(state, placed batch) -> state` on all devices, or on those given; the state given is consumed."""
    return jax.pmap(step, axis_name=AXIS, in_axes=(None, 0), out_axes=None, donate_argnums=0, devices=devices)


def map_eval_step(step: Callable) -> Callable:
    """`(variables, placed batch) -> states` on all devices; the step must have reduced what it returns."""
    return jax.pmap(step, axis_name=AXIS, in_axes=(None, 0), out_axes=None)


def map_predict_step(step: Callable) -> Callable:
    """`(variables, placed images) -> predictions` of this process' devices, with a leading axis of devices."""
    return jax.pmap(step, axis_name=AXIS, in_axes=(None, 0), out_axes=0)


def place_state(state: Any) -> Any:
    """Puts the same state on every device of this process."""
    return jax.device_put(state, _sharding(PartitionSpec()))


def place_batch(batch: Any) -> Any:
    """Splits the rows of this process' part of a batch over its devices: [b, ...] becomes [devices, b/devices, ...]."""
    devices = jax.local_device_count()
    split = jax.tree.map(lambda x: np.reshape(x, (devices, x.shape[0] // devices, *x.shape[1:])), batch)
    return jax.device_put(split, _sharding(PartitionSpec(AXIS)))


def fill_rows(batch: Any) -> Any:
    """Repeats the last row until every device of this process gets as many as the others."""
    devices = jax.local_device_count()
    return jax.tree.map(lambda x: np.pad(x, [(0, -len(x) % devices)] + [(0, 0)] * (x.ndim - 1), mode="edge"), batch)


def place_ahead(batches: Iterable[Any], size: int = 2) -> Iterator[Any]:
    """Places batches on the devices, `size` of them ahead of their use."""
    batches = iter(batches)
    queue = collections.deque(map(place_batch, itertools.islice(batches, size)))
    while queue:
        yield queue.popleft()
        queue.extend(map(place_batch, itertools.islice(batches, 1)))


def _sharding(spec: PartitionSpec) -> NamedSharding:
    return NamedSharding(Mesh(np.array(jax.local_devices()), (AXIS,)), spec)


def wait_for_all(place: str) -> None:
    """Returns once every process has come to this place."""
    if not agree(zlib.crc32(place.encode()) >> 1):
        raise RuntimeError(f"this process is at {place!r}, another one elsewhere")


def agree(number: int) -> bool:
    """Whether every process gives the same number; waits for them all."""
    if jax.process_count() == 1:
        return True
    # Over the devices that training uses: on CPUs a first meeting of others gives up after 30 seconds.
    lowest, highest = _extremes()(np.full(jax.local_device_count(), number, np.int32))
    return bool(lowest == highest)


@functools.cache
def _extremes() -> Callable:
    return jax.pmap(lambda x: (lax.pmin(x, AXIS), lax.pmax(x, AXIS)), axis_name=AXIS, out_axes=None)
