"""Statistics over seeds: means and standard errors, Delta-m, mean rank, and paired differences."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from scipy import special

from mtan_jax.compare.metric_names import split_name


def over_seeds(values: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """Mean, standard error (ddof=1) and number of seeds per group and metric; NaN entries are left out.

    Args:
        values: index (group, seed), one column per metric.

    Returns:
        Three frames with the groups as index. The standard error over one seed is NaN.
    """
    grouped = values.groupby(level="group", sort=False)
    return grouped.mean(), grouped.sem(ddof=1), grouped.count()


def delta_m(values: pd.DataFrame, baseline: pd.Series, higher: Mapping[str, bool]) -> pd.DataFrame:
    """Both definitions of Delta-m, as `mtan_jax.tasks.delta_m.delta_m` computes them, which imports JAX.

    Args:
        values: one row per network, one column per "task/metric".
        baseline: value of each of these metrics.
        higher: whether higher is better for each of these metrics.

    Returns:
        Columns "delta_m/metrics" and "delta_m/tasks", in percent; NaN if a value of the row is NaN.
    """
    signs = pd.Series({name: -1 if higher[name] else 1 for name in values})
    drops = signs * (values - baseline[values.columns]) / baseline[values.columns] * 100
    tasks: dict[str, list[str]] = {}
    for name in values:
        tasks.setdefault(split_name(name)[0], []).append(name)
    of_tasks = [drops[names].mean(axis=1, skipna=False) for names in tasks.values()]
    return pd.DataFrame(
        {
            "delta_m/metrics": drops.mean(axis=1, skipna=False),
            "delta_m/tasks": pd.concat(of_tasks, axis=1).mean(axis=1, skipna=False),
        }
    )


def mean_rank(means: pd.DataFrame, higher: Mapping[str, bool]) -> pd.Series:
    """The rank of each group, 1 for the best and the mean rank for ties, averaged over metrics.

    Args:
        means: one row per group, one column per metric.
        higher: whether higher is better for each metric.

    Returns:
        One number per group; NaN for groups that lack a metric.
    """
    ranks = pd.DataFrame({name: means[name].rank(ascending=not higher[name]) for name in means}, index=means.index)
    return ranks.mean(axis=1, skipna=False)


def paired(values: pd.DataFrame, reference: pd.DataFrame, metrics: Sequence[str], confidence: float) -> pd.DataFrame:
    """Mean differences to a reference over the seeds that both have, with Student's t intervals.

    Args:
        values: index seed, one column per metric.
        reference: the same for the reference.
        metrics: columns to compare.
        confidence: of the interval, such as 0.95.

    Returns:
        Index metric; columns mean, low, high and n, the number of common seeds. With n = 1 there is no interval: low
        and high are NaN. With n = 0 the mean is NaN too.
    """
    seeds = values.index.intersection(reference.index)
    differences = values.loc[seeds].reindex(columns=metrics) - reference.loc[seeds].reindex(columns=metrics)
    count, mean = differences.count(), differences.mean()
    freedom = (count - 1).where(count > 1)
    half = special.stdtrit(freedom.to_numpy(float), (1 + confidence) / 2) * differences.std(ddof=1) / np.sqrt(count)
    return pd.DataFrame({"mean": mean, "low": mean - half, "high": mean + half, "n": count}).rename_axis("metric")
