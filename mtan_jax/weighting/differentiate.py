"""Makes `TaskGradients` in any training loop: from the losses as a function of the parameters, or from gradients."""

import functools
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Literal, TypeVar, overload

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Float, PyTree

from mtan_jax.runtime import collectives
from mtan_jax.weighting import dependence
from mtan_jax.weighting.core import TaskGradients
from mtan_jax.weighting.option_checks import in_task_order
from mtan_jax.weighting.shared_parameters import paths_of

if TYPE_CHECKING:
    from jax.extend.core import ClosedJaxpr

Aux = TypeVar("Aux")
Losses = Mapping[str, Array]


@overload
def task_gradients(
    losses_of: Callable[[optax.Params], Losses],
    params: optax.Params,
    *,
    has_aux: Literal[False] = ...,
    axis_name: str | None = ...,
    present: Mapping[str, Bool[Array, ""]] | None = ...,
    second_losses_of: Callable[[optax.Params], Losses] | None = ...,
    indicators: Mapping[str, Float[Array, ""]] | None = ...,
) -> TaskGradients: ...


@overload
def task_gradients(
    losses_of: Callable[[optax.Params], tuple[Losses, Aux]],
    params: optax.Params,
    *,
    has_aux: Literal[True],
    axis_name: str | None = ...,
    present: Mapping[str, Bool[Array, ""]] | None = ...,
    second_losses_of: Callable[[optax.Params], Losses] | None = ...,
    indicators: Mapping[str, Float[Array, ""]] | None = ...,
) -> tuple[TaskGradients, Aux]: ...


def task_gradients(
    losses_of: Callable[[optax.Params], Losses | tuple[Losses, Aux]],
    params: optax.Params,
    *,
    has_aux: bool = False,
    axis_name: str | None = None,
    present: Mapping[str, Bool[Array, ""]] | None = None,
    second_losses_of: Callable[[optax.Params], Losses] | None = None,
    indicators: Mapping[str, Float[Array, ""]] | None = None,
) -> TaskGradients | tuple[TaskGradients, Aux]:
    """Differentiates the losses of all tasks, like `jax.value_and_grad` for several losses.

    The result takes the place of the gradient in `update` of a chain of weighting methods. `losses_of` is traced once;
    the backward passes happen in the methods. Which losses depend on a parameter is read from the traced program.

    Args:
        losses_of: maps parameters to one scalar loss per task, a dictionary by task name; with `has_aux`, to a pair of
            this and anything else, such as new statistics of BatchNorm.
        params: a pytree of arrays of floating point numbers.
        has_aux: whether `losses_of` returns a pair.
        axis_name: the axis of devices under `jax.pmap` or `jax.shard_map`, over which losses and gradients are
            averaged. Losses that `losses_of` has already reduced over it stay as they are.
        present: whether any example has a label, by task name; an absent task takes no part in the step, and its loss
            counts as 0. It needs a finite derivative: NaN in the backward pass of one task reaches the parameters that
            it shares with others. None: all tasks are present.
        second_losses_of: the losses of a second batch, for `auto_lambda` and other methods that learn from one.
        indicators: performance by task name, from 0 to 1, for `dtp`; averaged over the devices, as the losses.

    Returns:
        The task gradients, with the tasks in the order of the dictionary; with `has_aux`, a pair of these and the rest.

    Raises:
        TypeError: `losses_of` does not return a dictionary of scalars, or a parameter is not of floating point numbers.
        ValueError: `present` or `indicators` has other names than the losses, or not one scalar per task; there is no
            axis `axis_name`; or under `jax.shard_map`, each device has losses of its own and `axis_name` is absent.

    Example:
        >>> import jax.numpy as jnp, optax
        >>> from mtan_jax.weighting import pcgrad, task_gradients
        >>> params = {"trunk": jnp.array([1.0, 2.0]), "heads": {"depth": jnp.array(0.5), "normal": jnp.array(2.0)}}
        >>> def losses_of(params):
        ...     features = params["trunk"] ** 2
        ...     return {task: (head * features - 1).sum() ** 2 for task, head in params["heads"].items()}
        >>> tx = optax.chain(pcgrad(("depth", "normal")), optax.sgd(0.01))
        >>> opt_state = tx.init(params)
        >>> updates, opt_state = tx.update(task_gradients(losses_of, params), opt_state, params)
        >>> print(optax.apply_updates(params, updates)["trunk"].round(2))
        [0.35 0.7 ]
    """
    _check_axis(axis_name)
    program, tasks, aux_of = _trace(losses_of, params, has_aux)
    count = len(tasks)

    is_present = _present(tasks, present)

    def outputs_at(params: optax.Params) -> list[Array]:
        return jax.core.eval_jaxpr(program.jaxpr, program.consts, *jax.tree.leaves(params))

    def differentiable(params: optax.Params) -> tuple[Float[Array, "t"], list[Array]]:
        outputs = outputs_at(params)
        losses = collectives.mean(jnp.stack(outputs[:count]), axis_name)
        return jnp.where(is_present, losses, 0), outputs[count:]

    losses, pullback, rest = jax.vjp(differentiable, params, has_aux=True)
    _check_reduced(losses, params)
    gradients = TaskGradients(
        tasks,
        losses,
        is_present,
        jnp.ones_like(losses),
        lambda cotangent: pullback(cotangent)[0],
        losses_at=lambda params: differentiable(params)[0],
        axis_name=axis_name,
        second_losses_at=None if second_losses_of is None else _second(second_losses_of, tasks, axis_name),
        indicators=None if indicators is None else _indicators(tasks, indicators, axis_name),
        dependence=functools.cache(lambda: dependence.of(lambda params: outputs_at(params)[:count], params)),
    )
    return (gradients, aux_of(rest)) if has_aux else gradients


