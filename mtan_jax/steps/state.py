"""All that training changes."""

from typing import Any

import flax.struct
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int32


@flax.struct.dataclass
class Window:
    """Sums over the steps since the last log line; in the state so that a resumed run logs what a straight one does.

    Attributes:
        steps: how many.
        loss_total: sum of each task's unweighted loss over the valid pixels of these steps.
        loss_count: number of those pixels.
        weights: sum over the steps of what each loss was multiplied with.
        bad_step: the first step (counted from 1) with a loss, or a parameter after it, that was not finite; 0: none.
        bad_tasks: the tasks whose loss was not finite at that step.
    """

    steps: Int32[Array, ""]
    loss_total: Float[Array, "t"]
    loss_count: Float[Array, "t"]
    weights: Float[Array, "t"]
    bad_step: Int32[Array, ""]
    bad_tasks: Bool[Array, "t"]

    @classmethod
    def empty(cls, tasks: int) -> "Window":
        """A window of no steps."""
        return cls(
            steps=jnp.zeros((), jnp.int32),
            loss_total=jnp.zeros(tasks),
            loss_count=jnp.zeros(tasks),
            weights=jnp.zeros(tasks),
            bad_step=jnp.zeros((), jnp.int32),
            bad_tasks=jnp.zeros(tasks, bool),
        )


@flax.struct.dataclass
class TrainState:
    """What a checkpoint holds.

    Attributes:
        step: number of optimiser steps done.
        params: the network's parameters.
        batch_stats: running statistics of BatchNorm.
        opt_state: state of the chain of weighting methods and optimiser.
        window: what has been summed since the last log line.
        frozen: arrays of the network that training leaves as they are.
    """

    step: Int32[Array, ""]
    params: Any
    batch_stats: Any
    opt_state: Any
    window: Window
    frozen: Any = flax.struct.field(default_factory=dict)

    @property
    def variables(self) -> dict[str, Any]:
        """The network's variables."""
        return {"params": self.params, "batch_stats": self.batch_stats, "frozen": self.frozen}
