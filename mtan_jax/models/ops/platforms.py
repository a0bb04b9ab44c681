"""Selects an implementation by the platform that a program is compiled for."""

from collections.abc import Callable
from typing import TypeVar

from jax import lax
from jaxtyping import Array

Result = TypeVar("Result")


def select(
    *arrays: Array | tuple[Array, ...],
    default: Callable[..., Result],
    cpu: Callable[..., Result] | None = None,
    tpu: Callable[..., Result] | None = None,
) -> Result:
    """Calls the implementation for the platform that the program is compiled for.

    Args:
        *arrays: the arguments of every implementation.
        default: the implementation for platforms that have none of their own.
        cpu: the implementation for CPUs.
        tpu: the implementation for TPUs.
    """
    own = {name: variant for name, variant in (("cpu", cpu), ("tpu", tpu)) if variant not in (None, default)}
    if not own:
        return default(*arrays)
    result: Result = lax.platform_dependent(*arrays, default=default, **own)
    return result
