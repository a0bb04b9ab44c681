"""Shows the progress of training: a bar in terminals and notebooks, plain lines elsewhere."""

import contextlib
import logging
import sys
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tqdm import tqdm

log = logging.getLogger(__name__)

SECONDS_BETWEEN_LINES = 30.0  # of plain progress lines
COMPILING = "compiling the training step; this takes 10 s to several minutes, less if it is cached"


class Progress:
    """Sink that shows the completed steps, the latest training losses, the step rate and the remaining time.

    The first step includes compilation, so the rate and the remaining time are measured from the second step on.
    Metrics of splits other than "train" are logged as they arrive.

    Args:
        first_step: steps completed before this run starts or resumes.
        total_steps: steps completed when the run ends.
    """

    def __init__(self, first_step: int, total_steps: int):
        self._total_steps = total_steps
        self._step = first_step
        self._losses: dict[str, float] = {}
        self._bar: tqdm | None = None
        self._timed_from: tuple[int, float] | None = None  # step and time when the first step was done
        self._line_time = 0.0
        self._closing = contextlib.ExitStack()
        if first_step < total_steps:
            log.info(COMPILING)

    def write(self, step: int, split: str, metrics: Mapping[str, float]) -> None:
        """Keeps the losses of the split "train"; logs the metrics of other splits."""
        if split != "train":
            log.info("step %d, %s: %s", step, split, _format({k: v for k, v in metrics.items() if k != "epoch"}))
            return
        self._losses = {name: value for name, value in metrics.items() if name.endswith("/loss")}
        if self._bar is not None:
            self._bar.set_postfix_str(_format(self._losses), refresh=False)

    def advance(self, step: int) -> None:
        """Shows that `step` steps are completed."""
        if self._timed_from is None:
            self._timed_from = (step, time.monotonic())
            self._line_time = self._timed_from[1]
            self._open_bar(step)
        if self._bar is not None:
            self._bar.update(step - self._step)
        elif time.monotonic() - self._line_time > SECONDS_BETWEEN_LINES or step == self._total_steps:
            self._line_time = time.monotonic()
            log.info("%s", self._line(step, *self._timed_from))
        self._step = step

    def close(self) -> None:
        """Closes the bar."""
        self._closing.close()

    def _open_bar(self, step: int) -> None:
        if not (sys.stderr.isatty() or _in_notebook()):
            return
        from tqdm.auto import tqdm
        from tqdm.contrib.logging import logging_redirect_tqdm

        bar = tqdm(initial=step, total=self._total_steps, unit="step", dynamic_ncols=True)
        self._bar = self._closing.enter_context(bar)
        self._step = step
        self._closing.enter_context(logging_redirect_tqdm(tqdm_class=tqdm))  # log lines appear above the bar
        self._bar.set_postfix_str(_format(self._losses))

    def _line(self, step: int, timed_from_step: int, timed_from: float) -> str:
        from tqdm import tqdm

        parts = [f"step {step}/{self._total_steps}"]
        if self._losses:
            parts.append(_format(self._losses))
        if step > timed_from_step:
            rate = (step - timed_from_step) / max(self._line_time - timed_from, 1e-9)
            left = tqdm.format_interval((self._total_steps - step) / rate)
            parts.append(f"{rate:.3g} steps/s, {left} left")
        return ", ".join(parts)


def _in_notebook() -> bool:
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    return shell is not None and "IPKernelApp" in shell.config


def _format(values: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {value:.4g}" for name, value in values.items())
