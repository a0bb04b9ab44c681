"""Checkpoints with orbax: the whole state, its checksum and the metrics; the only file that knows orbax.

The position in the data is not stored: batches are a function of seed and step (`mtan_jax.data.pipeline`), and the
step is part of the state. So a run may be resumed on another number of processes and workers.
"""

import concurrent.futures
import functools
import json
import logging
import pathlib
import re
import sys
import zlib
from typing import Any

import jax
import numpy as np
from flax import serialization
from orbax.checkpoint import v1 as ocp

from mtan_jax import parallel
from mtan_jax.state import TrainState

FOLDER = "checkpoints"
DAMAGED_FOLDER = "damaged_checkpoints"

log = logging.getLogger(__name__)


class CheckpointError(RuntimeError):
    """A checkpoint could not be written or read; the message says which, why, and what still stands."""


class Checkpoints:
    """The checkpoints of a working directory: the newest ones and the best.

    Use it as a context manager: at its end everything is written, also where the run stops with an error.

    Args:
        workdir: they lie in its folder `checkpoints`, on a disk that all processes share.
        keep: how many of the newest stay.
        best_metric: the one with the best value of this metric stays too.
        higher_is_better: direction of `best_metric`.
        read_only: for a look at a run that may be training: nothing in the folder changes, not even what is damaged.

    Raises:
        CheckpointError: the folder cannot be read, or with `read_only` is not there.
    """

    def __init__(
        self, workdir: pathlib.Path, *, keep: int, best_metric: str, higher_is_better: bool, read_only: bool = False
    ):
        if keep < 1:
            raise ValueError(
                f"config.checkpoint.keep = {keep}: at least 1 must stay, or there is nothing to resume from"
            )
        self._folder = pathlib.Path(workdir).absolute() / FOLDER
        self._best_metric, self._higher_is_better = best_metric, higher_is_better
        self._read_only = read_only
        if read_only and not self._folder.is_dir():
            raise CheckpointError(f"there is no folder {self._folder}; train first, with --mode=train")
        _hush_orbax()
        policies = ocp.training.preservation_policies
        best = policies.BestN(
            get_metric_fn=lambda metrics: metrics[best_metric],
            reverse=not higher_is_better,
            n=1,
            keep_checkpoints_without_metrics=False,
        )
        self._drop_damaged_metrics()
        # Before orbax writes in the background it prepares, some tenths of a second for a thousand arrays. One process
        # leaves that to a thread too. Several synchronise in it, by collectives that must not come between a step's.
        self._alone = jax.process_count() == 1
        self._writer = concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._writing: concurrent.futures.Future[None] | None = None
        try:
            self._checkpointer = ocp.training.Checkpointer(
                self._folder,
                preservation_policy=policies.AnyPreservationPolicy([policies.LatestN(keep), best]),
                cleanup_tmp_directories=not read_only,
            )
        except Exception as error:  # orbax raises many kinds
            raise CheckpointError(f"the checkpoints in {self._folder} cannot be read: {_first_line(error)}") from error

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        try:
            self.close()
        except CheckpointError as close_error:
            if error is None:
                raise
            log.warning("%s", close_error)  # what stopped the run says more

    def steps(self) -> list[int]:
        """Steps of the checkpoints, oldest first."""
        self._wait()
        return sorted(checkpoint.step for checkpoint in self._checkpointer.checkpoints)

    def best_step(self) -> int | None:
        """Step of the checkpoint with the best value of the metric; None where none was evaluated."""
        self._wait()
        scored = [
            (checkpoint.metrics[self._best_metric], checkpoint.step)
            for checkpoint in self._checkpointer.checkpoints
            if checkpoint.metrics and self._best_metric in checkpoint.metrics
        ]
        if not scored:
            return None
        return (max if self._higher_is_better else min)(scored)[1]

    def save(self, state: TrainState, metrics: dict[str, float] | None) -> None:
        """Copies the state and writes it in the background; waits for the checkpoint before it, if that is not done.

        Args:
            state: on the devices of this process.
            metrics: of an evaluation of this very state, or None.

        Raises:
            CheckpointError: this checkpoint, or the one before, could not be written.
        """
        self._wait()
        # pmap's outputs live on one process' devices; as NumPy arrays, process 0 writes them. The step to come may
        # take the memory of those on a CPU, so they are copied.
        arrays = jax.tree.map(np.array, serialization.to_state_dict(jax.device_get(state)))
        finite = metrics is not None and np.isfinite(metrics.get(self._best_metric, np.nan))
        self._writing = self._writer.submit(self._write, arrays, metrics if finite else None)
        if not self._alone:
            self._wait()

    def _write(self, arrays: Any, metrics: dict[str, float] | None) -> None:
        write = self._checkpointer.save if self._alone else self._checkpointer.save_async
        write(
            int(arrays["step"]),
            arrays,
            metrics=metrics,
            custom_metadata={"crc32": checksum(arrays)},
            force=True,  # otherwise orbax skips a step while another is being written
            overwrite=True,
        )

    def _wait(self) -> None:
        """Until the thread is done with the last checkpoint; raises a CheckpointError where that failed."""
        writing, self._writing = self._writing, None
        try:
            _ = writing and writing.result()
        except Exception as error:
            raise self._not_written(error) from error

    def restore(self, template: TrainState, which: str = "newest") -> TrainState | None:
        """Reads a checkpoint.

        Args:
            template: a state of the same structure.
            which: a step; "newest", the newest that is whole: damaged ones that are newer are reported and moved
                aside; or "best", the one with the best value of the metric.

        Returns:
            The state on the devices of this process, or None where there are no checkpoints.

        Raises:
            ValueError: `which` is none of these.
            CheckpointError: the checkpoint asked for is not there or damaged, or all are.
        """
        state = self._restore(template, which)
        if not parallel.agree(-1 if state is None else int(state.step)):
            raise CheckpointError(
                f"the processes do not find the same checkpoints in {self._folder}; --workdir must be on a disk that "
                "all of them share"
            )
        return None if state is None else parallel.place_state(state)

    def arrays(self) -> dict[str, Any]:
        """The newest checkpoint as nested dictionaries of NumPy arrays, whatever its structure.

        Raises:
            CheckpointError: there is none, or it is damaged.
        """
        steps = self.steps()
        if not steps:
            raise CheckpointError(f"no checkpoint in {self._folder}; train first, with --mode=train")
        try:
            arrays = jax.tree.map(np.asarray, self._checkpointer.load(steps[-1]))
            self._check(steps[-1], arrays)
        except Exception as error:  # orbax raises many kinds
            raise CheckpointError(
                f"checkpoint {steps[-1]} in {self._folder} is damaged ({_first_line(error)})"
            ) from error
        return arrays

    def _check(self, step: int, arrays: Any) -> None:
        stored = self._checkpointer.metadata(step).custom_metadata
        if not stored or "crc32" not in stored:
            raise ValueError("its checksum is lost")
        if stored["crc32"] != checksum(arrays):
            raise ValueError("its arrays differ from those that were saved")

    def _restore(self, template: TrainState, which: str) -> TrainState | None:
        damaged: dict[int, str] = {}
        for step in self._find(which):
            try:
                state = self._read(step, template)
            except Exception as error:  # orbax raises many kinds
                damaged[step] = _first_line(error)
                log.warning("checkpoint %d in %s is damaged (%s)", step, self._folder, damaged[step])
                continue
            if damaged:
                log.warning("falling back to checkpoint %d", step)
                self._move_aside(list(damaged))
            return state
        if damaged:
            raise CheckpointError(
                f"none of the checkpoints tried in {self._folder} can be read (steps {sorted(damaged)}). If the code "
                "of the network or the optimiser has changed, go back to it; to start anew, use another --workdir"
            )
        return None

    def _find(self, which: str) -> list[int]:
        """Steps to try, one after the other."""
        steps = self.steps()
        if which == "newest":
            return steps[::-1]
        if which == "best":
            best = self.best_step()
            if best is None and steps:
                raise CheckpointError(f"no checkpoint in {self._folder} has a value of {self._best_metric}")
            return [] if best is None else [best]
        if not which.isdecimal():
            raise ValueError(f"checkpoint {which!r}: newest, best, initial or a step is needed")
        if int(which) not in steps:
            raise CheckpointError(f"no checkpoint of step {which} in {self._folder}; there are: {steps or 'none'}")
        return [int(which)]

    def close(self) -> None:
        """Waits until everything is written.

        Raises:
            CheckpointError: the last checkpoint could not be written.
        """
        self._writer.shutdown()
        try:
            try:
                self._wait()
            finally:
                self._checkpointer.close()  # raises what failed in the background, again
        except CheckpointError:
            raise
        except Exception as error:
            raise self._not_written(error) from error

    def _read(self, step: int, template: TrainState) -> TrainState:
        shapes = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), serialization.to_state_dict(template))
        arrays = self._checkpointer.load(step, shapes)
        self._check(step, arrays)
        for (path, array), wanted in zip(jax.tree.leaves_with_path(arrays), jax.tree.leaves(shapes), strict=True):
            if (array.shape, array.dtype) != (wanted.shape, wanted.dtype):
                name = jax.tree_util.keystr(path, simple=True, separator="/")
                raise ValueError(f"{name} is {array.dtype}{array.shape}, not {wanted.dtype}{wanted.shape}")
        return serialization.from_state_dict(template, arrays)

    def _drop_damaged_metrics(self) -> None:
        """Removes files of metrics on which orbax would stop; the checkpoint counts as one that was not evaluated."""
        if self._read_only:
            return
        for path in sorted(self._folder.glob("*/metrics/metrics")) if jax.process_index() == 0 else []:
            try:
                json.loads(path.read_text())
            except ValueError as error:
                log.warning("the metrics of checkpoint %s are damaged (%s); dropped", path.parts[-3], error)
                path.unlink()
        parallel.wait_for_all("damaged metrics are dropped")

    def _move_aside(self, steps: list[int]) -> None:
        if self._read_only:
            return
        parallel.wait_for_all("damaged checkpoints are found")
        target = self._folder.parent / DAMAGED_FOLDER
        for step in steps if jax.process_index() == 0 else []:
            target.mkdir(exist_ok=True)
            name, copies = str(step), 0
            while (target / name).exists():
                copies += 1
                name = f"{step}.{copies}"
            (self._folder / str(step)).rename(target / name)
            log.warning("moved the damaged checkpoint %d to %s", step, target / name)
        parallel.wait_for_all("damaged checkpoints are moved")
        self._checkpointer.reload()

    def _not_written(self, error: Exception) -> CheckpointError:
        whole = sorted(int(path.name) for path in self._folder.iterdir() if path.name.isdigit())
        return CheckpointError(
            f"could not write a checkpoint in {self._folder}: {_first_line(error)}. "
            + (f"The checkpoint of step {whole[-1]} stands" if whole else "No checkpoint stands yet")
            + "; make room and run the same command again"
        )


