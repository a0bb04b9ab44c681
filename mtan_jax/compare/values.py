"""The value of each metric of a run: of the last evaluation, the mean of the last ones, or of the best one."""

import dataclasses
import math
import re
from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np

from mtan_jax.compare import metric_names
from mtan_jax.compare.errors import ComparisonError
from mtan_jax.reporting.metrics_file import Line

_USE = re.compile(r"last|mean:(?P<count>[1-9]\d*)|best:(?P<metric>.+)")
_NO_METRICS = ("step", "epoch", "split")


@dataclasses.dataclass(frozen=True)
class Value:
    """The metrics of a run.

    Attributes:
        metrics: by name.
        step: of the evaluation, or of the last of several.
        evaluations: number of evaluations that the values depend on.
        is_fallback: whether the last evaluation stands in for the best one, because the metric is missing.
    """

    metrics: Mapping[str, float]
    step: int
    evaluations: int
    is_fallback: bool = False


@dataclasses.dataclass(frozen=True)
class Use:
    """Which evaluation of a run counts.

    Attributes:
        kind: the last, the mean of the last `count`, or the best by `metric`.
        count: number of evaluations of a mean.
        metric: name of the metric that chooses the best evaluation.
        higher: whether higher is better for this metric.
    """

    kind: Literal["last", "mean", "best"] = "last"
    count: int = 1
    metric: str = ""
    higher: bool = True

    @classmethod
    def parse(cls, text: str, own: Mapping[str, bool]) -> "Use":
        """Parses "last", "mean:N" or "best:METRIC".

        Args:
            text: the text.
            own: see `metric_names.direction`.

        Raises:
            ComparisonError: the text is none of these, or the metric has no known direction.
        """
        match = _USE.fullmatch(text)
        if match is None:
            raise ComparisonError(f"--use={text}; expected last, mean:N such as mean:10, or best:METRIC")
        if match["count"]:
            return cls("mean", count=int(match["count"]))
        if match["metric"] is None:
            return cls()
        higher = metric_names.direction(match["metric"], own)
        if higher is None:
            raise ComparisonError(
                f"--use={text}: it is unknown whether higher or lower {match['metric']} is better; add "
                f"--higher={match['metric']} or --lower={match['metric']}"
            )
        return cls("best", metric=match["metric"], higher=higher)

    def heading(self, split: str) -> str:
        """Says which values a table or a figure shows."""
        if self.kind == "mean":
            return f"Mean of the last {self.count} evaluations on {split}"
        if self.kind == "best":
            return f"Evaluation with the best {self.metric} on {split} (best on {split}, biased)"
        return f"Last evaluation on {split}"

    def of(self, rows: Sequence[Line]) -> Value:
        """The value of a run.

        Args:
            rows: of one split, at least one, in the order of their steps.
        """
        if self.kind == "mean":
            chosen = rows[-self.count :]
            names = dict.fromkeys(name for row in chosen for name in metrics(row))
            # NaN if the metric is missing or not finite in any of them.
            means = {name: float(np.mean([row.get(name, math.nan) for row in chosen])) for name in names}
            return Value(means, chosen[-1]["step"], len(chosen))
        if self.kind == "best":
            finite = [row for row in rows if math.isfinite(row.get(self.metric, math.nan))]
            if finite:
                best = (max if self.higher else min)(finite, key=lambda row: row[self.metric])  # the first of equals
                return Value(metrics(best), best["step"], len(rows))
            return Value(metrics(rows[-1]), rows[-1]["step"], 1, is_fallback=True)
        return Value(metrics(rows[-1]), rows[-1]["step"], 1)


def metrics(row: Line) -> dict[str, float]:
    """The metrics of a row by name, without step, epoch and split."""
    return {name: float(value) for name, value in row.items() if name not in _NO_METRICS}
