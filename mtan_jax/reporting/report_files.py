"""The files that a run writes at its end, which tell that it is complete. Does not import JAX."""

import pathlib

from mtan_jax.reporting.metrics_file import METRICS_FILE, read_metrics

CONSTANT_SPLIT = "val_constant"  # the row of the best constant predictions
CURVES_FILE = "figures/curves.png"


def has_report(workdir: pathlib.Path) -> bool:
    """Whether the run in a working directory is complete: it was trained to its end, and its report is written.

    Raises:
        ValueError: `metrics.jsonl` is damaged.
    """
    if not (workdir / CURVES_FILE).is_file() or not (workdir / METRICS_FILE).is_file():
        return False
    return any(line["split"] == CONSTANT_SPLIT for line in read_metrics(workdir / METRICS_FILE))
