"""Working directories: one configuration, one dataset and one training run at a time."""

import contextlib
import functools
import inspect
import json
import math
import pathlib
import zlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from mtan_jax.config import FREE_FIELDS
from mtan_jax.data.dataset_record import DataRecord
from mtan_jax.reporting.writers import METRICS_FILE
from mtan_jax.runtime import lock, paths
from mtan_jax.runtime.checkpoint import check_workdir
from mtan_jax.runtime.checkpoint_folder import CheckpointFolder
from mtan_jax.weighting.balancers.schedule import in_order

# Where a function of the step is written down: every 10 %, as far as a million steps.
SAMPLED_STEPS = tuple(sorted({0, *(round(1.1**i) for i in range(146))}))
SAMPLE = " at step "
DATA_FILE = "data.json"  # what the run keeps of its dataset
LISTED_DIFFERENCES = 12
LOCK_FILE = ".lock"


class WorkdirError(ValueError):
    """The working directory belongs to another configuration or another dataset."""


@contextlib.contextmanager
def own(workdir: pathlib.Path) -> Iterator[Callable[[], None]]:
    """Keeps every other training run out of a working directory while the context is open.

    Where several processes train together, process 0 owns it for all of them. Reading needs no ownership.

    Args:
        workdir: made where it is missing.

    Yields:
        A function that raises a WorkdirError where the directory has been deleted, moved or replaced since: another
        run may own the one that has its name now.

    Raises:
        LockedError: another run trains there; the message names it.
        PathError: it cannot be written.
        CheckpointError: checkpoints cannot be kept below its path.
    """
    if jax.distributed.is_initialized() and jax.process_index() > 0:  # the index alone would start the devices
        yield lambda: None
        return
    paths.check_folder(workdir, "--workdir", write=True)
    check_workdir(workdir)
    remedy = "Wait until it ends, stop it, or use another --workdir."
    with lock.hold(workdir / LOCK_FILE, f"the working directory {workdir}", wait=False, remedy=remedy) as held:

        def check() -> None:
            if held.is_lost():
                raise WorkdirError(
                    f"the working directory {workdir} was deleted, moved or replaced while this run trained in it, so "
                    "the run ends. Move the directory back and run the same command again, or use another --workdir."
                )

        yield check


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
        CheckpointError: checkpoints cannot be kept below its path.
    """
    check_workdir(workdir)
    path = workdir / "config.json"
    ours = flatten(config)
    if not path.exists() or not holds_results(workdir):
        if write:
            workdir.mkdir(parents=True, exist_ok=True)
            _write(path, json.dumps(ours, indent=2) + "\n")
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
        lines = [f"config.{name}: {theirs.get(name)!r} there, {ours.get(name)!r} here" for name in different]
        raise WorkdirError(
            f"{workdir} belongs to a run with another configuration:\n{_listed(lines)}\n"
            "Use another --workdir, or the same configuration."
        )


def claim_data(workdir: pathlib.Path, record: DataRecord, *, write: bool) -> None:
    """Writes `data.json`, or checks that the one there says the same.

    Args:
        workdir: made where it is missing.
        record: of the prepared dataset.
        write: whether this process writes.

    Raises:
        WorkdirError: the run was trained on another dataset, or the file is damaged.
    """
    kept = read_data(workdir)
    if kept is None:
        if write:
            workdir.mkdir(parents=True, exist_ok=True)
            _write(workdir / DATA_FILE, record.to_json())
        return
    if different := kept.differences(record):
        raise WorkdirError(
            f"the dataset is not the one that the run in {workdir} was trained on ({DATA_FILE}):\n{_listed(different)}"
            "\nUse another --workdir (--config.model.init_from takes over this one's network), or the same dataset."
        )


def read_data(workdir: pathlib.Path) -> DataRecord | None:
    """What the run in a working directory keeps of its dataset; None where no run left results or a record.

    Raises:
        WorkdirError: `data.json` cannot be read.
    """
    path = workdir / DATA_FILE
    if not path.exists() or not holds_results(workdir):
        return None
    try:
        return DataRecord.from_json(path.read_text())
    except ValueError as error:
        raise WorkdirError(
            f"{path} is damaged ({error}); delete it, and run the training command again where the dataset is: that "
            "writes it anew"
        ) from error


def _write(path: pathlib.Path, text: str) -> None:
    partial = path.with_suffix(".tmp")
    partial.write_text(text)
    partial.replace(path)


def _listed(lines: list[str]) -> str:
    if len(lines) > LISTED_DIFFERENCES:
        lines = [*lines[:LISTED_DIFFERENCES], f"and {len(lines) - LISTED_DIFFERENCES} more"]
    return "\n".join(f"  {line}" for line in lines)


def holds_results(workdir: pathlib.Path) -> bool:
    """Whether a run came as far as a log line or a checkpoint."""
    metrics = workdir / METRICS_FILE
    return bool(CheckpointFolder(workdir).steps()) or (metrics.exists() and metrics.stat().st_size > 0)


def _same(name: str, ours: Any, theirs: Any) -> bool:
    if name == "data.options.layout" and "auto" in (ours, theirs):
        return True  # `data.json` has the layout that was found
    if SAMPLE not in name or None in (ours, theirs) or np.shape(ours) != np.shape(theirs):
        return ours == theirs
    return np.allclose(ours, theirs, rtol=1e-4, atol=1e-7, equal_nan=True)  # other devices round in another way


def flatten(config: ml_collections.ConfigDict) -> dict[str, Any]:
    """All fields by dotted name, as JSON has them.

    A schedule becomes its values at `SAMPLED_STEPS`, because its name would not tell two of one kind apart: one of the
    step, or one of step and losses, which is tried with losses that fall from 10 to 0.01 as training goes on. Any other
    function becomes its name and a checksum of its source, with comments and without what it refers to.
    """
    return _flatten("", config, tuple(getattr(task, "name", task) for task in config.tasks))


def _flatten(name: str, value: Any, tasks: tuple[str, ...]) -> dict[str, Any]:
    parts: dict[str, Any] = {}
    if isinstance(value, ml_collections.ConfigDict | Mapping):
        for key in value:
            item, path = value.get(key), f"{name}.{key}" if name else key
            parts |= _values(path, item, tasks) if callable(item) else _flatten(path, item, tasks)
    elif isinstance(value, tuple | list) and _holds_options(value):
        for i, item in enumerate(value):
            parts |= _flatten(f"{name}[{i}]", item, tasks)
    else:
        parts[name] = _describe(value) if callable(value) else _as_json(value)
    return parts


def _holds_options(value: Any) -> bool:
    """Whether there is a mapping or a function in a sequence, however deep."""
    if isinstance(value, tuple | list):
        return any(map(_holds_options, value))
    return callable(value) or isinstance(value, ml_collections.ConfigDict | Mapping)


def _values(name: str, function: Callable, tasks: tuple[str, ...]) -> dict[str, Any]:
    """Of a function that is an option: its values if it is a schedule, or its description."""
    try:
        if _takes(function, 1):
            steps = {f"{name}{SAMPLE}{step}": function(jnp.asarray(step, jnp.int32)) for step in SAMPLED_STEPS}
            return {key: _digits(np.asarray(value)) for key, value in steps.items()}
        return _values_of_all(name, function, tasks)
    except Exception:  # it takes something else, such as the path of a parameter; or is wrong, which shows elsewhere
        return {name: _describe(function)}


def _values_of_all(name: str, function: Callable, tasks: tuple[str, ...]) -> dict[str, Any]:
    values = {}
    for step in SAMPLED_STEPS:
        # Rounded to what the name says. The order of their sizes may matter too.
        falling = [_digits(10 / (1 + i) / math.sqrt(1 + step), 3) for i in range(len(tasks))]
        for losses in (falling, falling[::-1]):
            found = in_order(tasks, function(jnp.asarray(step, jnp.int32), jnp.array(losses, jnp.float32)))
            values[f"{name}{SAMPLE}{step}, losses {losses}"] = [_digits(value) for value in np.asarray(found)]
    return values


def _digits(number: Any, digits: int = 7) -> float:
    """The number with so many digits; float32 has no more than 7."""
    return float(f"{float(number):.{digits}g}")


def _takes(function: Callable, count: int) -> bool:
    try:
        inspect.signature(function).bind(*range(count))
    except TypeError:
        return False
    except ValueError:  # some that are written in C have no signature
        return True
    return True


def _describe(function: Callable) -> str:
    if isinstance(function, functools.partial):
        return f"{_describe(function.func)} with {_as_json(function.args)} {_as_json([*function.keywords.items()])}"
    name = getattr(function, "__qualname__", type(function).__qualname__)
    try:
        source = inspect.getsource(function)
    except (OSError, TypeError):  # none that can be read
        return name
    return f"{name}, source {zlib.crc32(source.encode()):08x}"


def _as_json(value: Any) -> Any:
    if isinstance(value, tuple | list):
        return [_as_json(item) for item in value]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if callable(value):
        return _describe(value)
    return getattr(value, "name", None) or str(value)
