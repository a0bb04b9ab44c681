"""Writes shards in worker processes.

Each worker is a new Python interpreter that runs `main`. Unlike `multiprocessing`, this does not fork the main process
(in which JAX may run threads), does not import its main module again, and uses no shared memory.
"""

import concurrent.futures
import contextlib
import functools
import os
import pathlib
import queue
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from multiprocessing import connection

import mtan_jax
from mtan_jax.data.errors import UnreadableError
from mtan_jax.data.preparation.preparable import Preparable
from mtan_jax.data.preparation.shards import MAX_FAULTS, Shard, write_shard

# Workers ignore Ctrl-C: the main process ends them.
_MAIN = """import signal, sys
signal.signal(signal.SIGINT, signal.SIG_IGN)
from mtan_jax.data.preparation import shard_workers
shard_workers.main(int(sys.argv[1]))"""


class WorkerError(RuntimeError):
    """A process that prepares data failed; the message has its traceback or exit status."""


def write_shards(
    builder: Preparable, shards: Sequence[Shard], folder: pathlib.Path, workers: int, written: Callable[[], None]
) -> None:
    """Writes shards, one at a time per process.

    Args:
        builder: of the dataset.
        shards: the shards to write, in this order.
        folder: the folder to write them to.
        workers: number of processes; 1 writes in this process.
        written: called after each example, from any thread.

    Raises:
        UnreadableError: raw files are damaged or missing. All other shards are written first, unless `MAX_FAULTS`
            examples are unreadable.
        WorkerError: a process failed for another reason.
    """
    waiting: queue.SimpleQueue[Shard] = queue.SimpleQueue()
    for shard in shards:
        waiting.put(shard)
    faults: list[str] = []

    def write_all(write: Callable[[Shard, pathlib.Path, Callable[[], None]], None]) -> None:
        """Writes shards until none is left."""
        with contextlib.suppress(queue.Empty):
            while len(faults) < MAX_FAULTS:
                try:
                    write(waiting.get_nowait(), folder, written)
                except UnreadableError as error:
                    faults.extend(error.faults)

    if workers == 1:
        try:
            write_all(functools.partial(write_shard, builder))
        finally:
            builder.close_raw()
    else:
        builder.close_raw()
        with contextlib.ExitStack() as stack:
            threads = stack.enter_context(concurrent.futures.ThreadPoolExecutor(workers))
            started = [
                stack.enter_context(_started(builder)) for _ in range(workers)
            ]  # killed before the threads are joined
            for future in concurrent.futures.as_completed([threads.submit(write_all, each.write) for each in started]):
                future.result()
    if faults:
        more = ["There may be more."] if len(faults) >= MAX_FAULTS else []
        raise UnreadableError([*faults[:MAX_FAULTS], *more])


class _Worker:
    """The main process' handle of a worker."""

    def __init__(self, process: subprocess.Popen, channel: connection.Connection):
        self._process, self._channel = process, channel

    def write(self, shard: Shard, folder: pathlib.Path, written: Callable[[], None]) -> None:
        try:
            self._channel.send((shard, folder))
            while (message := self._channel.recv()) is not None:
                if isinstance(message, BaseException):
                    raise message
                for _ in range(message):
                    written()
        except (EOFError, BrokenPipeError, ConnectionResetError) as error:
            code = self._process.wait()
            reason = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
            raise WorkerError(
                f"a process that prepared {shard.split} {shard.start} to {shard.stop - 1} ended with {reason}"
                + (" (out of memory? use fewer --config.data.prepare_workers)" if code == -signal.SIGKILL else "")
            ) from error


@contextlib.contextmanager
def _started(builder: Preparable) -> Iterator[_Worker]:
    """Starts a worker, and kills it on exit."""
    import cloudpickle

    ours, theirs = connection.Pipe()
    packages = [str(pathlib.Path(mtan_jax.__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
    one_thread = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    with ours:
        with theirs:
            process = subprocess.Popen(
                [sys.executable, "-P", "-c", _MAIN, str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                env={**os.environ, **one_thread, "PYTHONPATH": os.pathsep.join(filter(None, packages))},
            )
        try:
            ours.send(sys.path)  # the module of a user's own builder may be found there
            ours.send_bytes(cloudpickle.dumps(builder))
            yield _Worker(process, ours)
        finally:
            process.kill()
            process.wait()


def main(descriptor: int) -> None:
    """Runs a worker: receives a builder, then writes the shards that it receives until the connection closes."""
    import cloudpickle

    with connection.Connection(descriptor) as channel:
        try:
            sys.path[:] = channel.recv()
            builder = cloudpickle.loads(channel.recv_bytes())
            while True:
                shard, folder = channel.recv()
                try:
                    write_shard(builder, shard, folder, lambda: channel.send(1))
                except UnreadableError as error:
                    channel.send(error)  # other shards may be readable
                else:
                    channel.send(None)
        except (EOFError, BrokenPipeError, ConnectionResetError):
            return  # the main process ended or is ending this one
        except Exception as error:
            channel.send(_as_message(error))


def _as_message(error: Exception) -> Exception:
    """Returns the error itself if it explains itself and can be pickled; otherwise its traceback."""
    import cloudpickle

    *_, (frame, _) = traceback.walk_tb(error.__traceback__)
    raised_here = type(error).__module__.startswith("mtan_jax") or (
        isinstance(error, ValueError) and frame.f_globals["__name__"].startswith("mtan_jax")
    )
    if raised_here or isinstance(error, OSError):
        with contextlib.suppress(Exception):
            return cloudpickle.loads(cloudpickle.dumps(error))
    return WorkerError(f"a process that prepares data failed:\n{traceback.format_exc()}")
