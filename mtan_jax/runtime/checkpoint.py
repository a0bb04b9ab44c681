"""Checkpoints of the training state with a checksum and metrics; keeps the newest ones and the best.

The position in the data is not stored: batches are a function of the seed and the step, and the step is part of the
state. A run can therefore be resumed with another number of processes and workers.
"""

import concurrent.futures
import contextlib
import json
import logging
import pathlib
import re
from collections.abc import Callable
from typing import Protocol, TypeVar

import jax
import numpy as np
from flax import serialization
from jaxtyping import Int32, PyTree

from mtan_jax.runtime import activity, checkpoint_folder, orbax_compat, parallel
from mtan_jax.runtime.bucket import BucketError
from mtan_jax.runtime.checkpoint_arrays import check_shapes, read_arrays
from mtan_jax.runtime.checkpoint_folder import CheckpointFolder
from mtan_jax.runtime.orbax_compat import checksum, reason
from mtan_jax.types import ArrayLike

FOLDER = checkpoint_folder.NAME
DAMAGED_FOLDER = checkpoint_folder.DAMAGED_NAME
FULL = re.compile(r"No space left|[Qq]uota|File too large")  # errors due to a lack of space

_GONE = "gone"  # the fault of a checkpoint that was deleted while it was read

log = logging.getLogger(__name__)


class HasStep(Protocol):
    """A training state: any pytree with the number of completed steps."""

    @property
    def step(self) -> Int32[ArrayLike, ""]: ...


State = TypeVar("State", bound=HasStep)


class CheckpointError(RuntimeError):
    """A checkpoint could not be written or read; the message says which one, why, and which checkpoints remain."""


