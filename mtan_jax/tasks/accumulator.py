"""Accumulates metric states over the batches of a split."""

from typing import TypeVar

import jax
import numpy as np

from mtan_jax.tasks.metrics import MetricState, check_protocol
from mtan_jax.types import EvalProtocol

State = TypeVar("State", bound=MetricState)


class Accumulator:
    """Accumulates the metric states of batches on the host and computes the metrics of the split.

    The protocol "authors" skips batches without labelled pixels, which would make the mean NaN in the authors' code.

    Args:
        empty: the empty state, such as `task.metric(protocol)` or `LossMetric.empty()`.
        protocol: evaluation protocol; see `mtan_jax.tasks.metrics`.
    """

    def __init__(self, empty: MetricState, protocol: EvalProtocol = "exact"):
        check_protocol(protocol)
        self._total = on_host(empty)
        self._averages = protocol == "authors" and empty.batch_averaged
        self._batches: list[dict[str, float]] = []

    def add(self, state: MetricState) -> None:
        """Adds the state of one global batch, already summed over devices."""
        state = on_host(state)
        if not self._averages:
            self._total = self._total.merge(state)
        elif any(leaf.any() for leaf in jax.tree.leaves(state)):
            self._batches.append(state.compute())

    def compute(self) -> dict[str, float]:
        """Returns the metrics of all added batches, NaN if nothing was counted."""
        if not self._batches:
            return self._total.compute()
        return {name: float(np.mean([batch[name] for batch in self._batches])) for name in self._batches[0]}


def on_host(state: State) -> State:
    """Copies a state to the host, with counts as int64 and sums as float64."""
    wide = {"i": np.int64, "f": np.float64}
    return jax.tree.map(lambda leaf: np.asarray(leaf, wide[leaf.dtype.kind]), jax.device_get(state))
