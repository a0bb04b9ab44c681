"""The configuration that a working directory belongs to."""

import json
import math
import pathlib
from typing import Any

import ml_collections
import numpy as np

from mtan_jax.checkpoint import FOLDER
from mtan_jax.config import FREE_FIELDS
from mtan_jax.writers import METRICS_FILE

# Where a function of the step is written down: every 10 %, as far as a million steps.
SAMPLED_STEPS = tuple(sorted({0, *(round(1.1**i) for i in range(146))}))
SAMPLE = " at step "
LISTED_DIFFERENCES = 12


class WorkdirError(ValueError):
    """The working directory belongs to another configuration."""


def claim(workdir: pathlib.Path, config: ml_collections.ConfigDict, *, write: bool) -> None:
    """Writes `config.json`, or checks that the one there says the same.

    Fields that do not change results (`mtan_jax.config.FREE_FIELDS`) may differ. A directory in which no run came as
    far as a log line or a checkpoint belongs to nobody: its `config.json` is replaced.

    Args:
        workdir: made if it is not there.
        config: of this run.
        write: whether this process writes.

    Raises:
        WorkdirError: the directory has another configuration; the message shows the difference.
    """
    path = workdir / "config.json"
    ours = flatten(config)
    if not path.exists() or not holds_results(workdir):
        if write:
            workdir.mkdir(parents=True, exist_ok=True)
            partial = path.with_suffix(".tmp")
            partial.write_text(json.dumps(ours, indent=2) + "\n")
            partial.replace(path)
        return
    try:
        theirs = json.loads(path.read_text())
    except json.JSONDecodeError as error:
        raise WorkdirError(f"{path} is damaged ({error}); remove it, or use another --workdir") from error
    different = [
        name
        for name in dict.fromkeys([*ours, *theirs])
        if name not in FREE_FIELDS and not _same(name, ours.get(name), theirs.get(name))
    ]
    if different:
        lines = [f"  config.{name}: {theirs.get(name)!r} there, {ours.get(name)!r} here" for name in different]
        if len(lines) > LISTED_DIFFERENCES:
            lines[LISTED_DIFFERENCES:] = [f"  and {len(lines) - LISTED_DIFFERENCES} more"]
        raise WorkdirError(
            f"{workdir} belongs to a run with another configuration:\n" + "\n".join(lines) + "\n"
            "Use another --workdir, or the same configuration."
        )


def holds_results(workdir: pathlib.Path) -> bool:
    """Whether a run came as far as a log line or a checkpoint."""
    metrics = workdir / METRICS_FILE
    return any((workdir / FOLDER).glob("*")) or (metrics.exists() and metrics.stat().st_size > 0)


def _same(name: str, ours: Any, theirs: Any) -> bool:
    if SAMPLE in name and None not in (ours, theirs):
        return math.isclose(ours, theirs, rel_tol=1e-4, abs_tol=1e-7)  # other devices round schedules in another way
    return ours == theirs


def flatten(config: ml_collections.ConfigDict, prefix: str = "") -> dict[str, Any]:
    """All fields by dotted name, as JSON has them; a function of the step as its values at `SAMPLED_STEPS`."""
    flat: dict[str, Any] = {}
    for name in config:
        value = config.get(name)
        if isinstance(value, ml_collections.ConfigDict):
            flat |= flatten(value, f"{prefix}{name}.")
        elif callable(value):
            # A name would not tell two schedules of one kind apart.
            flat |= {f"{prefix}{name}{SAMPLE}{step}": float(np.asarray(value(step))) for step in SAMPLED_STEPS}
        else:
            flat[prefix + name] = _as_json(value)
    return flat


def _as_json(value: Any) -> Any:
    if isinstance(value, tuple | list):
        return [_as_json(item) for item in value]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    return getattr(value, "name", None) or str(value)