class Checkpoints:
    """The checkpoints of a working directory. Use it as a context manager, which finishes pending writes on exit.

    Args:
        workdir: contains the folder `checkpoints`, on a disk that all processes share or in a mirror of a bucket.
        keep: number of newest checkpoints to keep.
        every: distance of regular checkpoints in steps. A checkpoint between them, saved when a run was stopped, is
            deleted when a newer one is written, so that it does not take the place of a regular one.
        best_metric: the checkpoint with the best value of this metric is kept too.
        higher_is_better: direction of `best_metric`.
        read_only: leaves the folder unchanged, including damaged checkpoints, since another process may be training.
        logged: returns the metrics that were logged for a step, or None; they replace damaged metrics of a checkpoint.

    Raises:
        ValueError: `keep` is less than 1.
        CheckpointError: the folder cannot be read, or is missing with `read_only`.
    """

    def __init__(
        self,
        workdir: pathlib.Path,
        *,
        keep: int,
        best_metric: str,
        higher_is_better: bool,
        every: int = 1,
        read_only: bool = False,
        logged: Callable[[int], dict[str, float] | None] = lambda step: None,
    ):
        if keep < 1:
            raise ValueError(f"config.checkpoint.keep={keep}; expected at least 1, or the run could not be resumed")
        check_workdir(workdir)
        self._files = CheckpointFolder(workdir)
        self._folder = self._files.path
        self._keep, self._every = keep, every
        self._best_metric, self._higher_is_better = best_metric, higher_is_better
        self._read_only = read_only
        if read_only and not self._folder.is_dir():
            raise CheckpointError(f"no folder {self._folder}; train first, with --mode=train")
        orbax_compat.hush()
        self._writer = concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._writing: concurrent.futures.Future[None] | None = None
        self._has_read_back = False
        if not read_only:
            self._prepare(logged)

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        try:
            self.close()
        except (CheckpointError, BucketError) as close_error:
            if error is None:
                raise
            log.warning("%s", close_error)  # the error that stopped the run is more informative

    def steps(self) -> list[int]:
        """Returns the steps of the checkpoints, oldest first."""
        self._wait()
        return self._list()

    def _list(self) -> list[int]:
        try:
            return self._files.steps()
        except OSError as error:
            raise CheckpointError(f"the checkpoints in {self._folder} cannot be read: {reason(error)}") from error

    def best_step(self) -> int | None:
        """Returns the step of the checkpoint with the best metric; None if none was evaluated."""
        return self._files.best(self.steps(), self._best_metric, self._higher_is_better)

    def save(self, state: HasStep, metrics: dict[str, float] | None) -> None:
        """Copies the state and writes it in the background, after waiting for the previous checkpoint.

        Process 0 writes, without waiting for the others, which do nothing. The first checkpoint that this object writes
        is read back as a check.

        Args:
            state: the state on the devices of this process.
            metrics: metrics of this state, or None if it was not evaluated.

        Raises:
            CheckpointError: this checkpoint or the previous one could not be written or read back.
        """
        if jax.process_index() > 0:
            return
        self._wait()
        # Copied, because on CPUs the next step may reuse the memory of the state.
        arrays = jax.tree.map(np.array, serialization.to_state_dict(jax.device_get(state)))
        finite = metrics is not None and np.isfinite(metrics.get(self._best_metric, np.nan))
        metrics = metrics if finite else None
        self._writing = self._writer.submit(self._write, arrays, metrics)

    def check(self) -> None:
        """Raises a CheckpointError if the last write has failed. Does not wait for it."""
        if self._writing is not None and self._writing.done():
            self._wait()

    def _write(self, arrays: PyTree[np.ndarray], metrics: dict[str, float] | None) -> None:
        """Writes a checkpoint, renames it, and deletes old checkpoints."""
        step = int(arrays["step"])
        path = self._files.pending(step)
        if not self._folder.is_dir():  # orbax would recreate it in a working directory that was moved or deleted
            raise FileNotFoundError(f"no folder {self._folder}")
        orbax_compat.write(path, arrays, {"crc32": checksum(arrays)})
        if not self._has_read_back:
            self._read_back(path, arrays)
        self._files.commit(step, metrics)
        self._delete_old()

    def _delete_old(self) -> None:
        steps = self._files.steps()
        best = self._files.best(steps, self._best_metric, self._higher_is_better)
        regular = [each for each in steps if each % self._every == 0 or each == steps[-1]]
        self._files.delete({*steps} - {*regular[-self._keep :], best})

    def _read_back(self, path: pathlib.Path, arrays: PyTree[np.ndarray]) -> None:
        try:
            check_shapes(read_arrays(path, arrays), arrays)
        except Exception as error:  # orbax raises many types
            advice = (
                "It would be impossible to resume this run; use a --workdir on another disk"
                if path.is_dir()
                else "It was deleted; run the same command again"
            )
            raise CheckpointError(
                f"the first checkpoint was written to {self._folder} but cannot be read back ({reason(error)}). "
                + advice
            ) from error
        self._has_read_back = True

    def _wait(self) -> None:
        """Waits for the pending write; raises a CheckpointError if it failed."""
        if self._writing is None:
            return
        try:
            with activity.doing(f"waiting until the checkpoint in {self._folder} is written", "wait"):
                concurrent.futures.wait([self._writing])  # if Ctrl-C interrupts this, `close` waits again
            writing, self._writing = self._writing, None
            writing.result()
        except (CheckpointError, BucketError):
            raise
        except Exception as error:
            raise self._not_written(error) from error

    def restore(self, template: State, which: str = "newest") -> State | None:
        """Reads a checkpoint.

        Args:
            template: a state of the same structure.
            which: "newest", "best" or a step (callers handle "initial"). "newest" is the newest intact one; newer
                damaged ones are reported and moved aside. "best" has the best value of the metric.

        Returns:
            The state on the devices of this process, or None if there are no checkpoints.

        Raises:
            ValueError: `which` is none of these.
            CheckpointError: the requested checkpoint is missing or damaged, or all checkpoints are damaged.
        """
        state = self._restore(template, which)
        return None if state is None else parallel.place_state(state)

    def arrays(self) -> dict[str, PyTree[np.ndarray]]:
        """Returns the newest checkpoint as nested dictionaries of NumPy arrays, without a template.

        Raises:
            CheckpointError: there is no checkpoint, or the newest is damaged.
        """
        while steps := self.steps():
            path = self._files.of_step(steps[-1])
            try:
                return read_arrays(self._files.fetch(steps[-1]))
            except BucketError:
                raise
            except Exception as error:  # orbax raises many types
                if path.exists():
                    raise CheckpointError(
                        f"checkpoint {steps[-1]} in {self._folder} is damaged ({reason(error)})"
                    ) from error
        raise CheckpointError(f"no checkpoint in {self._folder}; train first, with --mode=train")

    def _restore(self, template: State, which: str) -> State | None:
        damaged: dict[int, str] = {}
        wanted = serialization.to_state_dict(template)
        while steps := [step for step in self._agreed(which) if step not in damaged]:
            step, path = steps[0], self._files.of_step(steps[0])
            fault = ""
            try:
                arrays = read_arrays(self._files.fetch(step), wanted)
                check_shapes(arrays, wanted)
                state = serialization.from_state_dict(template, arrays)
            except BucketError:
                raise
            except Exception as error:  # orbax raises many types
                fault = reason(error) if path.exists() else _GONE
            faults = parallel.gather_texts(fault)
            if faults[0] == _GONE:
                continue  # deleted by the run that is training, which has newer ones
            if faults[0]:
                damaged[step] = faults[0]
                log.warning("checkpoint %d in %s is damaged (%s)", step, self._folder, faults[0])
                continue
            if any(faults):
                process = next(i for i, fault in enumerate(faults) if fault)
                raise CheckpointError(
                    f"process {process} cannot read checkpoint {step} in {self._folder}, which process 0 has read: "
                    f"{faults[process]}. All processes must see the same --workdir"
                )
            if damaged:
                log.warning("falling back to checkpoint %d", step)
                self._move_aside(list(damaged))
            if which == "newest" and not self._read_only and jax.process_index() == 0:
                self._delete_old()  # those that a kill after the last save has left behind
            return state
        if damaged:
            raise CheckpointError(
                f"no checkpoint in {self._folder} can be read (tried steps {sorted(damaged)}). If the code of the "
                "network or the optimizer has changed, restore it, or start over with another --workdir"
            )
        return None

    def _agreed(self, which: str) -> list[int]:
        """Returns the steps to try as process 0 sees them: others may see a new checkpoint later."""
        return json.loads(parallel.gather_texts(json.dumps(self._find(which)))[0])

    def _find(self, which: str) -> list[int]:
        """Returns the steps to try, in this order."""
        steps = self.steps()
        if which == "newest":
            return steps[::-1]
        if which == "best":
            best = self.best_step()
            if best is None and steps:
                raise CheckpointError(
                    f"no checkpoint in {self._folder} has a value of {self._best_metric}; choose newest or a step"
                )
            return [] if best is None else [best]
        if not which.isdecimal():
            raise ValueError(f"checkpoint {which!r}; expected newest, best, initial or a step")
        if int(which) not in steps:
            raise CheckpointError(f"no checkpoint of step {which} in {self._folder}; available: {steps or 'none'}")
        return [int(which)]

    def close(self) -> None:
        """Waits for the pending write.

        Raises:
            CheckpointError: the last checkpoint could not be written.
        """
        try:
            self._wait()
        finally:
            self._writer.shutdown()

    def _prepare(self, logged: Callable[[int], dict[str, float] | None]) -> None:
        if jax.process_index() == 0:
            try:
                self._files.prepare(logged)
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
        remaining = f"The checkpoint of step {steps[-1]} remains" if steps else "There is no checkpoint yet"
        advice = "; free some space and " if FULL.search(reason(error)) else "; make the folder writable and "
        return CheckpointError(
            f"could not write a checkpoint in {self._folder}: {reason(error)}. "
            + ("The folder no longer exists; " if steps is None else remaining + advice)
            + "run the same command again"
        )


def check_workdir(workdir: pathlib.Path) -> None:
    """Raises a CheckpointError if checkpoints cannot be stored in a working directory because of its path."""
    folder = CheckpointFolder(workdir).path
    problem = orbax_compat.unfit(folder)
    if problem is not None:
        raise CheckpointError(
            f"checkpoints cannot be stored in {str(folder)!r}: the path {problem}; use another --workdir"
        )
