"""psum and pmean that skip the collective on one device, where XLA for CPUs would still compute it."""

from typing import TypeVar

from jax import lax

Tree = TypeVar("Tree")


def total(tree: Tree, axis_name: str | None) -> Tree:
    """Psum of a pytree; the identity without an axis or with one device."""
    return tree if _has_one_device(axis_name) else lax.psum(tree, axis_name)


def mean(tree: Tree, axis_name: str | None) -> Tree:
    """Pmean of a pytree of floats; the identity without an axis or with one device."""
    return tree if _has_one_device(axis_name) else lax.pmean(tree, axis_name)


def _has_one_device(axis_name: str | None) -> bool:
    return axis_name is None or lax.axis_size(axis_name) == 1
