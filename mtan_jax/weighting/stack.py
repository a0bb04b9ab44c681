"""`Stack`: the gradients of all tasks, as gradient methods see them."""

from collections.abc import Sequence
from typing import NamedTuple

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float

from mtan_jax.runtime import collectives


class Stack(NamedTuple):
    """The gradients of all tasks over the global batch, with respect to the shared parameters or to shared features.

    Attributes:
        leaves: one array [t, ...] per shared parameter; 0 for absent tasks. For features, this device's rows. Empty
            with backward="gram".
        losses: the losses, weighted by the methods before.
        present: tasks that take part: those that have a label in the batch and depend on the shared parameters.
        axis_name: the axis of devices that each hold a part of the leaves; None if every device holds all of them.
        known_gram: the Gram matrix, where it was computed without keeping the leaves.
    """

    leaves: tuple[Float[Array, "t ..."], ...]
    losses: Float[Array, "t"]
    present: Bool[Array, "t"]
    axis_name: str | None = None
    known_gram: Float[Array, "t t"] | None = None

    @property
    def gram(self) -> Float[Array, "t t"]:
        """The Gram matrix G_ij = <g_i, g_j>, in float32 or wider."""
        if self.known_gram is not None:
            return self.known_gram
        return collectives.total(gram_of(self.leaves), self.axis_name)


def gram_of(leaves: Sequence[Float[Array, "t ..."]]) -> Float[Array, "t t"]:
    """The inner products of all pairs of rows, summed over the leaves, in float32 or wider."""
    return inner_products(leaves, leaves)


def inner_products(
    left: Sequence[Float[Array, "t ..."]], right: Sequence[Float[Array, "t ..."]]
) -> Float[Array, "t t"]:
    """The inner products of each row on the left with each on the right, summed over the leaves; float32 or wider."""

    def rows(leaf: Float[Array, "t ..."]) -> Float[Array, "t n"]:
        return leaf.reshape(len(leaf), -1).astype(jnp.promote_types(leaf.dtype, jnp.float32))

    products = [
        jnp.matmul(rows(a), rows(b).T, precision=lax.Precision.HIGHEST) for a, b in zip(left, right, strict=True)
    ]
    return sum(products[1:], products[0])


def weighted_sum(weights: Float[Array, "t"], leaf: Float[Array, "t ..."]) -> Float[Array, "..."]:
    """The sum of a leaf's rows, each multiplied by its task's weight."""
    return jnp.tensordot(weights.astype(leaf.dtype), leaf, 1)


def zeros_per_task(leaves: Sequence[Float[Array, "..."]], tasks: int) -> tuple[Float[Array, "t ..."], ...]:
    """Zeros for one sum or average per task and parameter, in float32 or wider.

    In bfloat16, a sum stops growing when it is 256 times as large as its terms.
    """
    return tuple(jnp.zeros((tasks, *leaf.shape), jnp.promote_types(leaf.dtype, jnp.float32)) for leaf in leaves)
