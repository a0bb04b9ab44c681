"""Which metrics a comparison shows, and in which order its groups."""

import fnmatch
from collections.abc import Mapping, Sequence

import pandas as pd

from mtan_jax.compare import metric_names
from mtan_jax.compare.errors import ComparisonError
from mtan_jax.compare.groups import Group
from mtan_jax.compare.metric_names import DELTA_M, MEAN_RANK, PARAMETERS

_ALIASES = {"delta_m": DELTA_M[0], "mr": MEAN_RANK}
_SCORES = ("mean/accuracy", "decathlon/score")


def choose(patterns: Sequence[str], means: pd.DataFrame, counted: Sequence[str]) -> tuple[str, ...]:
    """The metrics to show.

    Args:
        patterns: names, or patterns such as "depth/*"; without any, the metrics that count for Delta-m, then the scores
            over all tasks. If all tasks have the same number of metrics, both definitions of Delta-m are equal, and
            one is shown.
        means: one column per metric.
        counted: the metrics that count for Delta-m, in their order.

    Raises:
        ComparisonError: a pattern matches no metric.
    """
    known = [*counted, *(name for name in means if name not in counted)]
    if not patterns:
        tasks = [metric_names.split_name(name)[0] for name in counted]
        alike = len({tasks.count(task) for task in tasks}) == 1
        scores = [*_SCORES, *(DELTA_M[:1] if alike else DELTA_M), MEAN_RANK, PARAMETERS]
        return tuple([*counted, *(name for name in scores if name in means)] or known)
    chosen: dict[str, None] = {}
    for pattern in patterns:
        found = fnmatch.filter(known, _ALIASES.get(pattern.lower(), pattern))
        if not found:
            raise ComparisonError(f"--metrics={pattern} matches no metric; there are: {', '.join(known)}")
        chosen |= dict.fromkeys(found)
    chosen |= dict.fromkeys({PARAMETERS} & {*means})  # they were asked for
    return tuple(chosen)


def sort_groups(
    groups: Sequence[Group], means: pd.DataFrame, name: str | None, own: Mapping[str, bool]
) -> tuple[Group, ...]:
    """The groups in the order of a metric, the best first; the baseline is always the first.

    Args:
        groups: of the comparison.
        means: one row per group, one column per metric.
        name: of the metric; None: as they are.
        own: see `metric_names.direction`.

    Raises:
        ComparisonError: there is no such metric.
    """
    if name is None:
        return tuple(groups)
    name = _ALIASES.get(name.lower(), name)
    if name not in means:
        raise ComparisonError(f"--sort={name} is no metric of this comparison; there are: {', '.join(means)}")
    ascending = not metric_names.direction(name, own)
    order = list(means[name].sort_values(ascending=ascending, na_position="last", kind="stable").index)
    return tuple(sorted(groups, key=lambda group: (not group.is_baseline, order.index(group.name))))
