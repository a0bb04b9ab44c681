"""Small functions and bounds that several methods share."""

from typing import TypeVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

State = TypeVar("State")

# Smaller losses count as this one: their inverses and logarithms stay finite.
SMALLEST_LOSS = 1e-10
# Beyond this size a softmax saturates at 0 or 1 anyway. It subtracts exponents, and inf - inf is NaN.
LARGEST_EXPONENT = 1e30


def softmax_over(present: Bool[Array, "t"], logits: Float[Array, "t"]) -> Float[Array, "t"]:
    """Softmax over the present tasks; 0 for the others."""
    shares = jax.nn.softmax(jnp.where(present | ~present.any(), logits, -jnp.inf))
    return jnp.where(present, shares, 0)


def update_where(moves: Bool[Array, "t"], new: State, old: State) -> State:
    """The new entries of a state for the tasks that move, the old ones for the others; leaves [t]."""
    moved: State = jax.tree.map(lambda a, b: jnp.where(moves, a, b), new, old)
    return moved


def nan_if_negative(
    weights: Float[Array, "t"], losses: Float[Array, "t"], present: Bool[Array, "t"]
) -> Float[Array, "t"]:
    """NaN in place of the weight of each present task whose loss is negative.

    For methods that take logarithms or ratios of losses. As with a loss that is NaN, the update is not finite.
    """
    return jnp.where(present & (losses < 0), jnp.nan, weights)


def to_boundary(x: Float[Array, "n"], direction: Float[Array, "n"]) -> Float[Array, ""]:
    """The longest step of an interior-point method, at most 1: 0.99 of the way to where x is no longer positive."""
    falls = direction < 0
    return jnp.where(falls, -0.99 * x / jnp.where(falls, direction, -1), 1).min()
