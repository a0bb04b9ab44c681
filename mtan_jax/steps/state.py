"""The training state: everything that training changes and checkpoints contain."""

import flax.struct
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int32, PyTree

from mtan_jax.types import Params, Variables


@flax.struct.dataclass
class Window:
    """Sums over the steps since the last log line, from which its means are computed.

    They are part of the state so that a resumed run logs the same means as an uninterrupted one.

    Attributes:
        steps: number of steps.
        loss_total: sum of each task's unweighted loss over the labelled pixels.
        loss_count: number of these pixels.
        weights: sum over the steps of each task's weight.
        bad_step: first step, counted from 1, with a non-finite loss or updated parameter; 0 if there was none.
        bad_tasks: tasks whose loss was non-finite at that step.
    """

    steps: Int32[Array, ""]
    loss_total: Float[Array, "t"]
    loss_count: Float[Array, "t"]
    weights: Float[Array, "t"]
    bad_step: Int32[Array, ""]
    bad_tasks: Bool[Array, "t"]

    @classmethod
    def empty(cls, tasks: int) -> "Window":
        """A window of zero steps for a number of tasks."""
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
    """Training state.

    Attributes:
        step: number of completed optimizer steps.
        params: parameters of the network.
        batch_stats: running statistics of BatchNorm.
        opt_state: state of the chain of weighting methods and optimizer.
        window: sums since the last log line.
        frozen: arrays of the network that training does not change.
    """

    step: Int32[Array, ""]
    params: Params
    batch_stats: PyTree
    opt_state: optax.OptState
    window: Window
    frozen: PyTree = flax.struct.field(default_factory=dict)

    @property
    def variables(self) -> Variables:
        """Variables of the network by collection."""
        return {"params": self.params, "batch_stats": self.batch_stats, "frozen": self.frozen}
