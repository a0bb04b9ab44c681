"""The results of a comparison as pandas data frames."""

import dataclasses
from collections.abc import Mapping

import pandas as pd

from mtan_jax.compare.groups import Group
from mtan_jax.compare.published import Published


@dataclasses.dataclass(frozen=True, eq=False)
class Results:
    """Runs grouped over seeds, with their statistics.

    Metrics have the names and units of `metrics.jsonl`. Delta-m is in percent.

    Attributes:
        heading: which evaluations the values are from.
        split: the split that they are from.
        groups: in the order of tables; the baseline first.
        short: short names of the fields in which the groups differ, by full name.
        runs: one row per run: group, seed, step of the evaluation, and metrics.
        seeds: one row per group and seed: metrics and Delta-m. Runs of one group and seed, such as the single-task runs
            of a baseline, are joined.
        means: mean over seeds, one row per group and one column per metric, with "delta_m/metrics" and "delta_m/tasks"
            if there is a baseline, "mean_rank" if there are two groups other than the baseline, and "parameters" on
            request.
        standard_errors: of the means over seeds, ddof=1; NaN for one seed.
        counts: number of seeds with a finite value.
        differences: to the group `reference`, paired by seed: index (group, metric), columns mean, low, high and n;
            None without a reference.
        reference: name of the group to which `differences` is relative.
        confidence: of the intervals in `differences`.
        columns: names of the metrics that tables and figures show.
        directions: directions of the user's own metrics.
        published: published results to show beside the groups.
        warnings: reasons why the comparison may be unfair or incomplete, one line each.
    """

    heading: str
    split: str
    groups: tuple[Group, ...]
    short: Mapping[str, str]
    runs: pd.DataFrame
    seeds: pd.DataFrame
    means: pd.DataFrame
    standard_errors: pd.DataFrame
    counts: pd.DataFrame
    differences: pd.DataFrame | None
    reference: str | None
    confidence: float
    columns: tuple[str, ...]
    directions: Mapping[str, bool]
    published: Published | None
    warnings: tuple[str, ...]

    @property
    def baseline(self) -> Group | None:
        """The group to which Delta-m is relative."""
        return next((group for group in self.groups if group.is_baseline), None)
