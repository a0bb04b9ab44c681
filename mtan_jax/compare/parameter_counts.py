"""Counts the parameters of networks from the configurations of runs, without their datasets or checkpoints."""

import json
from collections.abc import Iterable, Sequence
from typing import Any

import ml_collections
import pandas as pd

from mtan_jax.commands.summary import count_stored
from mtan_jax.compare.checks import listed
from mtan_jax.compare.groups import Group
from mtan_jax.compare.runs import StoredRun
from mtan_jax.config import default_config
from mtan_jax.data.dataset_record import DataRecord
from mtan_jax.experiment import Experiment

# The fields on which the shapes of the parameters depend.
_FIELDS = ("data.name", "data.options.", "model.", "tasks")


def count_parameters(groups: Iterable[Group]) -> tuple[pd.Series, list[str]]:
    """Counts the stored parameters of the networks of each group, as `--mode=summary` does.

    Args:
        groups: of the comparison. A baseline of several networks has the sum of their parameters.

    Returns:
        The count by group, NaN where it is unknown, and one line for each reason why networks cannot be built, such as
        a backbone that a configuration file defines.
    """
    counts: dict[str, float] = {}
    uncounted: dict[str, list[str]] = {}
    known: dict[str, int] = {}
    for group in groups:
        total = 0.0
        for key, run in {_key(run): run for run in group.runs}.items():
            try:
                if key not in known:
                    known[key] = _count(run)
                total += known[key]
            except Exception as error:  # a network of the user's own may raise anything
                uncounted.setdefault(str(error), []).append(group.name)
                total = float("nan")
                break
        counts[group.name] = total
    problems = [f"parameters are not counted: {error}; in {listed(names)}" for error, names in uncounted.items()]
    return pd.Series(counts, dtype=float), problems


def _key(run: StoredRun) -> str:
    return json.dumps({name: run.config[name] for name in sorted(run.config) if name.startswith(_FIELDS)})


def _count(run: StoredRun) -> int:
    config = default_config()
    for name in run.config:
        if name.startswith(_FIELDS) and name != "model.init_from":
            _set(config, name.split("."), _plain(run.config[name]))
    # Weights of losses belong to the optimizer, and a schedule cannot be restored from its samples.
    config.weighting = "equal"
    record = None if run.data is None else DataRecord.from_json(json.dumps(run.data))
    return count_stored(Experiment.from_config(config, record).abstract_variables)[0]


def _set(config: ml_collections.ConfigDict, path: Sequence[str], value: Any) -> None:
    for part in path[:-1]:
        config = config[part]
    config[path[-1]] = value


def _plain(value: Any) -> Any:
    """JSON's lists as tuples, which configurations hold."""
    return tuple(map(_plain, value)) if isinstance(value, list) else value
