"""Training and evaluation batches; each depends only on the data, the seed and the step."""

import atexit
import contextlib
import functools
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Protocol, TypeVar, cast

import grain
import numpy as np
from absl import flags

from mtan_jax.data.batches import loader_workers, shared_memory
from mtan_jax.data.batches.examples import Example, Examples, blank
from mtan_jax.data.preparation.preparable import StoredExample
from mtan_jax.types import Batch, Batches

Row = TypeVar("Row")

# Threads that read batches, and batches that are prefetched.
_READ = grain.ReadOptions(num_threads=4, prefetch_buffer_size=4)
_READ_IN_WORKER = grain.ReadOptions(num_threads=1, prefetch_buffer_size=1)

# The length of an endless stream; grain's own, sys.maxsize, overflows for a batch size of 1.
_ENDLESS = 2**53

# Open iterators, closed at exit: later, while the interpreter shuts down, grain can no longer do it.
_OPEN: weakref.WeakSet[Batches] = weakref.WeakSet()


def train_batches(
    source: Sequence[StoredExample],
    *,
    targets: Sequence[str],
    global_batch_size: int,
    seed: int,
    start_step: int,
    process_index: int,
    process_count: int,
    augment: Callable[[Example, np.random.Generator], Example] | None,
    workers: int,
    streams: int = 1,
) -> Batches:
    """Iterates endlessly over this process' rows of the training batches, starting at a step.

    The examples, reshuffled each epoch, form one endless stream. The global batch k holds its elements
    k * global_batch_size to (k + 1) * global_batch_size - 1, across epoch boundaries. The random numbers of an element
    depend on the seed and its position in the stream. Batches are therefore independent of the number of processes and
    workers, and step k can be resumed without the state of an iterator.

    Args:
        source: as in `Examples`.
        targets: names of the targets in the batches.
        global_batch_size: rows of all processes together.
        seed: from 0 to 2**32 - 1.
        start_step: number of batches already used.
        process_index: index of this process.
        process_count: a divisor of `global_batch_size`.
        augment: randomly transforms an example.
        workers: number of processes that read and augment; 0 uses threads of this process.
        streams: number of iterators of this kind that are read concurrently; 2 for `with_second`.

    Returns:
        An iterator over batches that include "id". Closing or dropping it ends the workers.

    Raises:
        ValueError: the batch size is not divisible, the source is empty or lacks a target, or a number is negative.
        WorkerError: from the iterator, if a worker process died.
    """
    local_rows = local_batch_size(global_batch_size, process_count)
    for name, value in (("seed", seed), ("start_step", start_step), ("workers", workers)):
        if value < 0:
            raise ValueError(f"{name} is {value}; it cannot be negative.")
    # Random numbers must be assigned before the slice: this makes batches independent of the number of processes.
    data = grain.MapDataset.source(Examples(source, targets)).seed(seed).shuffle().repeat()
    if augment is not None:
        data = data.random_map(augment)
    data = data.slice(slice(start_step * global_batch_size + process_index, _ENDLESS, process_count))
    return iterate(data, local_rows, stack, workers=workers, streams=streams)


def with_second(first: Batches, second: Batches) -> Batches:
    """Adds a batch of a second stream to each batch, under the key "second" and without its "id".

    Args:
        first: from `train_batches`.
        second: from `train_batches`, for example with `second_seed(seed)`: the same data in another order.

    Returns:
        An iterator that closes both streams when it is closed or dropped.
    """
    with contextlib.closing(first), contextlib.closing(second):
        for batch, other in zip(first, second, strict=False):
            without_id = other.copy()
            without_id.pop("id", None)
            yield {**batch, "second": without_id}


def second_seed(seed: int) -> int:
    """Derives the seed of a run's second stream, which is unlikely to be the seed of another run."""
    return int(np.random.SeedSequence((seed, 1)).generate_state(1)[0])


def eval_batches(
    source: Sequence[StoredExample],
    *,
    targets: Sequence[str],
    global_batch_size: int,
    process_index: int,
    process_count: int,
) -> Iterator[Batch]:
    """Iterates once over this process' rows of a split, in order; all processes get the same number of batches.

    The last batch is padded with rows of weight 0: black image, no label, id "". Row i of a process is row
    i * process_count + process_index of the global batch.

    Args:
        source: as in `Examples`.
        targets: names of the targets in the batches.
        global_batch_size: rows of all processes together.
        process_index: index of this process.
        process_count: a divisor of `global_batch_size`.

    Returns:
        An iterator over batches that include "id".

    Raises:
        ValueError: the batch size is not divisible, or the source is empty or lacks a target.
    """
    local_rows = local_batch_size(global_batch_size, process_count)
    data = grain.MapDataset.source(Padded(Examples(source, targets), global_batch_size))
    return iterate(data.slice(slice(process_index, None, process_count)), local_rows, stack)


