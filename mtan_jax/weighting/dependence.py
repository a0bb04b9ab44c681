"""Which losses depend on each parameter, read from a traced program.

The only file that uses a function of JAX that is not public, `dce_jaxpr`, which removes dead code.
"""

from collections.abc import Callable, Sequence

import jax
import numpy as np
import optax
from jaxtyping import Array, Bool


class DependenceUnknownError(RuntimeError):
    """This version of JAX does not tell which losses depend on a parameter."""


def of(losses_of: Callable[[optax.Params], Sequence[Array]], params: optax.Params) -> Bool[np.ndarray, "p t"]:
    """Whether the derivative of each loss with respect to each parameter may differ from 0, as the program shows.

    A value behind `jax.lax.stop_gradient` has no derivative. Control flow and functions under `jax.jit` are followed. A
    function with a derivative of its own (`jax.custom_vjp`) counts as if each of its outputs depended on each of its
    inputs.

    Args:
        losses_of: maps the parameters to t losses.
        params: arrays of floating point numbers, p of them.

    Returns:
        One row per leaf of the parameters.

    Raises:
        DependenceUnknownError: the function that this needs is absent or has changed.
    """

    def tangents_of(params: optax.Params, tangents: optax.Params) -> list[Array]:
        return jax.jvp(lambda params: list(losses_of(params)), (params,), (tangents,))[1]

    # Forward mode needs one search per loss; in reverse mode it would be one per parameter.
    program = jax.make_jaxpr(tangents_of)(params, params).jaxpr
    count = len(program.outvars)
    try:
        from jax.interpreters import partial_eval

        used = [partial_eval.dce_jaxpr(program, [i == output for i in range(count)])[1] for output in range(count)]
        by_tangent = np.array(used, bool).reshape(count, 2, -1)[:, 1]  # the inputs are the parameters, then tangents
        return by_tangent.T
    except (ImportError, AttributeError, TypeError, ValueError) as error:
        raise DependenceUnknownError(
            "this version of JAX does not tell which losses depend on a parameter "
            f"({type(error).__name__}: {error}); state it by the option shared, for example "
            "shared=lambda path: path[0] == 'encoder'"
        ) from error