def from_jacobian(
    losses: Losses,
    jacobian: Mapping[str, optax.Updates],
    *,
    axis_name: str | None = None,
    present: Mapping[str, Bool[Array, ""]] | None = None,
) -> TaskGradients:
    """Makes `TaskGradients` of gradients that exist already, such as those of `jax.jacrev`.

    Args:
        losses: by task name.
        jacobian: the gradient of each loss, by task name. None in place of an array states that a loss does not depend
            on a parameter. None for all tasks is part of the structure, as for the static leaves of Equinox. Without a
            None of some tasks only, gradient methods need the option `shared`.
        axis_name: the axis of devices over which losses and gradients are averaged.
        present: see `task_gradients`.

    Raises:
        TypeError: a loss is not a scalar.
        ValueError: the names of losses and gradients differ, or the gradients differ in structure.

    Example:
        >>> import jax, jax.numpy as jnp, optax
        >>> from mtan_jax.weighting import from_jacobian, mgda
        >>> losses_of = lambda params: {"depth": (params**2).sum(), "normal": ((params - 1) ** 2).sum()}
        >>> params = jnp.array([2.0, 0.0])
        >>> tx = optax.chain(mgda(("depth", "normal"), shared="all"), optax.sgd(0.1))
        >>> gradients = from_jacobian(losses_of(params), jax.jacrev(losses_of)(params))
        >>> updates, opt_state = tx.update(gradients, tx.init(params), params)
    """
    _check_axis(axis_name)
    tasks = _check_losses(losses)
    rows = in_task_order("jacobian", tasks, jacobian)
    flat = [jax.tree.flatten(row, is_leaf=lambda leaf: leaf is None) for row in rows]
    structures = {structure for _, structure in flat}
    if len(structures) > 1:
        raise ValueError(f"from_jacobian: the gradients have different structures: {sorted(map(str, structures))}")
    structure = flat[0][1]
    all_columns = list(zip(*(leaves for leaves, _ in flat), strict=True))
    columns = [column for column in all_columns if any(leaf is not None for leaf in column)]
    table = np.array([[leaf is not None for leaf in column] for column in columns], bool)
    is_present = _present(tasks, present)

    def pullback(cotangent: Float[Array, "t"]) -> optax.Updates:
        sums: list[Array | None] = []
        for column in all_columns:
            products = [
                w.astype(leaf.dtype) * jnp.where(is_here, leaf, 0)
                for w, is_here, leaf in zip(cotangent, is_present, column, strict=True)
                if leaf is not None
            ]
            sums.append(sum(products[1:], products[0]) if products else None)
        return jax.tree.unflatten(structure, sums)

    stacked = collectives.mean(jnp.stack([jnp.asarray(losses[task]) for task in tasks]), axis_name)
    stacked = jnp.where(is_present, stacked, 0)
    _check_reduced(stacked, columns)
    return TaskGradients(
        tasks,
        stacked,
        is_present,
        jnp.ones_like(stacked),
        pullback,
        axis_name=axis_name,
        dependence=None if table.all() else lambda: table,
    )


def _trace(
    losses_of: Callable[[optax.Params], Losses | tuple[Losses, Aux]], params: optax.Params, has_aux: bool
) -> tuple["ClosedJaxpr", tuple[str, ...], Callable[[list[Array]], Aux]]:
    """Traces the losses; returns the program, the names of its first outputs, and what makes aux of the others."""
    if not callable(losses_of):
        raise TypeError(
            f"task_gradients: losses_of is {type(losses_of).__name__}; expected a function from the parameters to the "
            "losses, as in task_gradients(lambda params: losses_of(params, batch), params)"
        )
    for path, leaf in zip(paths_of(params), jax.tree.leaves(params), strict=True):
        if not _is_array(leaf):
            raise TypeError(
                f"task_gradients: the parameter {'/'.join(path)!r} is {type(leaf).__name__}, not an array; split the "
                "arrays that are trained from the rest, for example by nnx.split or eqx.partition"
            )
        if not jnp.issubdtype(jnp.result_type(leaf), jnp.floating):
            raise TypeError(
                f"task_gradients: the parameter {'/'.join(path)!r} has type {jnp.result_type(leaf)}; differentiate "
                "with respect to floating point numbers only, for example after nnx.split or eqx.partition"
            )
    found: dict[str, PyTree] = {}

    def flat(params: optax.Params) -> tuple[list[Array], list[Array]]:
        result: Any = losses_of(params)
        if has_aux and not (isinstance(result, tuple) and len(result) == 2):
            raise TypeError(
                f"task_gradients has_aux=True: losses_of returned {_described(result)}; expected a pair, the losses "
                "and anything else. If it returns the losses only, leave out has_aux"
            )
        losses, aux = result if has_aux else (result, None)
        found["tasks"] = _check_losses(losses)
        leaves, found["structure"] = jax.tree.flatten(aux)
        # Anything may be returned: what is not an array stays outside of the program.
        found["others"] = [None if _is_array(leaf) else leaf for leaf in leaves]
        return [losses[task] for task in found["tasks"]], [leaf for leaf in leaves if _is_array(leaf)]

    program = jax.make_jaxpr(flat)(params)

    def aux_of(arrays: list[Array]) -> Aux:
        rest = iter(arrays)
        leaves = [next(rest) if other is None else other for other in found["others"]]
        aux: Aux = jax.tree.unflatten(found["structure"], leaves)
        return aux

    return program, found["tasks"], aux_of


