"""Published results to set beside one's own."""

import dataclasses
import json
import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from mtan_jax.compare import metric_names, statistics
from mtan_jax.compare.errors import ComparisonError

_PACKAGE = pathlib.Path(__file__).parents[1]


@dataclasses.dataclass(frozen=True)
class PublishedRow:
    """The results of one method.

    Attributes:
        method: name of the method.
        architecture: name of the network; may be empty.
        values: by the name of the metric, in the units of `metrics.jsonl`; also Delta-m and the mean rank.
        protocol: how this row differs from the protocol of its table; empty if it does not.
    """

    method: str
    architecture: str
    values: Mapping[str, float]
    protocol: str


@dataclasses.dataclass(frozen=True)
class Published:
    """A table of published results.

    Attributes:
        name: of the file.
        title: of the table.
        protocol: how the numbers were measured.
        baseline: the method to which Delta-m is relative.
        formats: factor and number of decimals of each metric, as printed.
        rows: one per method.
    """

    name: str
    title: str
    protocol: str
    baseline: str
    formats: Mapping[str, tuple[float, int]]
    rows: tuple[PublishedRow, ...]

    def labels(self) -> list[str]:
        """The name of each row: the method, with its architecture if the rows have several."""
        several = len({row.architecture for row in self.rows}) > 1
        return [f"{row.method} on {row.architecture}" if several else row.method for row in self.rows]


def load(name: str) -> Published:
    """Reads published results that ship with mtan_jax, or a file of one's own in the same format.

    Args:
        name: such as "nyuv2", or the path of a file that ends in .json.

    Raises:
        ComparisonError: there are no such results, or the file is damaged.
    """
    path = pathlib.Path(name) if name.endswith(".json") else _folder() / f"{name}.json"
    if not path.is_file():
        raise ComparisonError(f"--published={name}: there are no such results; known: {', '.join(known_names())}")
    try:
        return _parse(path.stem, json.loads(path.read_bytes()))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ComparisonError(f"--published={name}: {path} is damaged ({type(error).__name__}: {error})") from error


def known_names() -> list[str]:
    """The names of the published results that ship with mtan_jax."""
    return sorted(path.stem for path in _folder().glob("*.json"))


def _folder() -> pathlib.Path:
    """`published/` in the installed package, or `experiments/published/` in a checkout."""
    installed = _PACKAGE / "published"
    return installed if installed.is_dir() else _PACKAGE.parent / "experiments" / "published"


def _parse(name: str, content: Mapping[str, Any]) -> Published:
    metrics = {each["name"]: each for each in content["metrics"]}
    factors = {metric: float(each["factor"]) for metric, each in metrics.items()}
    values = [_values(row, factors) for row in content["rows"]]
    higher = {metric: each["better"] == "higher" for metric, each in metrics.items()}
    frame = pd.DataFrame(values, columns=list(metrics), dtype=float)
    rows = []
    for i, row in enumerate(content["rows"]):
        scores = pd.DataFrame()
        base = _baseline(content["rows"], row.get("architecture"), content["baseline"])
        if base is not None:
            scores = statistics.delta_m(frame.iloc[[i]], frame.iloc[base], higher).dropna(axis=1)
        found = values[i] | {str(key): float(scores[key].iloc[0]) for key in scores}
        rows.append(
            PublishedRow(
                row["method"], row.get("architecture") or "", _with_printed(found, row), row.get("protocol") or ""
            )
        )
    formats = {metric: (factors[metric], int(each["decimals"])) for metric, each in metrics.items()}
    return Published(name, content["title"], content["protocol"] or "", content["baseline"], formats, tuple(rows))


def _baseline(rows: Sequence[Mapping[str, Any]], architecture: str | None, method: str) -> int | None:
    """The position of the baseline for an architecture, or of the only baseline; None if there is no such row."""
    found = [i for i, row in enumerate(rows) if row["method"] == method]
    same = [i for i in found if rows[i].get("architecture") == architecture]
    return next(iter(same or (found if len(found) == 1 else ())), None)


def _values(row: Mapping[str, Any], factors: Mapping[str, float]) -> dict[str, float]:
    return {name: value / factors[name] for name, value in row["values"].items() if value is not None}


def _with_printed(values: dict[str, float], row: Mapping[str, Any]) -> dict[str, float]:
    """Replaces the computed Delta-m of the definition that the paper uses, the nearest, by the printed number."""
    printed = row.get("delta_m")
    if printed is not None:
        name = min(metric_names.DELTA_M, key=lambda each: abs(values.get(each, math.inf) - printed))
        values[name] = printed
    if row.get("mean_rank") is not None:
        values[metric_names.MEAN_RANK] = row["mean_rank"]
    return values