def checksum(arrays: Any) -> int:
    """CRC-32 of all arrays, in the order of their names."""
    value = 0
    for leaf in jax.tree.leaves(arrays):
        value = zlib.crc32(np.ascontiguousarray(leaf).view(np.uint8).data, value)
    return value


@functools.cache
def _hush_orbax() -> None:
    """Leaves it to us to say what goes wrong.

    orbax logs each of its steps, and each error several times before it raises it; what it has left behind in other
    threads by then complains of its own.
    """
    logging.getLogger("absl").addFilter(lambda record: "orbax" not in pathlib.PurePath(record.pathname).parts)
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)
    previous = sys.unraisablehook

    def unraisablehook(unraisable: "sys.UnraisableHookArgs") -> None:
        if str(unraisable.exc_value) != "Event loop is closed":
            previous(unraisable)

    sys.unraisablehook = unraisablehook


def _first_line(error: BaseException) -> str:
    """The reason of an error; where orbax nests reasons, the innermost stands last, before details in brackets."""
    cause: BaseException = error
    while cause.__cause__ is not None:
        cause = cause.__cause__
    line = f"{type(cause).__name__}: {cause}".strip().splitlines()[0]
    line = re.split(r" \[(?:tensorstore_spec|os_error_code)", line)[0]
    return line if len(line) <= 200 else f"... {line[-200:]}"
