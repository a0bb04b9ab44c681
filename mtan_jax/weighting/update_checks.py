"""Checks of what a step passes to wrappers and to methods that learn from a second batch."""

from collections.abc import Callable

import optax
from jaxtyping import Array, Float

from mtan_jax.weighting.core import TaskGradients


def check_optimizer(name: str, inner_state: optax.OptState) -> None:
    """Checks that the chain inside a wrapper does not end with the gradient, which is uphill.

    Args:
        name: of the wrapper.
        inner_state: initial state of the chain.

    Raises:
        ValueError: the last transformation of the chain is `sum_tasks` or a gradient method.
    """
    last = inner_state
    while not hasattr(last, "task_weights"):
        if type(last) is tuple and last:  # the state of optax.chain
            last = last[-1]
        elif hasattr(last, "inner"):  # that of a wrapper
            last = last.inner
        else:
            return
    raise ValueError(
        f"{name} evaluates the losses after a step of `inner`, but `inner` ends with sum_tasks or a gradient method; "
        f"put the optimizer inside, as in {name}(tasks, optax.chain(sum_tasks(tasks), optax.adam(1e-3)))"
    )


def check_second_batch(
    name: str, task_gradients: TaskGradients, params: optax.Params | None
) -> Callable[[optax.Params], Float[Array, "t"]]:
    """Returns the losses of the second batch as a function of the parameters.

    Raises:
        ValueError: the step has no second batch, or `update` received no parameters.
    """
    if task_gradients.second_losses_at is None:
        raise ValueError(
            f"{name} learns from a second batch, but the step received none; pass second_losses_of to task_gradients. "
            "Batches for make_train_step must hold one under the key 'second', as those of `Experiment.train_batches` "
            "and `mtan_jax.data.batches.pipeline.with_second` do"
        )
    if params is None:
        raise ValueError(f"{name} needs the parameters, as tx.update(..., params)")
    return task_gradients.second_losses_at
