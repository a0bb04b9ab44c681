"""Published results to set beside one's own."""

import dataclasses
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
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


def load(text: str) -> Published:
    """Reads published results that ship with mtan_jax, or a file of one's own in the same format.

    Args:
        text: a name such as "nyuv2", or the path of a file that ends in .json. After ':', names of methods joined by
            commas select rows: "nyuv2:LS,Nash-MTL".

    Raises:
        ComparisonError: there are no such results or methods, or the file is damaged.
    """
    name, _, methods = text.partition(":")
    path = pathlib.Path(name) if name.endswith(".json") else _folder() / f"{name}.json"
    if not path.is_file():
        raise ComparisonError(f"--published={text}: there are no such results; known: {', '.join(known_names())}")
    try:
        found = _parse(path.stem, json.loads(path.read_bytes()))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ComparisonError(f"--published={text}: {path} is damaged ({type(error).__name__}: {error})") from error
    return _select(found, [method.strip() for method in methods.split(",") if method.strip()], text)


def _select(found: Published, methods: Sequence[str], text: str) -> Published:
    known = list(dict.fromkeys(row.method for row in found.rows))
    if unknown := [method for method in methods if method not in known]:
        raise ComparisonError(f"--published={text}: there is no method {unknown[0]}; known: {', '.join(known)}")
    return dataclasses.replace(found, rows=tuple(row for row in found.rows if row.method in (methods or known)))


def known_names() -> list[str]:
    """The names of the published results that ship with mtan_jax."""
    return sorted(path.stem for path in _folder().glob("*.json"))


def _folder() -> pathlib.Path:
    """`published/` in the installed package, or `experiments/published/data` in a checkout."""
    installed = _PACKAGE / "published"
    return installed if installed.is_dir() else _PACKAGE.parent / "experiments" / "published" / "data"


def _parse(name: str, content: Mapping[str, Any]) -> Published:
    metrics = {each["name"]: each for each in content["metrics"]}
    factors = {metric: float(each["factor"]) for metric, each in metrics.items()}
    rows = content["rows"]
    values = [_values(row, factors) for row in rows]
    scores = _scores(
        values, rows, content["baseline"], {key: each["better"] == "higher" for key, each in metrics.items()}
    )
    printed = [row.get("delta_m") for row in rows]
    definition = _definition(scores, printed)
    for score, row, number in zip(scores, rows, printed, strict=True):
        score |= {} if number is None else {definition: number}
        score |= {} if row.get("mean_rank") is None else {metric_names.MEAN_RANK: row["mean_rank"]}
    return Published(
        name,
        content["title"],
        content["protocol"] or "",
        content["baseline"],
        {metric: (factors[metric], int(each["decimals"])) for metric, each in metrics.items()},
        tuple(
            PublishedRow(row["method"], row.get("architecture") or "", value | score, row.get("protocol") or "")
            for row, value, score in zip(rows, values, scores, strict=True)
        ),
    )


def _scores(
    values: Sequence[Mapping[str, float]], rows: Sequence[Mapping[str, Any]], baseline: str, higher: Mapping[str, bool]
) -> list[dict[str, float]]:
    """Both definitions of Delta-m of each row, as far as the table has the metrics that they need."""
    frame = pd.DataFrame(values, columns=list(higher), dtype=float)
    scores: list[dict[str, float]] = []
    for i, row in enumerate(rows):
        base = _baseline(rows, row.get("architecture"), baseline)
        if base is None or not higher:
            scores.append({})
            continue
        computed = statistics.delta_m(frame.iloc[[i]], frame.iloc[base], higher).dropna(axis=1)
        scores.append({str(key): float(computed[key].iloc[0]) for key in computed})
    return scores


def _definition(scores: Sequence[Mapping[str, float]], printed: Sequence[float | None]) -> str:
    """The definition of Delta-m that a table uses: the one that is nearest to its printed numbers."""

    def distance(name: str) -> float:
        pairs = zip(scores, printed, strict=True)
        errors = [abs(score[name] - number) for score, number in pairs if name in score and number is not None]
        return round(float(np.median(errors)), 2) if errors else 0.0  # equal up to the rounding of printed numbers

    return min(metric_names.DELTA_M, key=distance)


def _baseline(rows: Sequence[Mapping[str, Any]], architecture: str | None, method: str) -> int | None:
    """The position of the baseline for an architecture, or of the only baseline; None if there is no such row."""
    found = [i for i, row in enumerate(rows) if row["method"] == method]
    same = [i for i in found if rows[i].get("architecture") == architecture]
    return next(iter(same or (found if len(found) == 1 else ())), None)


def _values(row: Mapping[str, Any], factors: Mapping[str, float]) -> dict[str, float]:
    return {name: value / factors[name] for name, value in row["values"].items() if value is not None}
