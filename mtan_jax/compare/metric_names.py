"""Names, units and directions of metrics in tables and figures."""

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence

DELTA_M = ("delta_m/metrics", "delta_m/tasks")
MEAN_RANK = "mean_rank"
PARAMETERS = "parameters"


@dataclasses.dataclass(frozen=True)
class Metric:
    """How a metric is shown.

    Attributes:
        name: as in `metrics.jsonl`, such as "semantic/miou".
        task: the first part of the name; empty for a score over all tasks.
        label: the rest, in words.
        unit: of the shown number; may be empty.
        factor: the shown number divided by that of `metrics.jsonl`.
        decimals: of the shown number.
        higher: whether higher is better; None if unknown.
    """

    name: str
    task: str
    label: str
    unit: str = ""
    factor: float = 1.0
    decimals: int = 4
    higher: bool | None = None

    @property
    def title(self) -> str:
        """Task, label and unit in one line."""
        unit = f" ({self.unit})" if self.unit else ""
        return f"{self.task} {self.label}{unit}".strip()

    @property
    def arrow(self) -> str:
        """The direction of better values; empty if it is unknown."""
        return {True: "↑", False: "↓", None: ""}[self.higher]

    def text(self, value: float) -> str:
        """A value of `metrics.jsonl` as shown, without its unit."""
        return f"{value * self.factor:z.{self.decimals}f}"  # z: no negative zero


_PERCENT = {"unit": "%", "factor": 100.0, "decimals": 2, "higher": True}
_DEGREES = {"unit": "°", "decimals": 2, "higher": False}
# The metrics that count for Delta-m, in the usual order of tables. The directions are those of
# `mtan_jax.tasks.delta_m.HIGHER_IS_BETTER`, which imports JAX.
_COUNTED: Mapping[str, Mapping] = {
    "miou": {"label": "mIoU", **_PERCENT},
    "pixel_accuracy": {"label": "pix. acc.", **_PERCENT},
    "abs_error": {"label": "abs. err.", "higher": False},
    "rel_error": {"label": "rel. err.", "higher": False},
    "mean": {"label": "mean", **_DEGREES},
    "median": {"label": "median", **_DEGREES},
    "within_11.25": {"label": "<11.25°", **_PERCENT},
    "within_22.5": {"label": "<22.5°", **_PERCENT},
    "within_30": {"label": "<30°", **_PERCENT},
    "accuracy": {"label": "accuracy", **_PERCENT},
}
# Scores over all tasks, by their whole name.
_SCORES: Mapping[str, Mapping] = {
    "mean/accuracy": {"label": "mean accuracy", **_PERCENT},
    "decathlon/score": {"label": "decathlon score", "decimals": 0, "higher": True},
    "delta_m/metrics": {"label": "Δm metrics", "unit": "%", "decimals": 2, "higher": False},
    "delta_m/tasks": {"label": "Δm tasks", "unit": "%", "decimals": 2, "higher": False},
    MEAN_RANK: {"label": "MR", "decimals": 2, "higher": False},
    PARAMETERS: {"label": "parameters", "unit": "M", "factor": 1e-6, "decimals": 2},
}
HIGHER_IS_BETTER: Mapping[str, bool] = {name: fields["higher"] for name, fields in _COUNTED.items()}


def split_name(name: str) -> tuple[str, str]:
    """Splits "task/metric"; the task is empty for a score over all tasks."""
    task, slash, metric = name.partition("/")
    return (task, metric) if slash and name not in _SCORES else ("", name)


def direction(name: str, own: Mapping[str, bool]) -> bool | None:
    """Whether higher is better for a metric; None if that is unknown.

    Args:
        name: "task/metric", or a score over all tasks.
        own: directions of further metrics, by "task/metric" or by the metric alone; they take precedence.
    """
    _, metric = split_name(name)
    for key in (name, metric):
        if key in own:
            return own[key]
    if name in _SCORES:
        return _SCORES[name].get("higher")
    return False if metric == "loss" else HIGHER_IS_BETTER.get(metric)


def counted(names: Iterable[str], tasks: Sequence[str], own: Mapping[str, bool]) -> list[str]:
    """The metrics that count for Delta-m and for the mean rank, in the usual order of tables.

    Args:
        names: of all metrics.
        tasks: in their order.
        own: see `direction`.
    """
    order = {metric: position for position, metric in enumerate(_COUNTED)}
    chosen = []
    for name in names:
        task, metric = split_name(name)
        if task in tasks and (metric in order or name in own or metric in own):
            chosen.append((tasks.index(task), order.get(metric, len(order)), name))
    return [name for *_, name in sorted(chosen)]


def describe(name: str, own: Mapping[str, bool], largest: float = 0.0) -> Metric:
    """How a metric is shown.

    Args:
        name: of the metric.
        own: see `direction`.
        largest: the largest absolute value in the table, on which the decimals of metrics without a fixed range depend.
    """
    task, metric = split_name(name)
    fields = dict(_SCORES.get(name) or _COUNTED.get(metric) or {"label": metric.replace("_", " ")})
    if "decimals" not in fields and math.isfinite(largest) and largest >= 1:
        fields["decimals"] = max(3 - math.floor(math.log10(largest)), 0)
    return Metric(name, task, **{**fields, "higher": direction(name, own)})