def _check_axis(axis_name: str | None) -> None:
    try:
        collectives.total(1, axis_name)
    except NameError as error:
        raise ValueError(
            f"there is no axis axis_name={axis_name!r}: it exists inside jax.pmap and jax.shard_map only. Under "
            "jax.jit, leave out axis_name, also with a batch that is sharded over devices"
        ) from error


def _check_reduced(losses: Float[Array, "t"], params: PyTree) -> None:
    """Checks that the losses are equal on all devices on which the parameters are.

    Raises:
        ValueError: they differ, as far as `jax.shard_map` tells, which it does not with `check_vma=False`.
    """
    known = frozenset().union(*(_varying(leaf) for leaf in jax.tree.leaves(params)))
    axes = sorted(map(str, _varying(losses) - known))
    if axes:
        raise ValueError(
            f"the losses differ between the devices of the axis {', '.join(axes)}, while the parameters are the same; "
            f"pass axis_name={axes[0]!r}, which averages losses and gradients over the devices"
        )


def _varying(array: Array) -> frozenset[str]:
    """The axes of `jax.shard_map` along which the devices hold different values."""
    return frozenset(getattr(getattr(jax.typeof(array), "manual_axis_type", None), "varying", ()))


def _check_losses(losses: object) -> tuple[str, ...]:
    """Returns the names of the tasks.

    Raises:
        TypeError: the losses are not a dictionary of scalars.
    """
    if not isinstance(losses, Mapping) or not losses:
        raise TypeError(
            f"the losses are {_described(losses)}; expected a dictionary with one scalar per task, as in "
            "{'depth': loss_of_depth, 'normal': loss_of_normals}; with other results beside it, set has_aux=True"
        )
    for task, loss in losses.items():
        if not isinstance(task, str):
            raise TypeError(f"the name of a task is {task!r}; expected text")
        if not _is_array(loss) or jnp.shape(loss) or not jnp.issubdtype(jnp.result_type(loss), jnp.floating):
            raise TypeError(
                f"the loss of {task!r} is {_described(loss)}; expected a scalar of floating point type, for example "
                "its mean over the batch"
            )
    return tuple(losses)


def _described(value: Any) -> str:
    if _is_array(value):
        return f"{jnp.result_type(value)}{list(jnp.shape(value))}"
    return "an empty dictionary" if value == {} else type(value).__name__


def _is_array(leaf: object) -> bool:
    return isinstance(leaf, jax.Array | np.ndarray | np.generic | bool | int | float | complex)


def _present(tasks: tuple[str, ...], present: Mapping[str, Bool[Array, ""]] | None) -> Bool[Array, "t"]:
    if present is None:
        return jnp.ones(len(tasks), bool)
    return jnp.stack([value.astype(bool) for value in _scalars("present", tasks, present)])


def _indicators(
    tasks: tuple[str, ...], indicators: Mapping[str, Float[Array, ""]], axis_name: str | None
) -> Float[Array, "t"]:
    values = jnp.stack(_scalars("indicators", tasks, indicators))
    return collectives.mean(values.astype(jnp.promote_types(values.dtype, jnp.float32)), axis_name)


def _scalars(name: str, tasks: tuple[str, ...], values: Mapping[str, Array]) -> list[Array]:
    arrays = [jnp.asarray(value) for value in in_task_order(name, tasks, values)]
    for task, array in zip(tasks, arrays, strict=True):
        if array.shape:
            raise ValueError(f"{name} of {task!r} is {_described(array)}; expected one value for the whole batch")
    return arrays


def _second(
    losses_of: Callable[[optax.Params], Losses], tasks: tuple[str, ...], axis_name: str | None
) -> Callable[[optax.Params], Float[Array, "t"]]:
    def losses_at(params: optax.Params) -> Float[Array, "t"]:
        losses = losses_of(params)
        _check_losses(losses)
        return collectives.mean(jnp.stack(in_task_order("second_losses_of", tasks, losses)), axis_name)

    return losses_at
