"""Traces steps of a run with JAX's profiler."""

import logging
import pathlib
from types import TracebackType

import jax
from jaxtyping import PyTree

FOLDER = "profile"  # in the working directory

log = logging.getLogger(__name__)


def parse_steps(text: str | None) -> range:
    """The steps of `config.profile`: "10:15" are the steps 10 to 15; None are no steps.

    Raises:
        ValueError: the text is not two steps joined by a colon.
    """
    if text is None:
        return range(0)
    first, colon, last = text.partition(":")
    if not (colon and first.isdecimal() and last.isdecimal() and 1 <= int(first) <= int(last)):
        raise ValueError(f"config.profile={text!r}; expected the first and the last step to trace, such as '10:15'")
    return range(int(first), int(last) + 1)


class Profiler:
    """Writes a trace of some steps to `profile/` in a working directory. Use it as a context manager.

    Args:
        steps: the steps to trace. Step 1 includes compilation.
        workdir: the working directory.
    """

    def __init__(self, steps: range, workdir: pathlib.Path):
        self._steps, self._folder = steps, workdir / FOLDER
        self._is_tracing = False

    def __enter__(self) -> "Profiler":
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self._stop()

    def before(self, step: int) -> None:
        """Starts the trace if it begins with this step, or if a resumed run begins within it."""
        if step in self._steps and not self._is_tracing:
            jax.profiler.start_trace(self._folder)
            self._is_tracing = True

    def after(self, step: int, state: PyTree) -> None:
        """Ends the trace if it ends with this step, once the devices have computed `state`."""
        if self._is_tracing and step == self._steps[-1]:
            jax.block_until_ready(state)
            self._stop()

    def _stop(self) -> None:
        if self._is_tracing:
            self._is_tracing = False
            jax.profiler.stop_trace()
            log.info("wrote a trace to %s; view it with XProf or TensorBoard", self._folder)
