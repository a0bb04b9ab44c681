"""The report at the end of a run."""

import logging
import pathlib

import numpy as np

from mtan_jax.experiment import Experiment
from mtan_jax.reporting import figures
from mtan_jax.reporting.figure_style import save_png
from mtan_jax.reporting.metrics_file import METRICS_FILE, read_metrics
from mtan_jax.reporting.report_files import CONSTANT_SPLIT, CURVES_FILE
from mtan_jax.reporting.sinks import MetricWriter
from mtan_jax.training import evaluation

log = logging.getLogger(__name__)


def report(experiment: Experiment, workdir: pathlib.Path, writer: MetricWriter, metrics: dict[str, float]) -> None:
    """Logs the final metrics of a run next to those of the best constant predictions, and draws its curves.

    Writes the splits "val_constant" and, if `config.eval.average_last` is set, "val_mean" to `metrics.jsonl`, unless
    they are there.

    Args:
        experiment: the run.
        workdir: of the run.
        writer: of `metrics.jsonl`.
        metrics: of the last evaluation.
    """
    step = experiment.total_steps
    epoch = experiment.lengths.steps_to_epochs(step)
    lines = read_metrics(workdir / METRICS_FILE)
    results = {line["split"]: line for line in lines}
    constants = results.get(CONSTANT_SPLIT)
    if constants is None:
        constants = evaluation.evaluate_constants(experiment)
        writer.write(step, epoch, CONSTANT_SPLIT, constants)
    count = experiment.config.eval.average_last
    mean = results.get("val_mean")
    if count is not None and mean is None:
        evaluated = [line for line in lines if line["split"] == "val" and metrics.keys() <= line.keys()]
        last = evaluated[-count:] or [metrics]
        mean = {name: float(np.mean([line[name] for line in last])) for name in metrics}
        writer.write(step, epoch, "val_mean", mean)
    telemetry = figures.telemetry(workdir / METRICS_FILE)
    if telemetry is not None:
        save_png(telemetry, workdir / "figures" / "telemetry.png")
    save_png(figures.curves(workdir / METRICS_FILE), workdir / CURVES_FILE)  # last; see `report_files.has_report`
    log.info("\nsplit val after %d steps\n%s", step, evaluation.table(metrics, constants))
    if count is not None and mean is not None:
        mean = {name: mean[name] for name in metrics if name in mean}
        log.info("\nmean over the last %d evaluations\n%s", count, evaluation.table(mean, constants))
    log.info("\nmetrics, checkpoints and figures are in %s", workdir)
