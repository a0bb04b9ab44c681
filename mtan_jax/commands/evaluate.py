"""Evaluates a checkpoint of a run."""

import json
import math

import jax

from mtan_jax.commands.request import Request
from mtan_jax.commands.run import Run
from mtan_jax.experiment import checks
from mtan_jax.training import evaluation


def evaluate(run: Run, *, split: str = "val", checkpoint: str = "newest") -> dict[str, float]:
    """Computes the metrics of a checkpoint. On "val" they equal those that training logged at that step.

    Args:
        run: from `fit` or `Run.open`.
        split: "val" or "train".
        checkpoint: "newest", "best", a step, or "initial": the state before the first step.

    Returns:
        Metrics by "task/metric", each over the whole split.

    Raises:
        ValueError: the split or the checkpoint is unknown.
        CheckpointError: there is no such checkpoint, or it is damaged.
        RawDataError: the dataset is not prepared, and its raw data are missing.
    """
    if split not in ("train", "val"):
        raise ValueError(f"split {split!r} cannot be evaluated; use train or val (test labels are not public)")
    checks.check_eval_batch_size(run.config)
    run.prepare_data("eval", checkpoint)
    return evaluation.evaluate(run.experiment, run.restore(checkpoint), split)


def run(request: Request) -> None:
    """`--mode=eval`: prints the metrics as JSON."""
    opened = Run.open(request.config, request.folder)
    metrics = evaluate(opened, split=request.split, checkpoint=request.checkpoint)
    if jax.process_index() == 0:
        # JSON has no NaN, the value of a metric without labels.
        print(json.dumps({k: v if math.isfinite(v) else None for k, v in metrics.items()}, indent=2))
