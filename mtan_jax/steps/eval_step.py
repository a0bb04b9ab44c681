"""The step of evaluation."""

from collections.abc import Callable
from typing import Any

from flax import linen as nn

from mtan_jax.runtime import collectives
from mtan_jax.steps.batch import Batch, tasks_of_rows
from mtan_jax.tasks import Task
from mtan_jax.tasks.metrics import LossMetric, Protocol, State


def make_eval_step(
    model: nn.Module, tasks: tuple[Task, ...], *, protocol: Protocol, axis_name: str | None = None
) -> Callable[[Any, Batch], dict[str, tuple[State, LossMetric]]]:
    """Makes the step of evaluation: `(variables, batch) -> {task: (metric state, loss state)}` of the whole batch.

    Rows of weight 0 and rows without a label add nothing.
    """

    def eval_step(variables: Any, batch: Batch) -> dict[str, tuple[State, LossMetric]]:
        predictions: Any = model.apply(variables, batch["image"], train=False, **tasks_of_rows(batch))
        states: dict[str, tuple[State, LossMetric]] = {}
        for task in tasks:
            prediction, target = predictions[task.name], batch["targets"][task.target]
            labelled = batch["labelled"][task.target] & (batch["weight"] > 0)
            metric = task.metric(protocol).update(prediction, target, labelled)
            states[task.name] = (metric, LossMetric(*task.loss(prediction, target, labelled)))
        return collectives.total(states, axis_name)

    return eval_step
