"""Checkpoints: the whole state, its checksum and the metrics; the newest and the best are kept.

The position in the data is not stored: batches are a function of seed and step, and the step is part of the state. So a
run may be resumed on another number of processes and workers.
"""

import concurrent.futures
import contextlib
import logging
import pathlib
import re
from collections.abc import Callable
from typing import Any, Protocol, TypeVar

import jax
import numpy as np
from flax import serialization

from mtan_jax.runtime import checkpoint_folder, orbax_compat, parallel
from mtan_jax.runtime.checkpoint_folder import CheckpointFolder
from mtan_jax.runtime.orbax_compat import checksum, reason

FOLDER = checkpoint_folder.NAME
DAMAGED_FOLDER = checkpoint_folder.DAMAGED_NAME
FULL = re.compile(r"No space left|[Qq]uota|File too large")  # errors that more space would fix

log = logging.getLogger(__name__)


class Steps(Protocol):
    """A state that counts its steps: any pytree with this attribute."""

    step: Any


State = TypeVar("State", bound=Steps)


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
        check_workdir(workdir)
        self._files = CheckpointFolder(workdir)
        self._folder = self._files.path
        self._keep, self._best_metric, self._higher_is_better = keep, best_metric, higher_is_better
        self._read_only = read_only
        if read_only and not self._folder.is_dir():
            raise CheckpointError(f"there is no folder {self._folder}; train first, with --mode=train")
        orbax_compat.hush()
        # One process leaves all work to a thread. Several synchronise when a save begins, by collectives that must not
        # come between a step's.
        self._alone = jax.process_count() == 1
        self._writer = concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._writing: concurrent.futures.Future[None] | None = None
        self._has_read_back = False
        if not read_only:
            self._prepare()

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
        return self._list()

    def _list(self) -> list[int]:
        try:
            return self._files.steps()
        except OSError as error:
            raise CheckpointError(f"the checkpoints in {self._folder} cannot be read: {reason(error)}") from error

    def best_step(self) -> int | None:
        """Step of the checkpoint with the best value of the metric; None where none was evaluated."""
        return self._files.best(self.steps(), self._best_metric, self._higher_is_better)

    def save(self, state: Steps, metrics: dict[str, float] | None) -> None:
        """Copies the state and writes it in the background; waits for the checkpoint before it, if that is not done.

        The first checkpoint that this object writes is read back before it counts.

        Args:
            state: on the devices of this process.
            metrics: of an evaluation of this very state, or None.

        Raises:
            CheckpointError: this checkpoint, or the one before, could not be written or read back.
        """
        self._wait()
        # pmap's outputs live on one process' devices; as NumPy arrays, process 0 writes them. The step to come may
        # take the memory of those on a CPU, so they are copied.
        arrays = jax.tree.map(np.array, serialization.to_state_dict(jax.device_get(state)))
        finite = metrics is not None and np.isfinite(metrics.get(self._best_metric, np.nan))
        metrics = metrics if finite else None
        if self._alone:
            self._writing = self._writer.submit(self._write, arrays, metrics)
            return
        try:
            finish = self._start(arrays)
        except CheckpointError:
            raise
        except Exception as error:
            raise self._not_written(error) from error
        self._writing = self._writer.submit(self._finish, finish, int(arrays["step"]), metrics)

    def check(self) -> None:
        """Raises a CheckpointError if the last checkpoint could not be written; does not wait for it."""
        if self._writing is not None and self._writing.done():
            self._wait()

    def _write(self, arrays: Any, metrics: dict[str, float] | None) -> None:
        self._finish(self._start(arrays), int(arrays["step"]), metrics)

    def _start(self, arrays: Any) -> Callable[[], None]:
        """Begins to write, and waits for the first checkpoint of all, to read it back."""
        path = self._files.pending(int(arrays["step"]))
        if not self._folder.is_dir():  # orbax would make it anew, below a directory that was moved or deleted
            raise FileNotFoundError(f"there is no folder {self._folder}")
        finish = orbax_compat.start_writing(path, arrays, {"crc32": checksum(arrays)})
        if not self._has_read_back:
            finish()
            try:
                _check_shapes(self._read(path, arrays), arrays)
            except Exception as error:  # orbax raises many kinds
                there = path.is_dir()
                raise CheckpointError(
                    f"the first checkpoint was written to {self._folder} but cannot be read back ({reason(error)}). "
                    + ("Nothing of this run could be resumed; use a --workdir on another disk" if there else "")
                    + ("" if there else "Something deleted it; run the same command again")
                ) from error
            self._has_read_back = True
            parallel.wait_for_all("the first checkpoint is read back")  # process 0 renames it next
        return finish

    def _finish(self, finish: Callable[[], None], step: int, metrics: dict[str, float] | None) -> None:
        """Waits until a checkpoint is written, gives it its name, and deletes those that are not to be kept."""
        finish()
        if jax.process_index() > 0:
            return
        self._files.commit(step, metrics)
        steps = self._files.steps()
        best = self._files.best(steps, self._best_metric, self._higher_is_better)
        self._files.delete({*steps} - {*steps[-self._keep :], best})

    def _wait(self) -> None:
        """Until the thread is done with the last checkpoint; raises a CheckpointError where that failed."""
        if self._writing is None:
            return
        try:
            concurrent.futures.wait([self._writing])  # if Ctrl-C interrupts this, `close` waits again
            writing, self._writing = self._writing, None
            writing.result()
        except CheckpointError:
            raise
        except Exception as error:
            raise self._not_written(error) from error

    def restore(self, template: State, which: str = "newest") -> State | None:
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
        while steps := self.steps():
            path = self._files.of_step(steps[-1])
            try:
                return self._read(path)
            except Exception as error:  # orbax raises many kinds
                if path.exists():
                    raise CheckpointError(
                        f"checkpoint {steps[-1]} in {self._folder} is damaged ({reason(error)})"
                    ) from error
        raise CheckpointError(f"no checkpoint in {self._folder}; train first, with --mode=train")

    def _restore(self, template: State, which: str) -> State | None:
        damaged: dict[int, str] = {}
        wanted = serialization.to_state_dict(template)
        while steps := [step for step in self._find(which) if step not in damaged]:
            step, path = steps[0], self._files.of_step(steps[0])
            try:
                arrays = self._read(path, wanted)
                _check_shapes(arrays, wanted)
                state = serialization.from_state_dict(template, arrays)
            except Exception as error:  # orbax raises many kinds
                if not path.exists():
                    continue  # the run that is training has deleted it, and has newer ones
                damaged[step] = reason(error)
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

    def _read(self, path: pathlib.Path, template: Any = None) -> Any:
        """Reads a checkpoint's arrays and compares their checksum."""
        # Zeros take no memory until somebody looks into them.
        zeros = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), template)
        arrays, stored = orbax_compat.read(path, zeros)
        if "crc32" not in stored:
            raise ValueError("its checksum is lost")
        if stored["crc32"] != checksum(arrays):
            raise ValueError("its arrays differ from those that were saved")
        return arrays

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
        self._wait()

    def _prepare(self) -> None:
        if jax.process_index() == 0:
            try:
                self._files.prepare()
            except OSError as error:
                raise CheckpointError(f"the checkpoints in {self._folder} cannot be read: {reason(error)}") from error
        parallel.wait_for_all("checkpoints are prepared")

    def _move_aside(self, steps: list[int]) -> None:
        if self._read_only:
            return
        parallel.wait_for_all("damaged checkpoints are found")
        if jax.process_index() == 0:
            self._files.move_damaged(steps)
        parallel.wait_for_all("damaged checkpoints are moved")

    def _not_written(self, error: Exception) -> CheckpointError:
        steps = None
        with contextlib.suppress(OSError):
            steps = self._files.steps() if self._folder.is_dir() else None
        stands = f"The checkpoint of step {steps[-1]} stands" if steps else "No checkpoint stands yet"
        return CheckpointError(
            f"could not write a checkpoint in {self._folder}: {reason(error)}. "
            + ("The folder is no longer there" if steps is None else stands)
            + ("; make room and" if FULL.search(reason(error)) else "; make it writable and")
            + " run the same command again"
        )


def check_workdir(workdir: pathlib.Path) -> None:
    """Raises a CheckpointError where checkpoints below a working directory could not be written or read."""
    folder = CheckpointFolder(workdir).path
    problem = orbax_compat.unfit(folder)
    if problem is not None:
        raise CheckpointError(
            f"checkpoints cannot be kept in {str(folder)!r}: the path {problem}; use another --workdir"
        )


def _check_shapes(found: Any, expected: Any) -> None:
    for (path, array), wanted in zip(jax.tree.leaves_with_path(found), jax.tree.leaves(expected), strict=True):
        if (array.shape, array.dtype) != (wanted.shape, wanted.dtype):
            name = jax.tree_util.keystr(path, simple=True, separator="/")
            raise ValueError(f"{name} is {array.dtype}{array.shape}, not {wanted.dtype}{wanted.shape}")
