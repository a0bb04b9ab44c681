"""`TaskGradients`, and the contract between it and the weighting methods.

A weighting method is an optax transformation whose incoming `updates` are `TaskGradients` instead of a gradient. A loss
balancer returns `TaskGradients` with other weights (`balancer` builds one). `sum_tasks` turns them into a gradient.
Both chain with any optax transformation:

    tx = optax.chain(dwa(tasks, steps_per_epoch=397), sum_tasks(tasks), optax.adam(1e-4))

A method that combines the gradients of the tasks takes the place of `sum_tasks`; it calls `TaskGradients.gradient`. A
method that needs the losses after the step, or at other parameters, wraps the rest of the chain, as `optax.lookahead`
does; it calls `TaskGradients.losses_at`:

    tx = famo(tasks, optax.chain(sum_tasks(tasks), optax.adam(1e-4)))

Every transformation that turns task gradients into a gradient has a field `task_weights` in its state. No other
transformation has a field of that name.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import NamedTuple, NoReturn, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax
from jaxtyping import Array, Bool, Float, Int, PyTree

from mtan_jax.runtime import collectives
from mtan_jax.weighting.option_checks import check_tasks

State = TypeVar("State")


@dataclasses.dataclass(frozen=True)
class TaskGradients:
    """The losses of all tasks at one step, and their pullback to the parameters.

    `task_gradients` makes them from a function of the parameters, `from_jacobian` from gradients. They exist within one
    step and are not a pytree. The losses are identical on every device, and so is everything that a method derives from
    them. The pullback differs per device.

    Attributes:
        tasks: task names, in the order of the task axis of all arrays.
        losses: unweighted losses of the global batch; 0 for an absent task.
        present: False if no example of the global batch has a label for the task.
        weights: product of the factors of all preceding methods in the chain; the training step passes ones.
        pullback: maps a cotangent of the losses to this device's gradient. The pullback that `jax.vjp` returns gives a
            tuple of one; unpack it. The differentiated function reduces over devices: a loss is
            `psum(sum) / psum(count)`.
        losses_at: the losses of the same batch at other parameters.
        axis_name: the axis of devices that `gradient` averages over; None on one device.
        second_losses_at: the losses of a second batch at other parameters; differentiable. None if the step has no
            second batch.
        indicators: performance per task on the batch, from 0 (worst) to 1 (perfect); NaN for a task that is absent or
            has no indicator. None if no task has one.
        feature_pullback: maps a cotangent of the losses to the gradient with respect to the shared features of this
            device's rows. None unless requested from the step.
        task_indices: distinct indices of tasks, among them every task of the batch; gradient methods run backward
            passes for these tasks only. None: all tasks.
        dependence: whether each loss depends on each parameter, one row per leaf of the parameters. None if unknown.
        wants_gram: whether gradient methods keep the Gram matrix of the step in their state.
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
    feature_pullback: Callable[[Float[Array, "t"]], PyTree] | None = None
    task_indices: Int[Array, "n"] | None = None
    dependence: Callable[[], Bool[np.ndarray, "p t"]] | None = None
    wants_gram: bool = False

    def in_order(self, tasks: tuple[str, ...]) -> "TaskGradients":
        """The same with the tasks in another order.

        Raises:
            ValueError: these are other tasks.
        """
        if tasks == self.tasks:
            return self
        if set(tasks) != set(self.tasks) or len(tasks) != len(self.tasks):
            raise ValueError(f"the tasks are {self.tasks}, not {tasks}")
        places = np.array([self.tasks.index(task) for task in tasks])  # new position -> old position
        back = np.argsort(places)

        def reordered(function: Callable[[optax.Params], Float[Array, "t"]] | None):  # type: ignore[no-untyped-def]
            return None if function is None else lambda params: function(params)[places]

        def accepting(pullback: Callable[[Float[Array, "t"]], PyTree] | None):  # type: ignore[no-untyped-def]
            return None if pullback is None else lambda cotangent: pullback(cotangent[back])

        dependence = self.dependence
        return dataclasses.replace(
            self,
            tasks=tasks,
            losses=self.losses[places],
            present=self.present[places],
            weights=self.weights[places],
            pullback=accepting(self.pullback),
            losses_at=reordered(self.losses_at),
            second_losses_at=reordered(self.second_losses_at),
            indicators=None if self.indicators is None else self.indicators[places],
            feature_pullback=accepting(self.feature_pullback),
            task_indices=None if self.task_indices is None else jnp.asarray(back)[self.task_indices],
            dependence=None if dependence is None else lambda: dependence()[:, places],
        )

    def scale(self, factors: Float[Array, "t"]) -> "TaskGradients":
        """Multiplies the weights by one factor per task.

        Raises:
            ValueError: `factors` does not have one element per task.
        """
        if factors.shape != (len(self.tasks),):
            raise ValueError(f"factors have shape {factors.shape}; expected one per task, ({len(self.tasks)},)")
        return dataclasses.replace(self, weights=self.weights * factors)

    def gradient(self, cotangent: Float[Array, "t"]) -> optax.Updates:
        """The gradient of `sum(cotangent * losses)` over the global batch, in one backward pass.

        psum is its own transpose, so each device's pullback returns its part of the gradient times the number of
        devices. The mean over devices is therefore the sum of the parts.

        `jax.vmap(task_gradients.gradient)(jnp.diag(task_gradients.weights))` computes the gradients of all tasks at
        once, `jax.lax.map` one after another.

        Args:
            cotangent: one number per task, the same on every device.
        """
        gradient = self.pullback(cotangent.astype(self.losses.dtype))
        return collectives.mean(gradient, self.axis_name)

    def feature_gradient(self, cotangent: Float[Array, "t"]) -> PyTree:
        """The gradient of `sum(cotangent * losses)` with respect to the shared features of this device's rows.

        The backward pass covers only the layers after these features. An inner product over the global batch is the sum
        over devices of the inner products of these gradients.

        Args:
            cotangent: one number per task, the same on every device.

        Raises:
            ValueError: the step does not compute these gradients.
        """
        if self.feature_pullback is None:
            raise ValueError(
                "there are no gradients with respect to features: task_gradients computes none, and the training step "
                "does so for networks whose tasks share features, if make_train_step(features=True)"
            )
        gradient = self.feature_pullback(cotangent.astype(self.losses.dtype))
        # psum is its own transpose: the pullback multiplies each device's part by the number of devices.
        count = collectives.total(1, self.axis_name)
        return jax.tree.map(lambda leaf: leaf / count, gradient)


