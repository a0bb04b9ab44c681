"""Delta-m relative to a baseline of one or several groups."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from mtan_jax.compare import checks, metric_names, statistics
from mtan_jax.compare.errors import ComparisonError
from mtan_jax.compare.groups import Group


def check_baseline(chosen: Sequence[Group]) -> None:
    """Raises a ComparisonError unless each task belongs to one group of the baseline."""
    for task in dict.fromkeys(task for group in chosen for task in group.tasks):
        owners = [group.name for group in chosen if task in group.tasks]
        if len(owners) > 1:
            raise ComparisonError(
                f"--baseline selects {len(owners)} groups with the task {task}, expected one; add a field in which "
                f"they differ: {checks.listed(owners, 10)}"
            )


def with_delta_m(
    seeds: pd.DataFrame, groups: Sequence[Group], counted: Sequence[str], higher: Mapping[str, bool]
) -> pd.DataFrame:
    """Adds both definitions of Delta-m, over the tasks of each group, to a frame with index (group, seed).

    Args:
        seeds: the metrics of each group and seed.
        groups: one of them is the baseline, whose mean over seeds Delta-m is relative to.
        counted: the metrics that count.
        higher: whether higher is better for these metrics.

    Raises:
        ComparisonError: a metric has no baseline, or one that is 0 or not finite.
    """
    (baseline,) = (group for group in groups if group.is_baseline)
    base = seeds.loc[baseline.name].reindex(columns=list(counted)).mean()
    parts = []
    for group in groups:
        names = [name for name in counted if metric_names.split_name(name)[0] in group.tasks]
        _check_values(base[names], baseline, group)
        rows = seeds.loc[[group.name]]
        parts.append(statistics.delta_m(rows[names], base, higher))
    return seeds.drop(columns=list(metric_names.DELTA_M), errors="ignore").join(pd.concat(parts))


def _check_values(base: pd.Series, baseline: Group, group: Group) -> None:
    own = [name for name in base.index if metric_names.split_name(name)[0] in baseline.tasks]
    missing = [name for name in base.index if name not in own]
    if missing:
        raise ComparisonError(
            f"the baseline {baseline.name} has no {checks.listed(missing, 12)}, which {group.name} has; its tasks are "
            f"{', '.join(baseline.tasks)}. Add the runs of the other tasks, or choose another --baseline"
        )
    useless = [f"{name} = {base[name]:g}" for name in own if base[name] == 0 or not np.isfinite(base[name])]
    if useless:
        raise ComparisonError(
            f"the baseline {baseline.name} has {checks.listed(useless)}; expected finite values other than 0, because "
            "Delta-m divides by them"
        )
