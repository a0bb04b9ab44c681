"""Writes a comparison as Markdown, LaTeX, CSV or JSON."""

import json
import math
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import pandas as pd

from mtan_jax.compare import latex, markdown
from mtan_jax.compare.errors import ComparisonError
from mtan_jax.compare.results import Results

SUFFIXES = {".md": "markdown", ".tex": "latex", ".csv": "csv", ".json": "json"}


def to_text(results: Results, kind: str) -> str:
    """A comparison in one of the formats of `SUFFIXES`.

    Raises:
        ComparisonError: the format is unknown.
    """
    check_kind(kind)
    return FORMATS[kind](results)


def check_kind(kind: str) -> None:
    """Raises a ComparisonError for an unknown format."""
    if kind not in FORMATS:
        raise ComparisonError(f"--format={kind} is not known; known: {', '.join(FORMATS)}")


def kind_of(path: pathlib.Path) -> str:
    """The format of a file.

    Raises:
        ComparisonError: its suffix is none of `SUFFIXES`.
    """
    if path.suffix not in SUFFIXES:
        raise ComparisonError(f"{path}: expected a name that ends in {', '.join(SUFFIXES)}")
    return SUFFIXES[path.suffix]


def to_csv(results: Results) -> str:
    """One line per group and metric, with all metrics. Lines that begin with # hold the heading and the warnings.

    `pandas.read_csv(path, comment="#")` reads it. Values have the units of `metrics.jsonl`.
    """
    frame = _long(results)
    notes = [results.heading, *(f"warning: {line}" for line in results.warnings)]
    return "".join(f"# {' '.join(line.split())}\n" for line in notes) + frame.to_csv(index=False, lineterminator="\n")


def _long(results: Results) -> pd.DataFrame:
    rows = []
    for group in results.groups:
        fields = {short: group.fields.get(name, "") for name, short in results.short.items()}
        kind = "baseline" if group.is_baseline else "run"
        for metric in results.means:
            mean = results.means.at[group.name, metric]
            if not math.isfinite(mean):
                continue
            row = {"kind": kind, "group": group.name, **fields, "metric": metric, "mean": mean}
            for name, frame in (("standard_error", results.standard_errors), ("n", results.counts)):
                row[name] = frame.at[group.name, metric] if metric in frame else None
            rows.append(row | _difference(results, group.name, metric))
    if results.published is not None:
        for label, published in zip(results.published.labels(), results.published.rows, strict=True):
            for metric, value in published.values.items():
                rows.append({"kind": "published", "group": label, "metric": metric, "mean": value})
    frame = pd.DataFrame(rows)
    return frame.astype({name: "Int64" for name in ("n", "difference_n") if name in frame})


def _difference(results: Results, group: str, metric: str) -> dict[str, float]:
    if results.differences is None or (group, metric) not in results.differences.index:
        return {}
    return {
        f"difference_{name}" if name != "mean" else "difference": value
        for name, value in results.differences.loc[(group, metric)].items()
    }


def to_json(results: Results) -> str:
    """Heading, groups with their runs, metrics and differences, published results, and warnings. NaN becomes null."""
    groups = []
    for group in results.groups:
        metrics = {}
        for metric in results.means:
            values = {"mean": results.means.at[group.name, metric]}
            if metric in results.counts:
                values["standard_error"] = results.standard_errors.at[group.name, metric]
                values["n"] = int(results.counts.at[group.name, metric])
            metrics[metric] = values | _difference(results, group.name, metric)
        own = results.runs[results.runs["group"] == group.name]
        seeds = results.seeds.loc[group.name].dropna(axis=1, how="all")
        groups.append(
            {
                "name": group.name,
                "fields": dict(group.fields),
                "is_baseline": group.is_baseline,
                "runs": {
                    str(name): {"seed": int(row["seed"]), "step": int(row["step"])} for name, row in own.iterrows()
                },
                "seeds": {str(seed): row.to_dict() for seed, row in seeds.iterrows()},
                "metrics": metrics,
            }
        )
    published = results.published
    content = {
        "heading": results.heading,
        "split": results.split,
        "reference": results.reference,
        "confidence": results.confidence,
        "columns": list(results.columns),
        "warnings": list(results.warnings),
        "groups": groups,
        "published": None
        if published is None
        else {
            "name": published.name,
            "title": published.title,
            "protocol": published.protocol,
            "rows": [
                {"method": row.method, "architecture": row.architecture, "protocol": row.protocol, "values": row.values}
                for row in published.rows
            ],
        },
    }
    return json.dumps(_finite(content), indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def _finite(value: Any) -> Any:
    """Replaces non-finite numbers by None, and NumPy's numbers by Python's."""
    if isinstance(value, Mapping):
        return {key: _finite(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(each) for each in value]
    if hasattr(value, "item"):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value


FORMATS: Mapping[str, Callable[[Results], str]] = {
    "markdown": markdown.to_markdown,
    "latex": latex.to_latex,
    "csv": to_csv,
    "json": to_json,
}
