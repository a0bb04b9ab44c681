"""Checkpoints with orbax: the whole state, its checksum and the metrics; the only file that knows orbax.

The position in the data is not stored: batches are a function of seed and step (`mtan_jax.data.pipeline`), and the
step is part of the state. So a run may be resumed on another number of processes and workers.
"""

import logging
import pathlib
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


class CheckpointError(RuntimeError):
    """A checkpoint could not be written or read; the message says which, why, and what still stands."""


class Checkpoints:
    """The checkpoints of a working directory: the newest ones and the best.

    Args:
        workdir: they lie in its folder `checkpoints`.
        keep: how many of the newest stay.
        best_metric: the one with the best value of this metric stays too.
        higher_is_better: direction of `best_metric`.
    """

    def __init__(self, workdir: pathlib.Path, *, keep: int, best_metric: str, higher_is_better: bool):
        if keep < 1:
            raise ValueError(
                f"config.checkpoint.keep = {keep}: at least 1 must stay, or there is nothing to resume from"
            )
        self._folder = pathlib.Path(workdir).absolute() / FOLDER
        self._best_metric, self._higher_is_better = best_metric, higher_is_better
        policies = ocp.training.preservation_policies
        best = policies.BestN(
            get_metric_fn=lambda metrics: metrics[best_metric],
            reverse=not higher_is_better,
            n=1,
            keep_checkpoints_without_metrics=False,
        )
        self._checkpointer = ocp.training.Checkpointer(
            self._folder,
            preservation_policy=policies.AnyPreservationPolicy([policies.LatestN(keep), best]),
            cleanup_tmp_directories=True,
        )

    def steps(self) -> list[int]:
        """Steps of the checkpoints, oldest first."""
        return sorted(checkpoint.step for checkpoint in self._checkpointer.checkpoints)

    def best_step(self) -> int | None:
        """Step of the checkpoint with the best value of the metric; None where none was evaluated."""
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
        # pmap's outputs live on one process' devices; as NumPy arrays, process 0 writes them.
        arrays = jax.tree.map(np.asarray, serialization.to_state_dict(jax.device_get(state)))
        step = int(arrays["step"])
        finite = metrics is not None and np.isfinite(metrics.get(self._best_metric, np.nan))
        try:
            self._checkpointer.save_async(
                step,
                arrays,
                metrics=metrics if finite else None,
                custom_metadata={"crc32": checksum(arrays)},
                force=True,  # otherwise orbax skips a step while another is being written
                overwrite=True,
            )
        except Exception as error:
            raise self._not_written(error) from error

    def restore(self, template: TrainState, step: int | None = None) -> TrainState | None:
        """Reads a checkpoint.

        Args:
            template: a state of the same structure.
            step: which; None: the newest that is whole. Damaged ones that are newer are reported and moved aside.

        Returns:
            The state on the devices of this process, or None where there are no checkpoints.

        Raises:
            CheckpointError: the checkpoint asked for is not there or damaged, or all are.
        """
        steps = self.steps()
        if step is not None and step not in steps:
            raise CheckpointError(f"no checkpoint of step {step} in {self._folder}; there are: {steps or 'none'}")
        wanted = [step] if step is not None else steps[::-1]
        damaged: dict[int, str] = {}
        for candidate in wanted:
            try:
                state = self._read(candidate, template)
            except Exception as error:  # orbax raises many kinds
                damaged[candidate] = _first_line(error)
                logging.getLogger(__name__).warning(
                    "checkpoint %d in %s is damaged (%s)", candidate, self._folder, damaged[candidate]
                )
                continue
            if damaged:
                self._move_aside(list(damaged))
                logging.getLogger(__name__).warning(
                    "falling back to checkpoint %d; damaged ones were moved to %s",
                    candidate,
                    self._folder.parent / DAMAGED_FOLDER,
                )
            return parallel.place_state(state)
        if damaged:
            reasons = "; ".join(f"step {key}: {reason}" for key, reason in damaged.items())
            raise CheckpointError(
                f"no checkpoint in {self._folder} can be read ({reasons}). If the network's or the optimiser's code "
                "has changed, go back to it; to start anew, use another --workdir"
            )
        return None

    def close(self) -> None:
        """Waits until everything is written.

        Raises:
            CheckpointError: the last checkpoint could not be written.
        """
        try:
            self._checkpointer.close()
        except Exception as error:
            raise self._not_written(error) from error

    def _read(self, step: int, template: TrainState) -> TrainState:
        shapes = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), serialization.to_state_dict(template))
        arrays = self._checkpointer.load(step, shapes)
        stored = self._checkpointer.metadata(step).custom_metadata
        if not stored or stored.get("crc32") != checksum(arrays):
            raise ValueError("its arrays differ from those that were saved")
        return serialization.from_state_dict(template, arrays)

    def _move_aside(self, steps: list[int]) -> None:
        if jax.process_index() == 0:
            target = self._folder.parent / DAMAGED_FOLDER
            target.mkdir(exist_ok=True)
            for step in steps:
                name, copies = str(step), 0
                while (target / name).exists():
                    copies += 1
                    name = f"{step}.{copies}"
                (self._folder / str(step)).rename(target / name)
        parallel.wait_for_all("damaged checkpoints moved")
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


def _first_line(error: BaseException) -> str:
    cause: BaseException = error
    while cause.__cause__ is not None:
        cause = cause.__cause__
    return f"{type(cause).__name__}: {cause}".strip().splitlines()[0][:300]
