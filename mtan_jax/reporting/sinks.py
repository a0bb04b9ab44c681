"""Passes each row of metrics to all sinks of a run."""

import contextlib
import logging
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol

import jax

from mtan_jax.reporting.metrics_file import MetricsFile
from mtan_jax.reporting.progress import Progress
from mtan_jax.reporting.tensorboard import TensorBoard

log = logging.getLogger(__name__)


class Sink(Protocol):
    """Destination of metrics: any object with this method, such as an adapter of an experiment tracker.

    If the object also has a method `close`, it is called when the run ends.
    """

    def write(self, step: int, split: str, metrics: Mapping[str, float]) -> None:
        """Receives one row of metrics.

        Args:
            step: completed steps.
            split: the split that the metrics were computed on, such as "train" or "val".
            metrics: numbers by name as in `metrics.jsonl`, such as "epoch", "semantic/loss" and "steps_per_second".
                They may be NaN.
        """
        ...


class MetricWriter:
    """Writes each row of metrics to all sinks and advances the progress display. Made by `open_sinks`."""

    def __init__(self, sinks: Sequence[Sink], progress: Progress | None = None):
        self._sinks = sinks
        self._progress = progress

    def write(self, step: int, epoch: float, split: str, metrics: Mapping[str, float]) -> None:
        """Writes a row to every sink at once.

        Args:
            step: completed steps.
            epoch: the same length in epochs.
            split: the split that the metrics were computed on, such as "train" or "val".
            metrics: numbers by name, such as "semantic/loss".
        """
        for sink in self._sinks:
            sink.write(step, split, {"epoch": float(epoch), **{name: float(value) for name, value in metrics.items()}})

    def advance(self, step: int) -> None:
        """Shows that `step` steps are completed."""
        if self._progress is not None:
            self._progress.advance(step)


@contextlib.contextmanager
def open_sinks(
    workdir: pathlib.Path, first_step: int, total_steps: int, extra: Sequence[Sink] = ()
) -> Iterator[MetricWriter]:
    """Opens the sinks of a training run: `metrics.jsonl`, TensorBoard, progress, and the user's own.

    Only process 0 writes; the writer of other processes does nothing. A resumed run writes rows from the step it
    resumes from on: `metrics.jsonl` and TensorBoard drop the later rows of the interrupted run, and the user's sinks
    receive each row of this run once.

    If a user's sink raises an exception, the exception is logged and the sink receives nothing more: an unreachable
    logging service must not end a training run of days. Errors of `metrics.jsonl` and TensorBoard end the run.

    Args:
        workdir: created if missing.
        first_step: steps completed before this run starts or resumes.
        total_steps: steps completed when the run ends.
        extra: the user's sinks.

    Raises:
        TypeError: one of `extra` has no method `write`.
        ValueError: `metrics.jsonl` is damaged.
    """
    for sink in extra:
        if not callable(getattr(sink, "write", None)):
            raise TypeError(f"sink {sink!r} has no method write(step, split, metrics)")
    if jax.process_index() > 0:
        yield MetricWriter(())
        return
    workdir.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        metrics_file = stack.enter_context(contextlib.closing(MetricsFile(workdir, first_step)))
        events = stack.enter_context(contextlib.closing(TensorBoard(workdir, first_step)))
        progress = stack.enter_context(contextlib.closing(Progress(first_step, total_steps)))
        users = [stack.enter_context(contextlib.closing(_UserSink(sink))) for sink in extra]
        yield MetricWriter((metrics_file, events, progress, *users), progress)


class _UserSink:
    """Wraps a user's sink so that its exceptions do not end the run."""

    def __init__(self, sink: Sink):
        self._sink = sink
        self._has_failed = False

    def write(self, step: int, split: str, metrics: Mapping[str, float]) -> None:
        if self._has_failed:
            return
        try:
            self._sink.write(step, split, metrics)
        except Exception:  # a sink may raise anything
            self._has_failed = True
            log.warning(
                "the sink %s failed at step %d and receives no more metrics; training continues",
                type(self._sink).__name__,
                step,
                exc_info=True,
            )

    def close(self) -> None:
        close = getattr(self._sink, "close", None)
        if close is None:
            return
        try:
            close()
        except Exception:  # a sink may raise anything
            log.warning("the sink %s failed to close", type(self._sink).__name__, exc_info=True)
