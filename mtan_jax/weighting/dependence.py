"""Which losses depend on each parameter, read from a traced program.

The only file that uses a function of JAX that is not public, `dce_jaxpr`, which removes dead code.
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import jax
import numpy as np
import optax
from jaxtyping import Array, Bool

if TYPE_CHECKING:
    from jax.extend.core import ClosedJaxpr


class DependenceUnknownError(RuntimeError):
    """This version of JAX does not tell which losses depend on a parameter."""


def of(losses_of: Callable[[optax.Params], Sequence[Array]], params: optax.Params) -> Bool[np.ndarray, "p t"]:
    """Whether each loss depends on each parameter, one row per leaf of the parameters.

    Raises:
        DependenceUnknownError: see `read`.
    """
    program = jax.make_jaxpr(losses_of)(params)
    return read(program, range(len(program.jaxpr.outvars)))


def read(program: "ClosedJaxpr", outputs: Sequence[int]) -> Bool[np.ndarray, "p t"]:
    """Whether an output of a program depends on an input, per input and output.

    Control flow and functions under `jax.jit` are followed. A function with a derivative of its own
    (`jax.custom_vjp`) counts as if each of its outputs depended on each of its inputs.

    Args:
        program: from `jax.make_jaxpr`.
        outputs: indices of the outputs, t of them.

    Returns:
        One row for each of the p inputs.

    Raises:
        DependenceUnknownError: the function that this needs is absent or has changed.
    """
    try:
        from jax.interpreters import partial_eval

        count = len(program.jaxpr.outvars)
        columns = [partial_eval.dce_jaxpr(program.jaxpr, [i == output for i in range(count)])[1] for output in outputs]
        return np.array(columns, bool).reshape(len(columns), len(program.jaxpr.invars)).T
    except (ImportError, AttributeError, TypeError, ValueError) as error:
        raise DependenceUnknownError(
            "this version of JAX does not tell which losses depend on a parameter "
            f"({type(error).__name__}: {error}); state it by the option shared, for example "
            "shared=lambda path: path[0] == 'encoder'"
        ) from error
