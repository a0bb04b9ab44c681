"""Reasons why a comparison may be unfair or incomplete, one line each."""

import math
import zlib
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

from mtan_jax.compare.groups import Group
from mtan_jax.compare.metric_names import DELTA_M, direction, split_name
from mtan_jax.compare.runs import StoredRun
from mtan_jax.compare.values import Use, Value

LISTED = 4  # names in one line


def find_warnings(
    groups: Sequence[Group], values: Mapping[str, Value], use: Use, split: str, counted: Collection[str]
) -> list[str]:
    """Compares runs in data, length, protocol, completeness, seeds and metrics.

    Args:
        groups: of the comparison.
        values: of each run, by its name.
        use: which evaluation the values are from.
        split: the split that they are from.
        counted: metrics that count for Delta-m and the mean rank.

    Returns:
        One line per problem.
    """
    runs = [run for group in groups for run in group.runs]
    return [
        *_data(runs),
        *_lengths(runs),
        *_differences("eval.protocol", {run.name: run.config.get("eval.protocol") for run in runs}),
        *_logged_delta_m(groups, values),
        *_incomplete(runs),
        *_evaluations(runs, values, use, split),
        *_seeds(groups),
        *_metrics(groups, values, counted),
        *_without_direction(groups, values, counted),
    ]


def listed(names: Iterable[object], most: int = LISTED) -> str:
    """Joins names by commas; of many, only the first."""
    texts = list(map(str, names))
    more = [f"{len(texts) - most} more"] if len(texts) > most else []
    return ", ".join(texts[:most] + more)


def _differences(name: str, values: Mapping[str, object]) -> Iterator[str]:
    """One line if runs differ in a value: the values and the runs that have them.

    Args:
        name: of the value.
        values: by the name of the run.
    """
    owners: dict[str, list[str]] = {}
    for run, value in values.items():
        owners.setdefault(str(value), []).append(run)
    if len(owners) > 1:
        texts = "; ".join(f"{value} in {listed(runs)}" for value, runs in owners.items())
        yield f"runs differ in {name}: {texts}"


def _data(runs: Sequence[StoredRun]) -> Iterator[str]:
    without = [run.name for run in runs if run.data is None]
    if without:
        yield f"there is no data.json, so it is unknown whether the data are the same: {listed(without)}"
    records = {run.name: dict(_flat("", run.data)) for run in runs if run.data is not None}
    for name in dict.fromkeys(name for record in records.values() for name in record):
        # Runs on some of several sets of images have no records of the others.
        own = {run: record[name] for run, record in records.items() if name in record}
        yield from _differences(f"data ({name} in data.json)", own)


def _flat(prefix: str, value: Any) -> Iterator[tuple[str, str]]:
    if isinstance(value, Mapping):
        for key, each in value.items():
            yield from _flat(f"{prefix}.{key}" if prefix else key, each)
    elif isinstance(value, list) and value and all(isinstance(each, float) for each in value):
        yield prefix, ", ".join(f"{each:.5g}" for each in value)  # up to the rounding of another order of summation
    elif isinstance(value, list) and len(value) > LISTED:
        yield prefix, f"{len(value)} names ({', '.join(map(str, value))})" if len(value) < 15 else _long(value)
    else:
        yield prefix, str(value)


def _long(names: Sequence[object]) -> str:
    """Describes a long list of names, with a number that tells lists of one length apart."""
    return f"{len(names)} names (CRC-32 {zlib.crc32(repr(names).encode()):08x})"


def _lengths(runs: Sequence[StoredRun]) -> Iterator[str]:
    for name in ("duration", "batch_size"):
        yield from _differences(name, {run.name: run.config[name] for run in runs})
    complete = [run for run in runs if run.is_complete]
    alike = {(run.config["duration"], run.config["batch_size"]) for run in complete}
    if len(alike) == 1:  # otherwise the lines above say why
        yield from _differences("length", {run.name: f"{_last(run)} steps" for run in complete})


