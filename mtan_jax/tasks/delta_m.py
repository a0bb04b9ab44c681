"""Delta-m: relative performance drop in percent of a multi-task network compared with single-task networks."""

from collections.abc import Mapping
from typing import Literal

import numpy as np

from mtan_jax.tasks.metrics import AccuracyMetric, DepthMetric, NormalMetric, SemanticMetric

HIGHER_IS_BETTER: Mapping[str, bool] = {
    **SemanticMetric.higher_is_better,
    **DepthMetric.higher_is_better,
    **NormalMetric.higher_is_better,
    **AccuracyMetric.higher_is_better,
}


def delta_m(
    metrics: Mapping[str, float],
    single_task: Mapping[str, float],
    average: Literal["metrics", "tasks"] = "metrics",
    higher_is_better: Mapping[str, bool] = HIGHER_IS_BETTER,
) -> float:
    r"""Mean relative performance drop in percent; lower is better, negative means better than single-task.

    $$\Delta_m = \frac{100}{n} \sum_i (-1)^{[\text{higher is better}]} \frac{M_i - B_i}{B_i}$$

    Published tables use two definitions: the mean over all metrics (CAGrad, Nash-MTL, FAMO), or the mean over tasks of
    the mean over the task's metrics (LibMTL, Auto-Lambda). The two can even differ in sign for the same network.

    Args:
        metrics: metrics of the multi-task network by "task/metric". Names without a direction, such as losses, are
            ignored.
        single_task: metrics of the single-task networks by the same names, in the same units.
        average: "metrics" for the mean over all metrics, "tasks" for the mean over tasks.
        higher_is_better: direction of each metric, by its name without the task; by default, the metrics of
            `mtan_jax.tasks.metrics`.

    Raises:
        ValueError: the names differ, a single-task value is 0, non-finite or has no known direction, or `average` is
            unknown.
    """
    if average not in ("metrics", "tasks"):
        raise ValueError(f"average={average!r}; expected metrics or tasks")
    _check_names(metrics, single_task, higher_is_better)
    losses: dict[str, list[float]] = {}
    for name, base in single_task.items():
        task, metric = name.split("/", 1)
        sign = -1 if higher_is_better[metric] else 1
        losses.setdefault(task, []).append(sign * (metrics[name] - base) / base * 100)
    if average == "tasks":
        return float(np.mean([np.mean(values) for values in losses.values()]))
    return float(np.mean(np.concatenate(list(losses.values()))))


def directions(metrics: Mapping[str, bool]) -> dict[str, bool]:
    """The directions that `delta_m` takes, from those of "task/metric"; a user's task may have metrics of its own."""
    return {**HIGHER_IS_BETTER, **{name.partition("/")[2]: higher for name, higher in metrics.items()}}


def _check_names(
    metrics: Mapping[str, float], single_task: Mapping[str, float], higher_is_better: Mapping[str, bool]
) -> None:
    if not single_task:
        raise ValueError("single_task is empty; expected the single-task value of every metric")
    unknown = sorted(name for name in single_task if name.partition("/")[2] not in higher_is_better)
    if unknown:
        raise ValueError(
            f"single_task contains {', '.join(unknown)} of unknown direction; expected 'task/metric' with one of "
            f"{', '.join(higher_is_better)}"
        )
    missing = sorted(name for name in single_task if name not in metrics)
    if missing:
        raise ValueError(f"metrics lacks {', '.join(missing)}; expected all metrics in single_task")
    measured = [name for name in metrics if name.partition("/")[2] in higher_is_better]
    unmatched = sorted(name for name in measured if name not in single_task)
    if unmatched:
        raise ValueError(f"single_task lacks {', '.join(unmatched)}; expected all metrics of the network")
    useless = [f"{name} = {base}" for name, base in single_task.items() if base == 0 or not np.isfinite(base)]
    if useless:
        raise ValueError(f"single_task contains {', '.join(useless)}; expected finite values other than 0")
