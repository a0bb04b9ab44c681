"""The configuration that a working directory belongs to."""

import json
import pathlib
from typing import Any

import ml_collections
import numpy as np

from mtan_jax.config import FREE_FIELDS

# Where a function of the step is written down: far enough apart to tell any two schedules in use from each other.
SAMPLED_STEPS = (0, 1, 10, 100, 1000, 10_000, 100_000)


class WorkdirError(ValueError):
    """The working directory belongs to another configuration."""


def claim(workdir: pathlib.Path, config: ml_collections.ConfigDict, *, write: bool) -> None:
    """Writes `config.json`, or checks that the one there says the same.

    Fields that do not change results (`mtan_jax.config.FREE_FIELDS`) may differ.

    Args:
        workdir: made if it is not there.
        config: of this run.
        write: whether this process writes.

    Raises:
        WorkdirError: the directory has another configuration; the message shows the difference.
    """
    path = workdir / "config.json"
    ours = flatten(config)
    if not path.exists():
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
        for name in sorted(ours.keys() | theirs.keys())
        if name not in FREE_FIELDS and ours.get(name) != theirs.get(name)
    ]
    if different:
        lines = [f"  config.{name}: {theirs.get(name)!r} there, {ours.get(name)!r} here" for name in different]
        raise WorkdirError(
            f"{workdir} belongs to a run with another configuration:\n" + "\n".join(lines) + "\n"
            "Use another --workdir, or the same configuration."
        )


def flatten(config: ml_collections.ConfigDict, prefix: str = "") -> dict[str, Any]:
    """All fields by dotted name, as JSON has them."""
    flat: dict[str, Any] = {}
    for name in config:
        value = config.get(name)
        if isinstance(value, ml_collections.ConfigDict):
            flat |= flatten(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = _as_json(value)
    return flat


def _as_json(value: Any) -> Any:
    if isinstance(value, tuple | list):
        return [_as_json(item) for item in value]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if callable(value):
        # A name would not tell two schedules of one kind apart.
        return {"function of the step": {str(step): float(np.asarray(value(step))) for step in SAMPLED_STEPS}}
    return getattr(value, "name", None) or str(value)
