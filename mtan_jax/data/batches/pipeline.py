"""Batches for training and evaluation, each a function of the data, the seed and the step alone."""

import atexit
import contextlib
import functools
import weakref
from collections.abc import Callable, Generator, Iterator, Sequence
from typing import Any

import grain
import numpy as np
from absl import flags

from mtan_jax.data.batches import loader_workers, shared_memory
from mtan_jax.data.batches.examples import Example, Examples, blank

Batch = dict[str, Any]

# Batches that the threads of a process read at the same time, and that wait to be used.
_READ = grain.ReadOptions(num_threads=4, prefetch_buffer_size=4)
_READ_IN_WORKER = grain.ReadOptions(num_threads=1, prefetch_buffer_size=1)

# Elements of a stream without end; grain's own length of one, sys.maxsize, overflows where a batch holds one element.
_ENDLESS = 2**53

# Iterators that are open; at the end of the program grain could not close them in an orderly way any more.
_OPEN: weakref.WeakSet[Generator[Batch, None, None]] = weakref.WeakSet()


def train_batches(
    source: Sequence[Any],
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
) -> Generator[Batch, None, None]:
    """This process' rows of the batches of training, from a step on, without end.

    All examples, shuffled anew each epoch, form one endless stream; batch k of all processes together holds its
    elements k * global_batch_size to (k + 1) * global_batch_size - 1, across the ends of epochs. An element's random
    numbers come from the seed and its place in the stream. So neither the number of processes nor that of workers
    changes a batch, and step k can be taken up without the state of an iterator.

    Args:
        source: see `Examples`.
        targets: names of the targets that the batches hold.
        global_batch_size: rows of all processes together.
        seed: from 0 to 2**32 - 1.
        start_step: number of batches already used.
        process_index: of this process.
        process_count: a divisor of `global_batch_size`.
        augment: changes an example with random numbers of its own.
        workers: processes that read and augment; 0 for threads of this process.
        streams: iterators of this kind that are read at the same time; see `with_second`.

    Returns:
        An iterator over batches as the batch contract has them, with the key "id" besides: an array of strings [b].
        Closing it, or dropping it, ends the workers.

    Raises:
        ValueError: the batch size cannot be divided, the source is empty or lacks a target, or a number is negative.
        WorkerError: from the iterator, where a worker process died.
    """
    local_rows = local_batch_size(global_batch_size, process_count)
    for name, value in (("seed", seed), ("start_step", start_step), ("workers", workers)):
        if value < 0:
            raise ValueError(f"{name} is {value}; it cannot be negative.")
    # The order of these lines is what makes a batch independent of the processes: random numbers before the slice.
    data = grain.MapDataset.source(Examples(source, targets)).seed(seed).shuffle().repeat()
    if augment is not None:
        data = data.random_map(augment)
    data = data.slice(slice(start_step * global_batch_size + process_index, _ENDLESS, process_count))
    return iterate(data, local_rows, stack, workers=workers, streams=streams)


def with_second(
    first: Generator[Batch, None, None], second: Generator[Batch, None, None]
) -> Generator[Batch, None, None]:
    """Batches that each hold one of another stream, under the key "second" and without its "id".

    Args:
        first: of `train_batches`.
        second: of `train_batches` too, such as the same with `second_seed(seed)`: the same data in another order.

    Returns:
        An iterator that ends both streams when it is closed or dropped.
    """
    with contextlib.closing(first), contextlib.closing(second):
        for batch, other in zip(first, second, strict=False):
            yield batch | {"second": {key: value for key, value in other.items() if key != "id"}}


def second_seed(seed: int) -> int:
    """The seed of a run's second stream: a function of the run's, and that of no other run one is likely to start."""
    return int(np.random.SeedSequence((seed, 1)).generate_state(1)[0])