def _last(run: StoredRun) -> int:
    return 0 if run.last_evaluation is None else run.last_evaluation["step"]


def _logged_delta_m(groups: Sequence[Group], values: Mapping[str, Value]) -> Iterator[str]:
    """One line if the Delta-m that runs logged is relative to different values."""
    runs = [run for group in groups for run in group.runs if DELTA_M[0] in values[run.name].metrics]
    if not any(group.is_baseline for group in groups):
        yield from _differences("eval.single_task", {run.name: run.config.get("eval.single_task") for run in runs})


def _incomplete(runs: Iterable[StoredRun]) -> Iterator[str]:
    texts = [f"{run.name} (step {_last(run)}, of {run.config['duration']})" for run in runs if not run.is_complete]
    if texts:
        yield f"not trained to the end; the last evaluation is that of: {listed(texts, 12)}"


def _evaluations(runs: Sequence[StoredRun], values: Mapping[str, Value], use: Use, split: str) -> Iterator[str]:
    fallback = [run.name for run in runs if values[run.name].is_fallback]
    if fallback:
        yield f"without {use.metric}, the last evaluation is used instead of the best: {listed(fallback)}"
    if use.kind == "mean":
        for run in runs:
            found = values[run.name].evaluations
            if found < use.count:
                yield f"{run.name} has {found} evaluations on {split}, so the mean is over these and not {use.count}"
    if use.kind == "best":
        chosen = [run.name for run in runs if not values[run.name].is_fallback]
        yield from _differences(
            f"the number of evaluations on {split}", {name: values[name].evaluations for name in chosen}
        )


def _seeds(groups: Sequence[Group]) -> Iterator[str]:
    owners: dict[tuple[int, ...], list[str]] = {}
    for group in groups:
        owners.setdefault(tuple(sorted({run.seed for run in group.runs})), []).append(group.name)
        names: dict[tuple[int, tuple[str, ...]], list[str]] = {}
        for run in group.runs:
            names.setdefault((run.seed, run.tasks), []).append(run.name)
        for (seed, _), alike in names.items():
            if len(alike) > 1:
                yield f"{group.name} has seed {seed} {len(alike)} times, and their mean counts once: {listed(alike)}"
    if len(owners) > 1:
        texts = "; ".join(f"{listed(seeds, 10)} in {listed(names)}" for seeds, names in owners.items())
        yield f"groups differ in their seeds: {texts}"


def _metrics(groups: Sequence[Group], values: Mapping[str, Value], counted: Collection[str]) -> Iterator[str]:
    runs = [run for group in groups for run in group.runs]
    for name in counted:
        owners = [run for run in runs if split_name(name)[0] in run.tasks]
        missing = [run.name for run in owners if name not in values[run.name].metrics]
        if missing:
            yield f"{name} is missing in {listed(missing)}"
        broken = [run.name for run in owners if not math.isfinite(values[run.name].metrics.get(name, 0.0))]
        if broken:
            yield f"{name} is not finite, and left out of means, in {listed(broken)}"
    tasks = {group.tasks for group in groups}
    if len({frozenset(each) for each in tasks}) > 1:
        texts = "; ".join(f"{', '.join(group.tasks)} in {group.name}" for group in groups[:LISTED])
        yield f"groups differ in their tasks, so Delta-m and the mean rank depend on different metrics: {texts}"


def _without_direction(groups: Sequence[Group], values: Mapping[str, Value], counted: Collection[str]) -> Iterator[str]:
    """One line if the direction of metrics is unknown, so that tables leave them out."""
    tasks = {task for group in groups for task in group.tasks}
    names = dict.fromkeys(name for value in values.values() for name in value.metrics if split_name(name)[0] in tasks)
    unknown = [name for name in names if name not in counted and direction(name, {}) is None]
    if unknown:
        yield (
            f"metrics without a known direction do not count, and are not shown unless asked for: {listed(unknown)}; "
            f"add --lower={unknown[0]} if less is better, else --higher={unknown[0]}"
        )