def _is_no_pytree(*_: object) -> NoReturn:
    raise TypeError(
        "TaskGradients are not a gradient and not a pytree: they exist within one step. Pass them to the update of a "
        "chain of mtan_jax.weighting. Inside such a chain, sum_tasks or a gradient method turns them into a gradient, "
        "after which any optax transformation may follow. Around it, optax.MultiSteps and optax.apply_if_finite need "
        "weighting.around. nnx.Optimizer.update takes the gradient that a chain without an optimizer returns. A "
        "compiled function can return their losses, not them"
    )


# Registered, so that every use as a pytree ends in this message.
jax.tree_util.register_pytree_node(TaskGradients, _is_no_pytree, _is_no_pytree)


class SumTasksState(NamedTuple):
    """State of `sum_tasks`.

    Attributes:
        task_weights: weights of the losses at the last step, the product over all methods; 1 before the first step.
    """

    task_weights: Float[Array, "t"]


def sum_tasks(tasks: Sequence[str]) -> optax.GradientTransformationExtraArgs:
    """The gradient of the weighted sum of the losses, in one backward pass.

    Equation: g = d/dp sum_i w_i L_i(p), with constant weights w.

    Args:
        tasks: task names.

    Returns:
        A transformation from `TaskGradients` to a gradient. `task_weights` reads the weights from its state.

    Raises:
        ValueError: no task, or a repeated name.

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
        updates: TaskGradients, state: SumTasksState, params: optax.Params | None = None, **extra_args: object
    ) -> tuple[optax.Updates, SumTasksState]:
        del state, extra_args
        task_gradients = check_updates(updates, tasks, "sum_tasks")
        weights = task_gradients.weights
        gradient = check_gradient(task_gradients.gradient(weights * task_gradients.present), params)
        return gradient, SumTasksState(weights.astype(jnp.float32))

    return optax.GradientTransformationExtraArgs(init, update)


def balancer(
    name: str,
    tasks: tuple[str, ...],
    init: Callable[[], State],
    step: Callable[[TaskGradients, State], tuple[Float[Array, "t"], State]],
) -> optax.GradientTransformationExtraArgs:
    """Builds a loss balancer: a transformation that scales the losses of `TaskGradients`.

    Args:
        name: of the method, for error messages.
        tasks: task names.
        init: returns the initial state, a pytree of arrays whose shapes and dtypes `step` keeps.
        step: maps task gradients and state to one factor per task and the next state. Losses and state are constants in
            the factors, also for an outer derivative, as in meta-learning.
    """

    def init_fn(params: optax.Params) -> State:
        del params
        return init()

    def update_fn(
        updates: TaskGradients, state: State, params: optax.Params | None = None, **extra_args: object
    ) -> tuple[TaskGradients, State]:
        del params, extra_args
        task_gradients = check_updates(updates, tasks, name)
        constant = dataclasses.replace(
            task_gradients,
            losses=lax.stop_gradient(task_gradients.losses),
            weights=lax.stop_gradient(task_gradients.weights),
            indicators=lax.stop_gradient(task_gradients.indicators),
        )
        factors, state = step(constant, lax.stop_gradient(state))
        return task_gradients.scale(factors), state

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def task_weights(opt_state: optax.OptState) -> Float[Array, "t"]:
    """The weights of the losses at the last step, the product over all methods.

    Args:
        opt_state: state of a chain that contains `sum_tasks` or a gradient method exactly once, at any depth.

    Returns:
        One weight per task, in the order of the tasks that the method was built for. (`TaskGradients.tasks` may have
        another order, that of the dictionary of losses.) 1 before the first step. With `parameter_groups`, those of its
        first group.

    Raises:
        ValueError: the chain contains no such transformation, or several.
    """
    found = optax.tree_utils.tree_get_all_with_path(opt_state, "task_weights")
    if len(found) > 1:  # a state that contains others, as that of parameter_groups, comes before them
        found = [(path, value) for path, value in found if not any(_contains(other, path) for other, _ in found)]
    if len(found) != 1:
        raise ValueError(
            f"found {len(found)} fields task_weights in the optimizer state; a chain needs sum_tasks or a gradient "
            "method exactly once"
        )
    return found[0][1]


def _contains(outer: tuple[object, ...], inner: tuple[object, ...]) -> bool:
    """Whether the state with the first field is part of the path of another field."""
    return len(outer) < len(inner) and inner[: len(outer) - 1] == outer[:-1]


def check_updates(updates: object, tasks: tuple[str, ...], name: str) -> TaskGradients:
    """Checks the updates that a weighting method received, and returns them in the order of its tasks.

    Raises:
        TypeError: they are not `TaskGradients`, for instance a gradient.
        ValueError: they are for other tasks.
    """
    if not isinstance(updates, TaskGradients):
        raise TypeError(
            f"{name} got {type(updates).__name__} instead of TaskGradients. Pass the result of task_gradients to the "
            "update of the chain; with has_aux=True, the first of the pair. In a chain, wrappers such as famo come "
            "first, then balancers, then sum_tasks or one gradient method, then the optimizer"
        )
    if set(updates.tasks) != set(tasks):
        raise ValueError(f"{name} was built for the tasks {tasks} but got {updates.tasks}")
    return updates.in_order(tasks)


def check_gradient(gradient: optax.Updates, params: optax.Params | None) -> optax.Updates:
    """Checks that a gradient has the structure of the parameters, and returns it.

    Raises:
        TypeError: it has another structure.
    """
    if params is not None and jax.tree.structure(gradient) != jax.tree.structure(params):  # type: ignore[operator]
        raise TypeError(
            f"the gradient, {type(gradient).__name__}, does not have the structure of the parameters that update "
            "received. Pass those that the losses were differentiated at. If you built TaskGradients with a pullback "
            "of jax.vjp, which returns a tuple of one, pass lambda cotangent: pullback(cotangent)[0]"
        )
    return gradient