def eval_batches(
    source: Sequence[Any],
    *,
    targets: Sequence[str],
    global_batch_size: int,
    process_index: int,
    process_count: int,
) -> Iterator[Batch]:
    """This process' rows of one pass over a split, in order; every process gets the same number of batches.

    The last batch is filled up with rows of weight 0: no image, no label, id "". Row i of a process is row
    i * process_count + process_index of all processes.

    Args:
        source: see `Examples`.
        targets: names of the targets that the batches hold.
        global_batch_size: rows of all processes together.
        process_index: of this process.
        process_count: a divisor of `global_batch_size`.

    Returns:
        An iterator over batches as `train_batches` gives them.

    Raises:
        ValueError: the batch size cannot be divided, or the source is empty or lacks a target.
    """
    local_rows = local_batch_size(global_batch_size, process_count)
    data = grain.MapDataset.source(Padded(Examples(source, targets), global_batch_size))
    return iterate(data.slice(slice(process_index, None, process_count)), local_rows, stack)


def stack(examples: Sequence[Example]) -> Batch:
    """Makes a batch of examples."""
    first = examples[0]
    batch: Batch = {key: np.stack([example[key] for example in examples]) for key in ("id", "image", "weight")}
    for key in ("targets", "labelled"):
        batch[key] = {name: np.stack([example[key][name] for example in examples]) for name in first[key]}
    return batch


class Padded:
    """Examples, and blank ones up to a multiple of the batch size."""

    def __init__(self, examples: Any, batch_size: int):
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
    """The rows of one process.

    Raises:
        ValueError: they cannot be divided among the processes.
    """
    if global_batch_size < 1 or global_batch_size % process_count:
        below = max(global_batch_size // process_count, 1) * process_count
        raise ValueError(
            f"The batch size {global_batch_size} cannot be divided among {process_count} processes; "
            f"{below} or {below + process_count} would do."
        )
    return global_batch_size // process_count


def iterate(
    rows: grain.MapDataset,
    batch_size: int,
    batch_fn: Callable[[Sequence[Any]], Batch],
    *,
    workers: int = 0,
    streams: int = 1,
) -> Generator[Batch, None, None]:
    """Makes batches of rows and reads ahead; closing or dropping the iterator ends the threads or processes.

    Args:
        rows: of this process.
        batch_size: rows in a batch.
        batch_fn: makes a batch of rows.
        workers: processes that read; 0 for threads of this process. Fewer where shared memory is too small for all.
        streams: iterators with as many workers that are open at the same time.

    Raises:
        WorkerError: from the iterator, where a worker died.
    """
    data = rows.batch(batch_size, batch_fn=batch_fn)
    fitting = shared_memory.Workers(0)
    if workers:
        fitting = shared_memory.fit(workers, batch_size * _bytes(batch_fn([rows[0]])), streams)
    if fitting.count == 0:
        iterator = _until_closed(data.to_iter_dataset(_READ))
    else:
        if not flags.FLAGS.is_parsed():
            flags.FLAGS.mark_as_parsed()  # grain reads its flags; a program without absl's app has none to parse
        options = grain.MultiprocessingOptions(num_workers=fitting.count, per_worker_buffer_size=fitting.buffer)
        in_workers = data.to_iter_dataset(_READ_IN_WORKER).mp_prefetch(options, worker_init_fn=loader_workers.on_start)
        iterator = _of_workers(in_workers, fitting.count)
    _OPEN.add(iterator)
    return iterator


def _until_closed(data: grain.IterDataset) -> Generator[Batch, None, None]:
    """Ends threads and workers when it is closed, dropped or left by an exception."""
    with contextlib.closing(iter(data)) as batches:
        yield from shared_memory.own_arrays(batches)


def _of_workers(data: grain.IterDataset, workers: int) -> Generator[Batch, None, None]:
    """The same of worker processes."""
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
    """Closes every iterator that is open, with its threads or processes."""
    for iterator in list(_OPEN):
        iterator.close()


def _bytes(batch: Batch) -> int:
    """Bytes of all arrays of a batch."""
    return sum(_bytes(value) if isinstance(value, dict) else value.nbytes for value in batch.values())
