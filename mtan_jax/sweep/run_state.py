"""The state of a run, read from its working directory."""

import dataclasses
import pathlib
from collections.abc import Mapping
from typing import Literal, TypeAlias

from mtan_jax.reporting.metrics_file import METRICS_FILE, Line, read_metrics
from mtan_jax.reporting.report_files import has_report
from mtan_jax.runtime import lock
from mtan_jax.sweep.command import Command
from mtan_jax.training import workdir

OUTPUT_FILE = "output.log"  # what the process of a run wrote to its terminal

_NO_TASKS = ("weights", "telemetry")  # what else stands before the '/' in the name of a metric

State: TypeAlias = Literal["waiting", "running", "running elsewhere", "complete", "failed", "stopped"]


@dataclasses.dataclass(frozen=True)
class Progress:
    """How far a run has come.

    Attributes:
        step: of the last row in `metrics.jsonl`.
        fraction: of the run's duration at that step, 0 to 1.
        metrics: of the last evaluation, or the losses of the last training window before the first evaluation.
    """

    step: int = 0
    fraction: float = 0.0
    metrics: Mapping[str, float] = dataclasses.field(default_factory=dict)


def read_progress(command: Command) -> Progress:
    """Reads how far a run has come.

    Raises:
        ValueError: `metrics.jsonl` is damaged.
    """
    path = command.workdir / METRICS_FILE
    lines = read_metrics(path) if path.is_file() else []
    if not lines:
        return Progress()
    evaluated = [line for line in lines if line["split"] == "val"]
    last = max(lines, key=lambda line: line["step"])
    return Progress(last["step"], _fraction(command, last), _metrics((evaluated or lines)[-1]))


def is_complete(command: Command) -> bool:
    """Whether a run is complete, so that its command has nothing to do.

    Raises:
        WorkdirError: the working directory belongs to a run with another configuration.
        ValueError: `metrics.jsonl` is damaged.
    """
    if not has_report(command.workdir):
        return False
    workdir.claim(command.workdir, command.config, write=False)
    return True


def is_in_use(command: Command) -> bool:
    """Whether a process trains in the working directory of a run."""
    return lock.is_held(command.workdir / workdir.LOCK_FILE)


def last_message(path: pathlib.Path) -> str:
    """The last error in the output of a process, or its last line."""
    text = path.read_text(errors="replace") if path.is_file() else ""  # the folder may have been deleted
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("error: ")]
    return (errors or lines or ["(no output)"])[-1].removeprefix("error: ")


def _fraction(command: Command, line: Line) -> float:
    number, _, unit = command.config.duration.strip().partition(" ")
    done = {
        "step": line["step"],
        "epoch": line["epoch"],
        "example": line["step"] * command.config.batch_size,
    }[unit.strip().removesuffix("s")]
    return min(done / float(number), 1.0)


def _metrics(line: Line) -> dict[str, float]:
    """The first metric of each task besides its loss, or the loss if there is no other; or the means over tasks."""
    names = [name for name in line if "/" in name and name.partition("/")[0] not in _NO_TASKS]
    means = [name for name in names if name.startswith("mean/") and not name.endswith("/loss")]
    found: dict[str, str] = {}
    for name in means or sorted(names, key=lambda name: name.endswith("/loss")):
        found.setdefault(name if means else name.partition("/")[0], name)
    return {name: line[name] for name in names if name in found.values()}
