"""Sums and means over devices; one alone computes none, which XLA for CPUs would do all the same."""

from typing import TypeVar

from jax import lax

Tree = TypeVar("Tree")


def total(tree: Tree, axis_name: str | None) -> Tree:
    """The sum of numbers over the devices on an axis; what is given, where there is no axis or one device on it."""
    return tree if _is_alone(axis_name) else lax.psum(tree, axis_name)


def mean(tree: Tree, axis_name: str | None) -> Tree:
    """The mean of floats over the devices on an axis; what is given, where there is no axis or one device on it."""
    return tree if _is_alone(axis_name) else lax.pmean(tree, axis_name)


def _is_alone(axis_name: str | None) -> bool:
    return axis_name is None or lax.axis_size(axis_name) == 1