def stack(examples: Sequence[Example]) -> Batch:
    """Stacks examples to a batch."""
    names = tuple(examples[0]["targets"])
    return {
        "id": np.stack([example["id"] for example in examples]),
        "image": np.stack([example["image"] for example in examples]),
        "weight": np.stack([example["weight"] for example in examples]),
        "targets": {name: np.stack([example["targets"][name] for example in examples]) for name in names},
        "labelled": {name: np.stack([example["labelled"][name] for example in examples]) for name in names},
    }


class SizedExamples(Protocol):
    """Examples with random access."""

    def __len__(self) -> int: ...
    def __getitem__(self, index: int, /) -> Example: ...


class Padded:
    """Examples, padded with blank ones to a multiple of the batch size."""

    def __init__(self, examples: SizedExamples, batch_size: int):
        self._examples = examples
        self._length = -(-len(examples) // batch_size) * batch_size

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> Example:
        return self._examples[index] if index < len(self._examples) else self._blank

    @functools.cached_property
    def _blank(self) -> Example:
        return blank(self._examples[0])


def local_batch_size(global_batch_size: int, process_count: int) -> int:
    """The number of rows of one process.

    Raises:
        ValueError: the batch size is not divisible by the number of processes.
    """
    if global_batch_size < 1 or global_batch_size % process_count:
        below = max(global_batch_size // process_count, 1) * process_count
        raise ValueError(
            f"The batch size {global_batch_size} is not divisible by {process_count} processes; "
            f"use {below} or {below + process_count}."
        )
    return global_batch_size // process_count


def iterate(
    rows: grain.MapDataset,
    batch_size: int,
    batch_fn: Callable[[Sequence[Row]], Batch],
    *,
    workers: int = 0,
    streams: int = 1,
) -> Batches:
    """Batches and prefetches rows; closing or dropping the iterator ends its threads or processes.

    Args:
        rows: the rows of this process.
        batch_size: number of rows in a batch.
        batch_fn: makes a batch from rows.
        workers: number of processes that read; 0 uses threads of this process. Reduced if shared memory is too small.
        streams: number of iterators that are open concurrently, each with `workers` processes.

    Raises:
        WorkerError: from the iterator, if a worker died.
    """
    data = rows.batch(batch_size, batch_fn=batch_fn)
    fitting = shared_memory.Workers(0)
    if workers:
        fitting = shared_memory.fit(workers, batch_size * _bytes(batch_fn([rows[0]])), streams)
    if fitting.count == 0:
        iterator = _until_closed(data.to_iter_dataset(_READ))
    else:
        if not flags.FLAGS.is_parsed():
            flags.FLAGS.mark_as_parsed()  # grain reads absl flags, which only absl's app parses
        options = grain.MultiprocessingOptions(num_workers=fitting.count, per_worker_buffer_size=fitting.buffer)
        in_workers = data.to_iter_dataset(_READ_IN_WORKER).mp_prefetch(options, worker_init_fn=loader_workers.on_start)
        iterator = _of_workers(in_workers, fitting.count)
    _OPEN.add(iterator)
    return iterator


def _until_closed(data: grain.IterDataset) -> Batches:
    """Ends threads and workers when it is closed or dropped, or on an exception."""
    with contextlib.closing(iter(data)) as batches:
        yield from shared_memory.own_arrays(batches)


def _of_workers(data: grain.IterDataset, workers: int) -> Batches:
    """Like `_until_closed`, for worker processes."""
    loader_workers.prepare_start()
    try:
        yield from _until_closed(data)
    except RuntimeError as error:
        explained = loader_workers.explain(error, workers)
        if explained is error:
            raise
        raise explained from None


@atexit.register
def close_all() -> None:
    """Closes all open iterators and their threads or processes."""
    for iterator in list(_OPEN):
        iterator.close()


def _bytes(arrays: Mapping[str, object]) -> int:
    """The size of nested arrays in bytes."""
    return sum(_bytes(each) if isinstance(each, dict) else cast(np.ndarray, each).nbytes for each in arrays.values())
