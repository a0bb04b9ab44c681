"""Task gradients, and the contract between them and the weighting methods.

A weighting method is an optax transformation whose incoming `updates` are no gradient but a `TaskGradients`. A loss
balancer returns the same with other weights (`balancer` makes one), and `sum_tasks` turns it into the gradient. Both
stand in one chain with anything that optax has:

    tx = optax.chain(dwa(tasks, steps_per_epoch=397), sum_tasks(tasks), optax.adam(1e-4))

A method that combines the gradients of single tasks stands in the place of `sum_tasks` and asks
`TaskGradients.gradient` for them. A method that needs the losses after the step, or at other parameters, wraps the rest
of the chain, as `optax.lookahead` does, and asks `TaskGradients.losses_at`:

    tx = famo(tasks, optax.chain(sum_tasks(tasks), optax.adam(1e-4)))

Whatever turns task gradients into a gradient keeps a field `task_weights` in its state, and nothing else has a field of
that name.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int

from mtan_jax.runtime import collectives

State = TypeVar("State")
Value = TypeVar("Value")


@dataclasses.dataclass(frozen=True)
class TaskGradients:
    """The losses of all tasks at one step, and the way back from them to the parameters.

    It lives inside one step and is not a pytree. The losses, and so all that a method derives from them, are the same
    on every device; the pullback is each device's own.

    Attributes:
        tasks: names, in the order of all arrays.
        losses: of the global batch, unweighted; 0 where the task is absent.
        present: False where no example of the global batch has a label for the task.
        weights: what the methods so far multiply the losses with; the step passes ones.
        pullback: from the cotangent of the losses to this device's gradient; from `jax.vjp`, whose own pullback gives a
            tuple of one. The differentiated function reduces over devices itself: a loss is `psum(sum) / psum(count)`.
        losses_at: the losses of the same batch at other parameters, for the methods that look ahead.
        second_losses_at: the losses of a second batch, for the methods that learn from one; differentiable. None where
            the step was given no second batch.
        indicators: how well each task is done on the batch, from 0 (not at all) to 1 (as well as can be); NaN for a
            task that is absent or has no such indicator. None where the step has none for any.
        feature_pullback: from the cotangent of the losses to the gradient with respect to the features that the tasks
            share, those of this device's rows. None where the step was not asked for it.
        axis_name: of the devices that `gradient` averages over; None on one device.
        chosen: positions, each once, of the tasks that the batch has examples of, where others are known to have none:
            methods need no backward pass for these. None: any task may have some.
    """

    tasks: tuple[str, ...]
    losses: Float[Array, "t"]
    present: Bool[Array, "t"]
    weights: Float[Array, "t"]
    pullback: Callable[[Float[Array, "t"]], optax.Updates]
    losses_at: Callable[[optax.Params], Float[Array, "t"]] | None = None
    axis_name: str | None = None
    second_losses_at: Callable[[optax.Params], Float[Array, "t"]] | None = None
    indicators: Float[Array, "t"] | None = None
    feature_pullback: Callable[[Float[Array, "t"]], Any] | None = None
    chosen: Int[Array, "n"] | None = None

    def scale(self, factors: Float[Array, "t"]) -> "TaskGradients":
        """The same losses, each weighted by a further factor.

        Args:
            factors: one a task.

        Raises:
            ValueError: not one factor a task.
        """
        if factors.shape != (len(self.tasks),):
            raise ValueError(f"factors of shape {factors.shape}: one for each of the {len(self.tasks)} tasks is needed")
        return dataclasses.replace(self, weights=self.weights * factors)

    def gradient(self, cotangent: Float[Array, "t"]) -> optax.Updates:
        """The gradient of `sum(cotangent * losses)` over the global batch: one backward pass.

        The transpose of psum is psum, so a device's pullback counts its own part of the gradient once a device. The
        mean over the devices of these is the sum of the parts. All gradients of single tasks at once are
        `jax.vmap(task_gradients.gradient)(jnp.diag(task_gradients.weights))`; with `jax.lax.map`, one after the other.

        Args:
            cotangent: one number a task, the same on every device.
        """
        gradient = self.pullback(cotangent.astype(self.losses.dtype))
        return collectives.mean(gradient, self.axis_name)

    def feature_gradient(self, cotangent: Float[Array, "t"]) -> Any:
        """The gradient of `sum(cotangent * losses)` with respect to the shared features of this device's rows.

        Only what stands behind these features is passed. Inner products over the global batch are the sums over the
        devices of those of these gradients.

        Args:
            cotangent: one number a task, the same on every device.

        Raises:
            ValueError: the step has no such gradients.
        """
        if self.feature_pullback is None:
            raise ValueError(
                "the step gives no gradients with respect to features: make_train_step(features=True) is needed, and a "
                "network whose tasks share features"
            )
        gradient = self.feature_pullback(cotangent.astype(self.losses.dtype))
        # The transpose of psum is psum: each device's own part, once for each device.
        count = collectives.total(1, self.axis_name)
        return jax.tree.map(lambda leaf: leaf / count, gradient)


class SumTasksState(NamedTuple):
    """State of `sum_tasks`.

    Attributes:
        task_weights: what the losses were multiplied with at the last step, all methods together; 1 before the first.
    """

    task_weights: Float[Array, "t"]


def sum_tasks(tasks: Sequence[str]) -> optax.GradientTransformationExtraArgs:
    """The gradient of the weighted sum of the losses, in one backward pass.

    Equation: g = d/dp sum_i w_i L_i(p), the weights w being constants.

    Args:
        tasks: names, in the order of the losses.

    Returns:
        A transformation from `TaskGradients` to a gradient. Its state holds the weights: see `task_weights`.

    Raises:
        ValueError: no task, or one named twice.

    Example:
        >>> import jax, jax.numpy as jnp, optax
        >>> from mtan_jax.weighting import TaskGradients, static, sum_tasks
        >>> tasks = ("depth", "normal")
        >>> tx = optax.chain(static(tasks, weights={"depth": 2.0, "normal": 1.0}), sum_tasks(tasks), optax.sgd(0.1))
        >>> params = jnp.array([1.0, 3.0])
        >>> opt_state = tx.init(params)
        >>> losses, pullback = jax.vjp(jnp.square, params)
        >>> gradients = TaskGradients(tasks, losses, losses > 0, jnp.ones(2), lambda c: pullback(c)[0])
        >>> updates, opt_state = tx.update(gradients, opt_state, params)
        >>> print(updates)
        [-0.4 -0.6]
    """
    tasks = check_tasks(tasks)

    def init(params: optax.Params) -> SumTasksState:
        del params
        return SumTasksState(jnp.ones(len(tasks), jnp.float32))

    def update(
        updates: TaskGradients, state: SumTasksState, params: optax.Params | None = None, **extra_args: Any
    ) -> tuple[optax.Updates, SumTasksState]:
        del state, extra_args
        task_gradients = check_updates(updates, tasks, "sum_tasks")
        weights = task_gradients.weights
        gradient = task_gradients.gradient(weights)
        got, needed = jax.tree.structure(gradient), jax.tree.structure(params)
        if params is not None and got != needed:  # type: ignore[operator]
            raise TypeError(
                f"the pullback gave {type(gradient).__name__}, not the structure of the parameters; that of jax.vjp "
                "gives a tuple of one: pass lambda cotangent: pullback(cotangent)[0]"
            )
        return gradient, SumTasksState(weights.astype(jnp.float32))

    return optax.GradientTransformationExtraArgs(init, update)


def balancer(
    name: str,
    tasks: tuple[str, ...],
    init: Callable[[], State],
    step: Callable[[TaskGradients, State], tuple[Float[Array, "t"], State]],
) -> optax.GradientTransformationExtraArgs:
    """A loss balancer: a transformation from `TaskGradients` to `TaskGradients` that scales the losses.

    Args:
        name: of the method, for messages.
        tasks: names, in the order of the losses.
        init: makes the state before the first step, a pytree of arrays whose shapes and types `step` keeps.
        step: from the task gradients and the state to the factors, one a task, and the next state. The factors are
            constants: they are not differentiated.
    """

    def init_fn(params: optax.Params) -> State:
        del params
        return init()

    def update_fn(
        updates: TaskGradients, state: State, params: optax.Params | None = None, **extra_args: Any
    ) -> tuple[TaskGradients, State]:
        del params, extra_args
        task_gradients = check_updates(updates, tasks, name)
        factors, state = step(task_gradients, state)
        return task_gradients.scale(factors), state

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def task_weights(opt_state: optax.OptState) -> Float[Array, "t"]:
    """The weights that the losses were multiplied with at the last step, all methods together.

    Args:
        opt_state: of a chain in which `sum_tasks`, or a method in its place, stands once, however deep.

    Returns:
        One weight a task; 1 before the first step.

    Raises:
        ValueError: no such transformation in the chain, or several.
    """
    found = optax.tree_utils.tree_get_all_with_path(opt_state, "task_weights")
    if len(found) != 1:
        raise ValueError(
            f"found {len(found)} fields task_weights in the optimiser state: a chain needs sum_tasks, or a method in "
            "its place, exactly once"
        )
    return found[0][1]


def check_tasks(tasks: Sequence[str]) -> tuple[str, ...]:
    """The task names as a tuple.

    Raises:
        ValueError: no task, one named twice, or a bare string.
    """
    if isinstance(tasks, str) or not tasks or len(set(tasks)) != len(tasks):
        raise ValueError(f"tasks {tasks!r}: a sequence of at least one name is needed, each once")
    return tuple(tasks)


def check_updates(updates: Any, tasks: tuple[str, ...], name: str) -> TaskGradients:
    """What a weighting method was given, if that is what it was made for.

    Raises:
        TypeError: the updates are no TaskGradients, such as a gradient.
        ValueError: they are of other tasks, or the tasks have another order.
    """
    if not isinstance(updates, TaskGradients):
        raise TypeError(
            f"{name} got {type(updates).__name__} in place of TaskGradients: weighting methods stand before sum_tasks, "
            "sum_tasks before the optimiser"
        )
    if updates.tasks != tasks:
        raise ValueError(f"{name} was made for the tasks {tasks} and got {updates.tasks}")
    return updates


def one_a_task(name: str, tasks: tuple[str, ...], values: Mapping[str, Value]) -> tuple[Value, ...]:
    """The values in the order of the tasks.

    Args:
        name: of the method, for messages.
        tasks: names.
        values: one for each task and for nothing else.

    Raises:
        ValueError: a task has no value, or a value has no task.
    """
    if set(values) != set(tasks):
        missing = sorted(set(tasks) - set(values))
        unknown = sorted(set(values) - set(tasks))
        raise ValueError(f"{name} weights: missing {missing}, unknown {unknown}; exactly {list(tasks)} are needed")
    return tuple(values[task] for task in tasks)


def check_number(
    name: str,
    option: str,
    value: Any,
    *,
    above: float = -math.inf,
    least: float = -math.inf,
    most: float = math.inf,
) -> None:
    """Raises a ValueError where an option of a method is no finite number above, of at least, and of at most these."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if is_number and above < value and least <= value <= most:
        return
    if most < math.inf:
        wanted = f"number from {least:g} to {most:g}"
    elif above > -math.inf:
        wanted = f"finite number above {above:g}"
    else:
        wanted = "finite number" if least == -math.inf else f"finite number of at least {least:g}"
    raise ValueError(f"{name} {option} is {value!r}: a {wanted} is needed")


def check_count(name: str, option: str, value: Any, *, least: int) -> None:
    """Raises a ValueError where an option of a method is no whole number of at least `least`."""
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise ValueError(f"{name} {option} is {value!r}: a whole number of at least {least} is needed")


def check_weight(name: str, task: str, weight: Any) -> float:
    """A constant weight as a float.

    Raises:
        ValueError: it is no finite number of at least 0.
    """
    if isinstance(weight, bool | str):
        raise ValueError(f"{name} weight of {task!r} is {weight!r}: a number is needed")
    number = float(weight)
    if not 0 <= number < float("inf"):
        raise ValueError(f"{name} weight of {task!r} is {number}: a finite number of at least 0 is needed")
    return number
