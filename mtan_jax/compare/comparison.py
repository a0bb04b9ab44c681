"""Compares runs: groups over seeds, Delta-m, mean rank and paired differences."""

import os
import pathlib
from collections.abc import Iterable, Mapping, Sequence

import pandas as pd

from mtan_jax.compare import baselines, checks, columns, figures, formats, metric_names, statistics
from mtan_jax.compare import published as published_results
from mtan_jax.compare.errors import ComparisonError
from mtan_jax.compare.groups import Group, Grouping, make_grouping
from mtan_jax.compare.results import Results
from mtan_jax.compare.runs import StoredRun, read_runs
from mtan_jax.compare.values import Use, Value


class Comparison(Results):
    """The results of `compare_runs` as data frames, which can be written and drawn; see `Results` for the frames.

    Example:
        >>> comparison = compare_runs("runs/*", baseline="arch=single")  # doctest: +SKIP
        >>> comparison.means["delta_m/metrics"]  # doctest: +SKIP
        >>> comparison.save("table.tex")  # doctest: +SKIP
    """

    def to_text(self, kind: str = "markdown") -> str:
        """The comparison as text.

        Args:
            kind: "markdown", "latex" (with booktabs), "csv" (one line per group and metric, in the units of
                `metrics.jsonl`) or "json".

        Raises:
            ComparisonError: the kind is unknown.
        """
        return formats.to_text(self, kind)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the comparison to a file that ends in .md, .tex, .csv or .json.

        Raises:
            ComparisonError: the file has another suffix.
        """
        path = pathlib.Path(path)
        text = formats.to_text(self, formats.kind_of(path))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")

    def draw(self, folder: str | os.PathLike[str]) -> list[str]:
        """Draws the figures that the runs have data for.

        Args:
            folder: created if it is missing.

        Returns:
            One line for each figure, with its path or the reason why it was skipped.
        """
        return figures.draw(self, pathlib.Path(folder))


def compare_runs(
    paths: str | os.PathLike[str] | Iterable[str | os.PathLike[str]],
    *,
    baseline: str | None = None,
    against: str | None = None,
    use: str = "last",
    split: str = "val",
    confidence: float = 0.95,
    ignore: str | Sequence[str] = (),
    metrics: str | Sequence[str] = (),
    sort: str | None = None,
    published: str | None = None,
    higher_is_better: Mapping[str, bool] | None = None,
    parameters: bool = False,
) -> Comparison:
    """Compares the runs in some working directories.

    Runs form a group if all fields of their configurations on which results depend are equal, apart from the seed.

    Args:
        paths: working directories, folders that contain some, and glob patterns of both.
        baseline: the group, or the groups with one task each, that Delta-m is relative to: the name of a group, or
            "field=value" pairs joined by commas, such as "arch=single". None: no Delta-m.
        against: the group that differences are relative to, in the same form; None: the baseline.
        use: the evaluation that counts: "last", "mean:N" (mean of the last N) or "best:METRIC" (biased, since it is
            chosen on the same split).
        split: the split that the metrics are from.
        confidence: of the intervals of the differences.
        ignore: a name of fields that runs of a group need not agree in, or several.
        metrics: a name or pattern of the metrics to show, or several; by default those that count for Delta-m, and the
            scores.
        sort: the metric by which groups are sorted, the best first; by default they have the order of their runs.
        published: published results to show beside the groups, such as "nyuv2" or "nyuv2:LS,Nash-MTL", or the path of a
            JSON file.
        higher_is_better: directions of metrics of one's own tasks, which then count for Delta-m and the mean rank, by
            "task/metric" or by the metric alone.
        parameters: whether to count the parameters of each network, which takes seconds and imports JAX.

    Raises:
        ComparisonError: there are no runs, or an argument does not fit them; the message says what does.
    """
    own = dict(higher_is_better or {})
    _check_confidence(confidence)
    chosen_use = Use.parse(use, own)
    found, problems = read_runs([paths] if isinstance(paths, str | os.PathLike) else paths)
    runs, without = _with_split(found, split)
    grouping = make_grouping(runs, [ignore] if isinstance(ignore, str) else ignore)
    if baseline is not None:
        chosen = grouping.select(baseline, "--baseline")
        baselines.check_baseline(chosen)
        grouping = grouping.with_baseline(chosen)
    values = {run.name: chosen_use.of(run.rows_of(split)) for run in runs}
    counted = _counted(runs, values, own)
    higher = {name: bool(metric_names.direction(name, own)) for name in counted}
    frame = _run_frame(grouping.groups, values)
    seeds = frame.drop(columns="step").groupby(["group", "seed"], sort=False).mean()
    if baseline is not None:
        seeds = baselines.with_delta_m(seeds, grouping.groups, counted, higher)
    means, errors, counts = statistics.over_seeds(seeds)
    means = _with_mean_rank(means, grouping.groups, counted, higher)
    if parameters:
        from mtan_jax.compare.parameter_counts import count_parameters  # imports JAX

        means[metric_names.PARAMETERS], uncounted = count_parameters(grouping.groups)
        problems += uncounted
    reference = _reference(grouping, against)
    differences = None if reference is None else _differences(seeds, grouping.groups, reference, confidence)
    order = columns.sort_groups(grouping.groups, means, sort, own)
    warnings = [*problems, *without, *checks.find_warnings(order, values, chosen_use, split, counted)]
    if differences is not None:
        warnings += _without_pairs(differences)
    return Comparison(
        heading=chosen_use.heading(split),
        split=split,
        groups=order,
        short=grouping.short,
        runs=frame,
        seeds=seeds,
        means=means.loc[[group.name for group in order]],
        standard_errors=errors.loc[[group.name for group in order]],
        counts=counts.loc[[group.name for group in order]],
        differences=differences,
        reference=reference,
        confidence=confidence,
        columns=columns.choose([metrics] if isinstance(metrics, str) else metrics, means, counted),
        directions=own,
        published=None if published is None else published_results.load(published),
        warnings=tuple(warnings),
    )


def _check_confidence(confidence: float) -> None:
    if not 0 < confidence < 1:
        raise ComparisonError(f"--confidence={confidence:g}; expected a number between 0 and 1, such as 0.95")


def _with_split(runs: Sequence[StoredRun], split: str) -> tuple[list[StoredRun], list[str]]:
    """The runs that have rows of a split, and one line for each of the others."""
    chosen = [run for run in runs if run.rows_of(split)]
    if not chosen:
        splits = sorted({row["split"] for run in runs for row in run.rows})
        raise ComparisonError(
            f"--split={split}: no run has been evaluated on it; the runs have rows of: {', '.join(splits) or 'none'}"
        )
    return chosen, [f"{run.name} is left out: it has no row of split {split} yet" for run in runs if run not in chosen]


def _counted(runs: Sequence[StoredRun], values: Mapping[str, Value], own: Mapping[str, bool]) -> list[str]:
    """The metrics that count for Delta-m; tasks in the order of the runs with most tasks."""
    tasks = [task for run in sorted(runs, key=lambda run: -len(run.tasks)) for task in run.tasks]
    names = dict.fromkeys(name for value in values.values() for name in value.metrics)
    return metric_names.counted(names, list(dict.fromkeys(tasks)), own)


def _run_frame(groups: Sequence[Group], values: Mapping[str, Value]) -> pd.DataFrame:
    rows = {
        run.name: {"group": group.name, "seed": run.seed, "step": values[run.name].step, **values[run.name].metrics}
        for group in groups
        for run in group.runs
    }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("run")


def _with_mean_rank(
    means: pd.DataFrame, groups: Sequence[Group], counted: Sequence[str], higher: Mapping[str, bool]
) -> pd.DataFrame:
    """Adds the mean rank of the groups other than the baseline, as published tables do."""
    ranked = [group.name for group in groups if not group.is_baseline]
    if len(ranked) < 2 or not counted:
        return means
    ranks = statistics.mean_rank(means.loc[ranked, list(counted)], higher)
    return means.assign(**{metric_names.MEAN_RANK: ranks})


def _reference(grouping: Grouping, against: str | None) -> str | None:
    """The name of the group that differences are relative to."""
    if against is None:
        return next((group.name for group in grouping.groups if group.is_baseline), None)
    chosen = grouping.select(against, "--against")
    if len(chosen) > 1:
        names = "; ".join(group.name for group in chosen)
        raise ComparisonError(f"--against={against} selects {len(chosen)} groups, expected one; add fields: {names}")
    return chosen[0].name


def _differences(seeds: pd.DataFrame, groups: Sequence[Group], reference: str, confidence: float) -> pd.DataFrame:
    frames = {
        group.name: statistics.paired(seeds.loc[group.name], seeds.loc[reference], list(seeds.columns), confidence)
        for group in groups
        if group.name != reference
    }
    if not frames:
        raise ComparisonError(f"all runs belong to the reference {reference!r}; add runs to compare with it")
    return pd.concat(frames, names=["group"])


def _without_pairs(differences: pd.DataFrame) -> list[str]:
    """One line for groups whose differences have no interval."""
    largest = differences["n"].groupby(level="group", sort=False).max()
    none, one = (checks.listed(largest.index[largest == count]) for count in (0, 1))
    lines = [f"no seeds in common with the reference, so there are no differences: {none}"] if none else []
    return lines + (
        [f"only one seed in common with the reference, so differences have no interval: {one}"] if one else []
    )
