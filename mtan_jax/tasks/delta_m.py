"""Delta-m: how much worse, in percent, a multi-task network is than single-task networks."""

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
    r"""Mean relative loss against single-task networks, in percent; lower is better, negative beats them.

    $$\Delta_m = \frac{100}{n} \sum_i (-1)^{[\text{higher is better}]} \frac{M_i - B_i}{B_i}$$

    Published tables use two means: over all metrics (CAGrad, Nash-MTL, FAMO), or over tasks of the mean over the
    task's metrics (LibMTL, Auto-Lambda). They differ in sign for the same network, so compare like with like.

    Args:
        metrics: the network's metrics by "task/metric". Names without a direction, such as losses, are left out.
        single_task: the single-task networks' metrics, in the same units, by the same names.
        average: over all "metrics", or over "tasks" of the mean over metrics.
        higher_is_better: direction of each metric, by its name without the task; default: those of
            `mtan_jax.tasks.metrics`.

    Raises:
        ValueError: where a metric has no single-task value or the other way round, a single-task value has no known
            direction or is 0 or not finite, or `average` is unknown.
    """
    if average not in ("metrics", "tasks"):
        raise ValueError(f"average is {average!r}; known: metrics, tasks.")
    _check_names(metrics, single_task, higher_is_better)
    losses: dict[str, list[float]] = {}
    for name, base in single_task.items():
        task, metric = name.split("/", 1)
        sign = -1 if higher_is_better[metric] else 1
        losses.setdefault(task, []).append(sign * (metrics[name] - base) / base * 100)
    if average == "tasks":
        return float(np.mean([np.mean(values) for values in losses.values()]))
    return float(np.mean(np.concatenate(list(losses.values()))))


def _check_names(
    metrics: Mapping[str, float], single_task: Mapping[str, float], higher_is_better: Mapping[str, bool]
) -> None:
    if not single_task:
        raise ValueError("single_task is empty; it needs the single-task value of every metric.")
    unknown = sorted(name for name in single_task if name.partition("/")[2] not in higher_is_better)
    if unknown:
        raise ValueError(
            f"single_task has {', '.join(unknown)}, of unknown direction; names are 'task/metric' with one of: "
            f"{', '.join(higher_is_better)}."
        )
    missing = sorted(name for name in single_task if name not in metrics)
    if missing:
        raise ValueError(f"metrics lacks {', '.join(missing)}, for which there are single-task values.")
    measured = [name for name in metrics if name.partition("/")[2] in higher_is_better]
    unmatched = sorted(name for name in measured if name not in single_task)
    if unmatched:
        raise ValueError(f"single_task lacks {', '.join(unmatched)}, which were measured.")
    useless = [f"{name} = {base}" for name, base in single_task.items() if base == 0 or not np.isfinite(base)]
    if useless:
        raise ValueError(f"single_task has {', '.join(useless)}; a relative change needs a finite value other than 0.")
