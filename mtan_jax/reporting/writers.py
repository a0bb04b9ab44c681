"""What a run reports: `metrics.jsonl`, TensorBoard event files, and a progress bar or plain lines."""

import contextlib
import json
import logging
import math
import os
import pathlib
import sys
import time
from collections.abc import Mapping
from typing import Any

from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from mtan_jax.reporting.event_file import EventFile

log = logging.getLogger(__name__)

METRICS_FILE = "metrics.jsonl"
# Measurements of the machine, not of the network: they differ from run to run.
TIMING = ("steps_per_second", "seconds")
# Between two progress lines where there is no terminal to draw a bar on.
SECONDS_BETWEEN_LINES = 30.0


class MetricWriter:
    """Writes the metrics of a run, and shows how far it is. Use it as a context manager.

    A line of `metrics.jsonl` is a JSON object: "step", "epoch", "split", then the metrics by name, then timing.
    Numbers read back exactly; one that is not finite is written as null, because JSON has no NaN. TensorBoard has the
    same numbers as "split/name".

    A run that resumes drops what was logged after its first step, since it logs that again.

    Args:
        workdir: made if it is not there.
        first_step: steps done before.
        total_steps: steps at the end of the run.
        enabled: False on processes that should write nothing.
    """

    def __init__(self, workdir: pathlib.Path, *, first_step: int, total_steps: int, enabled: bool = True):
        self._enabled = enabled
        self._total_steps = total_steps
        self._step = self._first_step = first_step
        self._latest: dict[str, float | None] = {}
        self._start_time = self._line_time = time.monotonic()
        self._bar: tqdm | None = None
        self._closing = contextlib.ExitStack()
        if not enabled:
            return
        workdir.mkdir(parents=True, exist_ok=True)
        truncate_after(workdir / METRICS_FILE, first_step)
        self._lines = self._closing.enter_context((workdir / METRICS_FILE).open("a"))
        self._events = self._closing.enter_context(contextlib.closing(EventFile(workdir, first_step)))
        if sys.stderr.isatty():
            self._bar = self._closing.enter_context(
                tqdm(initial=first_step, total=total_steps, unit="step", dynamic_ncols=True)
            )
            self._closing.enter_context(logging_redirect_tqdm())  # log lines go above the bar

    def __enter__(self) -> "MetricWriter":
        return self

    def __exit__(self, *error: object) -> None:
        self._closing.close()

    def write(
        self,
        step: int,
        epoch: float,
        split: str,
        metrics: Mapping[str, float],
        timing: Mapping[str, float] | None = None,
    ) -> None:
        """Writes one line, at once.

        Args:
            step: steps done.
            epoch: the same in epochs.
            split: which the metrics were computed on, such as "train" or "val".
            metrics: numbers by name, such as "semantic/loss".
            timing: measurements of the machine, by names of `TIMING`.
        """
        if unknown := [name for name in timing or {} if name not in TIMING]:
            raise ValueError(f"timing has {unknown[0]!r}; known: {', '.join(TIMING)}.")
        if not self._enabled:
            return
        values = {name: _finite(value) for name, value in {**metrics, **(timing or {})}.items()}
        line = {"step": int(step), "epoch": float(epoch), "split": split, **values}
        self._lines.write(json.dumps(line, allow_nan=False) + "\n")
        self._lines.flush()
        known = {f"{split}/{name}": value for name, value in values.items() if value is not None}
        self._events.add_scalars(known, step)
        if split == "train":
            self._latest = {name: values[name] for name in values if name.endswith("/loss")}
            if self._bar is not None:
                self._bar.set_postfix_str(_join(self._latest), refresh=False)
        else:
            log.info("step %d, %s: %s", step, split, _join(values))

    def advance(self, step: int) -> None:
        """Shows that so many steps are done."""
        if not self._enabled:
            return
        if self._bar is not None:
            self._bar.update(step - self._step)
        elif time.monotonic() - self._line_time > SECONDS_BETWEEN_LINES or step == self._total_steps:
            self._line_time = time.monotonic()
            log.info("%s", self._progress(step, self._line_time - self._start_time))
        self._step = step

    def _progress(self, step: int, seconds: float) -> str:
        rate = (step - self._first_step) / max(seconds, 1e-9)
        left = tqdm.format_interval((self._total_steps - step) / rate) if rate else "?"
        losses = f", {_join(self._latest)}" if self._latest else ""
        return f"step {step}/{self._total_steps}{losses}, {rate:.3g} steps/s, {left} left"


def truncate_after(path: pathlib.Path, step: int) -> None:
    """Drops the lines of a metrics file that tell of later steps, and a last line that was not written to its end.

    Raises:
        ValueError: a line before the last is damaged.
    """
    if not path.exists():
        return
    text = path.read_text()
    kept = "".join(json.dumps(line) + "\n" for line in _parse(text, path) if line["step"] <= step)
    if kept != text:
        partial = path.with_suffix(".tmp")
        with partial.open("w") as file:
            file.write(kept)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)


def read_metrics(path: pathlib.Path, *, timing: bool = True) -> list[dict[str, Any]]:
    """Reads a metrics file; null (not finite) comes back as NaN.

    Args:
        path: of `metrics.jsonl`.
        timing: False leaves out the measurements of the machine, so that two runs can be compared.
    """
    return [
        {name: math.nan if value is None else value for name, value in line.items() if timing or name not in TIMING}
        for line in _parse(path.read_text(), path)
    ]


def _parse(text: str, path: pathlib.Path) -> list[dict[str, Any]]:
    lines, parsed = text.splitlines(), []
    for number, line in enumerate(lines, start=1):
        try:
            parsed.append(json.loads(line))
        except json.JSONDecodeError as error:
            if number == len(lines):
                break  # the program was killed while it wrote this line
            raise ValueError(f"{path}, line {number} is damaged ({error}); remove the line.") from error
    return parsed


def _finite(value: float) -> float | None:
    value = float(value)
    return value if math.isfinite(value) else None


def _join(values: Mapping[str, float | None]) -> str:
    return ", ".join(f"{name} {math.nan if value is None else value:.4g}" for name, value in values.items())
