"""Devices and processes: mapping of steps, placement of arrays, start and end of processes.

Steps only know the name of an axis. A run of one process maps them with `jax.pmap`. In a run of several processes, pmap
would convert each array of the state between a global and a local one at every call, so steps are mapped with
`jax.shard_map` over global arrays; `use` selects either. Results agree up to rounding.
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
from jaxtyping import Array, Int32, Num

from mtan_jax.runtime import activity, interrupts, liveness
from mtan_jax.types import ArrayLike

AXIS = "devices"

METHODS = ("auto", "pmap", "shard_map")

# Processes disconnect when they end, after `liveness` has stopped watching. If one is killed at this point, the others
# wait for it this long: longer than `interrupts.PATIENCE`, during which process 0 may be saving.
SECONDS_TO_DISCONNECT = 30

Tree = TypeVar("Tree")

_method = "auto"


class ConnectionFailedError(RuntimeError):
    """The processes of a run could not be connected."""


def use(method: str) -> None:
    """Selects how steps are mapped over devices. Affects the steps mapped and the arrays placed after this call.

    Args:
        method: "pmap", "shard_map", or "auto": pmap in a run of one process, else shard_map.

    Raises:
        ValueError: the method is unknown.
    """
    global _method
    if method not in METHODS:
        raise ValueError(f"method {method!r} is unknown; known: {', '.join(METHODS)}")
    _method = method


def _is_global() -> bool:
    """Whether steps are mapped with shard_map over global arrays."""
    return jax.process_count() > 1 if _method == "auto" else _method == "shard_map"


def start_processes(coordinator: str | None, num_processes: int | None, process_id: int | None) -> None:
    """Connects the processes of a run.

    Args:
        coordinator: address and port of process 0, or "auto" on a Cloud TPU pod or another cluster that JAX detects;
            None for a run of one process.
        num_processes: number of processes; not needed with "auto".
        process_id: index of this process; not needed with "auto".

    Raises:
        ValueError: `num_processes` or `process_id` is missing.
        ConnectionFailedError: a process did not connect in time.
    """
    if coordinator is None:
        return
    if coordinator != "auto" and (num_processes is None or process_id is None):
        raise ValueError(
            f"--coordinator={coordinator} needs --num_processes and --process_id; or use --coordinator=auto"
        )
    place = "the coordinator" if coordinator == "auto" else coordinator
    try:
        with activity.doing(f"waiting until all processes have connected to {place}", "wait"):
            if coordinator == "auto":
                jax.distributed.initialize(shutdown_timeout_seconds=SECONDS_TO_DISCONNECT)
            else:
                jax.distributed.initialize(
                    coordinator, num_processes, process_id, shutdown_timeout_seconds=SECONDS_TO_DISCONNECT
                )
    except jax.errors.JaxRuntimeError as error:
        raise ConnectionFailedError(
            f"the processes have not all connected to {place} ({str(error).splitlines()[0]}). Start all of them within "
            "five minutes, with the same --coordinator and --num_processes"
        ) from error
    interrupts.share_with_jax(_announce_stop)
    liveness.start()
    wait_for_all("start")
    if jax.process_index() > 0:
        logging.getLogger("mtan_jax").setLevel(logging.WARNING)  # process 0 reports the progress


def _announce_stop() -> None:
    liveness.announce(f"was stopped; {interrupts.CONTINUES}", 128 + interrupts.received())


@contextlib.contextmanager
def ending_together() -> Iterator[None]:
    """Ends all processes of a run together, whether they succeed, one of them fails, or a signal stops them.

    Raises:
        Stopped: a signal raised KeyboardInterrupt in a run of one process.
    """
    try:
        yield
        with interrupts.raised():
            wait_for_all("end")
        liveness.stop()
    except KeyboardInterrupt:
        message = f"stopped; {interrupts.CONTINUES}"
        if not jax.distributed.is_initialized():
            raise interrupts.Stopped(message) from None
        _announce_stop()
        interrupts.end(message)
    except (Exception, SystemExit) as error:
        if not jax.distributed.is_initialized():
            raise
        if isinstance(error, interrupts.Stopped):
            if error.together:
                liveness.stop()
                jax.distributed.shutdown()  # waits until all processes have stopped
            else:
                _announce_stop()
            interrupts.end(str(error.code))
        liveness.wait_if_others_caused(error)
        if isinstance(error, SystemExit):
            message = str(error.code)
            sys.stderr.write(f"{message}\n")
        else:
            message = f"{type(error).__name__}: {error}"
            traceback.print_exc()
        sys.stderr.flush()
        doing = activity.current().text
        liveness.announce(f"has failed while {doing}: {message.removeprefix('error: ')}", 1)
        os._exit(1)


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
    """Maps `(state, batch) -> state` over placed batches on all or the given devices. Donates the state.

    For given devices, which need not be present, the step is mapped with pmap.
    """
    if _is_global() and devices is None:
        return _shard(step, PartitionSpec(), donate=(0,))
    return jax.pmap(step, axis_name=AXIS, in_axes=(None, 0), out_axes=None, donate_argnums=0, devices=devices)


def map_eval_step(step: Callable) -> Wrapped:
    """Maps `(variables, batch) -> states` over placed batches. The step must reduce its results over devices."""
    if _is_global():
        return _shard(step, PartitionSpec())
    return jax.pmap(step, axis_name=AXIS, in_axes=(None, 0), out_axes=None)


def map_predict_step(step: Callable) -> Callable:
    """Maps `(variables, batch) -> predictions` over placed batches; results have a leading axis of local devices."""
    if _is_global():
        predict = _shard(step, PartitionSpec(AXIS))
        return lambda variables, batch: jax.tree.map(_local_shards, predict(variables, batch))
    return jax.pmap(step, axis_name=AXIS, in_axes=(None, 0), out_axes=0)


def _shard(step: Callable, out_spec: PartitionSpec, donate: tuple[int, ...] = ()) -> Wrapped:
    in_specs = (PartitionSpec(), PartitionSpec(AXIS))
    mapped = jax.shard_map(step, mesh=_mesh(), in_specs=in_specs, out_specs=out_spec, check_vma=False)
    return jax.jit(mapped, donate_argnums=donate)


def _local_shards(array: Array) -> Num[np.ndarray, "devices b ..."]:
    """The shards of this process, in the order of the devices."""
    shards = sorted(array.addressable_shards, key=lambda shard: shard.index[0].start or 0)
    return np.stack([np.asarray(shard.data) for shard in shards])


def place_state(state: Tree) -> Tree:
    """Replicates a state on the devices: on those of this process for pmap, on all devices for shard_map."""
    if not _is_global():
        return jax.device_put(state, _local(PartitionSpec()))
    everywhere = NamedSharding(_mesh(), PartitionSpec())

    def place(leaf: ArrayLike) -> Array:
        array = np.asarray(leaf)
        return jax.make_array_from_callback(array.shape, everywhere, lambda index: array[index])

    return jax.tree.map(place, state)


def place_batch(batch: Tree) -> Tree:
    """Splits the rows of this process' batch over its devices.

    For pmap, [b, ...] becomes [devices, b/devices, ...]. For shard_map, it becomes a part of a global array.
    """
    if _is_global():
        by_rows = NamedSharding(_mesh(), PartitionSpec(AXIS))
        return jax.tree.map(functools.partial(jax.make_array_from_process_local_data, by_rows), batch)
    devices = jax.local_device_count()
    split = jax.tree.map(lambda x: np.reshape(x, (devices, x.shape[0] // devices, *x.shape[1:])), batch)
    return jax.device_put(split, _local(PartitionSpec(AXIS)))


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


def _mesh() -> Mesh:
    return Mesh(np.array(jax.devices()), (AXIS,))


def _local(spec: PartitionSpec) -> NamedSharding:
    return NamedSharding(Mesh(np.array(jax.local_devices()), (AXIS,)), spec)


def wait_for_all(place: str) -> None:
    """Waits until all processes have reached the same named place."""
    if jax.process_count() == 1:
        return
    lowest, highest = _over_processes(zlib.crc32(place.encode()) >> 1, f"waiting for all processes ({place})")
    if lowest != highest:
        raise RuntimeError(f"this process has reached {place!r}, but another one has not")


def any_process(flag: bool) -> bool:
    """Whether a process passes True. Waits for all of them."""
    if jax.process_count() == 1:
        return flag
    return bool(_over_processes(flag)[1])


def gather_texts(text: str) -> list[str]:
    """The texts that all processes pass, in the order of the processes. Waits for all of them."""
    if jax.process_count() == 1:
        return [text]
    data = np.frombuffer(text.encode(), np.uint8)
    length = _over_processes(len(data))[1]
    # Lengths are rounded up to multiples of 64, so that few shapes are compiled.
    rows = np.zeros((jax.local_device_count(), jax.process_count(), -(-length // 64) * 64), np.int32)
    rows[0, jax.process_index(), : len(data)] = data
    with activity.doing("exchanging messages with all processes", "together"):
        return [bytes(row[row > 0].astype(np.uint8)).decode() for row in np.asarray(_total()(rows))]


def _over_processes(number: int, doing: str = "waiting for all processes") -> tuple[int, int]:
    """The smallest and the largest of the numbers that all processes pass."""
    # Uses the devices of training. On CPUs, the first collective over any other set of devices times out if a process
    # reaches it 30 seconds after the first one.
    with activity.doing(doing, "together"):
        lowest, highest = _extremes()(np.full(jax.local_device_count(), number, np.int32))
        return int(lowest), int(highest)


@functools.cache
def _total() -> Callable[[np.ndarray], Int32[Array, "p n"]]:
    return jax.pmap(lambda x: lax.psum(x, AXIS), axis_name=AXIS, out_axes=None)


@functools.cache
def _extremes() -> Callable[[np.ndarray], tuple[Int32[Array, ""], Int32[Array, ""]]]:
    return jax.pmap(lambda x: (lax.pmin(x, AXIS), lax.pmax(x, AXIS)), axis_name=AXIS, out_axes=None)
