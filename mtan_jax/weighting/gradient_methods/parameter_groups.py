"""Different methods for different parameters."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import jax
import optax
from jaxtyping import Array, Float

from mtan_jax.types import Path
from mtan_jax.weighting.core import TaskGradients, check_gradient, check_updates, sum_tasks, task_weights
from mtan_jax.weighting.declaration import Method, declaration_of, declare
from mtan_jax.weighting.option_checks import check_tasks
from mtan_jax.weighting.shared_parameters import paths_of


class ParameterGroupsState(NamedTuple):
    """State of `parameter_groups`.

    Attributes:
        task_weights: those of the first group.
        groups: state of each group's method, by name.
    """

    task_weights: Float[Array, "t"]
    groups: dict[str, optax.OptState]


@declare("gradient_method")
def parameter_groups(
    tasks: Sequence[str], *, groups: Mapping[str, Method], label: Callable[[Path], str]
) -> optax.GradientTransformationExtraArgs:
    """A weighting method per group of parameters, as `optax.partition` has an optimizer per group.

    Each method sees the gradients of its own parameters only: its Gram matrix, and what it counts as shared. The
    backward passes that methods have in common are the same operations, which XLA runs once.

    Args:
        tasks: task names.
        groups: by the name of a group, a function from the task names to a gradient method or a balancer, such as
            `pcgrad` or `functools.partial(cagrad, c=0.5)`. `equal` gives the gradient of the sum of the losses.
        label: the name of the group of a parameter, from its path.

    Raises:
        TypeError: a group or `label` is not a function.
        ValueError: no group, a wrapper or a method that learns from a second batch as a group, and at `init`, a group
            that is unknown, is not a weighting method, or has no parameters.

    Example:
        >>> import optax
        >>> from mtan_jax.weighting import equal, parameter_groups, pcgrad
        >>> groups = {"encoder": pcgrad, "decoder": equal}
        >>> tx = optax.chain(
        ...     parameter_groups(("semantic", "depth"), groups=groups, label=lambda path: path[0]), optax.adam(1e-4)
        ... )
    """
    tasks = check_tasks(tasks)
    if not callable(label):
        raise TypeError(
            f"parameter_groups label is {type(label).__name__}; expected a function from the path of a parameter to "
            "the name of its group, such as lambda path: path[0]"
        )
    if not groups:
        raise ValueError("parameter_groups has no groups; expected a dictionary from names to weighting methods")
    methods = {name: _complete(name, method, tasks) for name, method in groups.items()}

    def names_of(tree: optax.Params) -> list[str]:
        paths = paths_of(tree)
        names = [label(path) for path in paths]
        for path, name in zip(paths, names, strict=True):
            if name not in methods:
                raise ValueError(
                    f"parameter_groups label of {'/'.join(path)!r} is {name!r}; known: {', '.join(methods)}"
                )
        return names

    def init(params: optax.Params) -> ParameterGroupsState:
        names = names_of(params)
        unused = [name for name in methods if names and name not in names]
        if unused:
            raise ValueError(
                f"parameter_groups: no parameter belongs to the group {', '.join(unused)}; the first keys are "
                f"{sorted({path[0] for path in paths_of(params) if path})}"
            )
        states = {name: method.init(_part(params, names, name)) for name, method in methods.items()}
        for name, state in states.items():
            if not optax.tree_utils.tree_get_all_with_path(state, "task_weights"):
                raise ValueError(
                    f"parameter_groups group {name!r} is not a weighting method: its state has no field task_weights. "
                    "Put an optimizer after parameter_groups in the chain, and declare a balancer of your own by "
                    '@declare("balancer")'
                )
        return ParameterGroupsState(task_weights(states[next(iter(methods))]), states)

    def update(
        updates: TaskGradients, state: ParameterGroupsState, params: optax.Params | None = None, **extra_args: object
    ) -> tuple[optax.Updates, ParameterGroupsState]:
        task_gradients = check_updates(updates, tasks, "parameter_groups")
        like = jax.eval_shape(task_gradients.pullback, task_gradients.losses)
        names = names_of(check_gradient(like, params))
        states, results = {}, {}
        for name, method in methods.items():
            part = None if params is None else _part(params, names, name)
            result, states[name] = method.update(
                _restricted(task_gradients, names, name), state.groups[name], part, **extra_args
            )
            results[name] = iter(jax.tree.leaves(result))
        gradient = jax.tree.unflatten(jax.tree.structure(like), [next(results[name]) for name in names])
        return gradient, ParameterGroupsState(task_weights(states[next(iter(methods))]), states)

    return optax.GradientTransformationExtraArgs(init, update)


def _complete(group: str, method: Method, tasks: tuple[str, ...]) -> optax.GradientTransformationExtraArgs:
    """The method as one that returns a gradient."""
    if not callable(method):
        raise TypeError(
            f"parameter_groups group {group!r} is {type(method).__name__}; expected a function from the task names to "
            "a method, such as pcgrad in place of pcgrad(tasks)"
        )
    declaration = declaration_of(method)
    if declaration is not None and declaration.kind == "wrapper":
        raise ValueError(
            f"parameter_groups group {group!r} is a wrapper; expected a gradient method or a balancer. Put the wrapper "
            "around the whole chain, with parameter_groups inside"
        )
    if declaration is not None and declaration.needs.second_batch:
        raise ValueError(
            f"parameter_groups group {group!r} is a method that learns from a second batch, which acts on all "
            "parameters; use it without parameter_groups"
        )
    if declaration is not None and declaration.kind == "balancer":
        return optax.chain(method(tasks), sum_tasks(tasks))
    return optax.with_extra_args_support(method(tasks))


def _part(tree: optax.Params, names: Sequence[str], name: str) -> optax.Params:
    """The tree with the leaves of the other groups masked."""
    leaves, structure = jax.tree.flatten(tree)
    kept = [leaf if own == name else optax.MaskedNode() for leaf, own in zip(leaves, names, strict=True)]
    return jax.tree.unflatten(structure, kept)


def _restricted(task_gradients: TaskGradients, names: Sequence[str], name: str) -> TaskGradients:
    """The task gradients with respect to the parameters of one group."""
    dependence = task_gradients.dependence
    rows = [own == name for own in names]
    return dataclasses.replace(
        task_gradients,
        pullback=lambda cotangent: _part(task_gradients.pullback(cotangent), names, name),
        dependence=None if dependence is None else lambda: dependence()[rows],
    )
