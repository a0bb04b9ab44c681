"""The evaluation step."""

from collections.abc import Callable
from typing import cast

from flax import linen as nn
from jaxtyping import Array

from mtan_jax.runtime import collectives
from mtan_jax.steps.batch import labels_of, network_inputs
from mtan_jax.tasks import Task
from mtan_jax.tasks.metrics import LossMetric, MetricState
from mtan_jax.types import Batch, EvalProtocol, Variables


def make_eval_step(
    model: nn.Module, tasks: tuple[Task, ...], *, protocol: EvalProtocol, axis_name: str | None = None
) -> Callable[[Variables, Batch], dict[str, tuple[MetricState, LossMetric]]]:
    """Makes the evaluation step.

    Rows of weight 0 and rows without a label are ignored.

    Args:
        model: `apply(variables, image, train=False) -> {task: prediction}`.
        tasks: tasks to evaluate.
        protocol: evaluation protocol; see `mtan_jax.tasks.metrics`.
        axis_name: axis of the devices; None on one device.

    Returns:
        `(variables, batch) -> {task: (metric state, loss state)}`, both of the batch of all devices.
    """

    def eval_step(variables: Variables, batch: Batch) -> dict[str, tuple[MetricState, LossMetric]]:
        predictions = cast(
            dict[str, Array], model.apply(variables, batch["image"], train=False, **network_inputs(batch))
        )
        states: dict[str, tuple[MetricState, LossMetric]] = {}
        for task in tasks:
            prediction = predictions[task.name]
            target, labelled = labels_of(task, batch)
            labelled &= batch["weight"] > 0
            metric = task.metric(protocol).update(prediction, target, labelled)
            states[task.name] = (metric, LossMetric(*task.loss(prediction, target, labelled)))
        return collectives.total(states, axis_name)

    return eval_step
