"""A solver for small linear programs over the tasks, in pure JAX."""

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float

from mtan_jax.weighting.numerics import to_boundary

ITERATIONS = 40
_CENTERING = 0.1
_CURVATURE = 1e-6
_SLACK = 100
_Point = tuple[Array, Array, Array, Array, Array]


def maximize_on_simplex(
    gain: Float[Array, "t"],
    rows: Float[Array, "n t"],
    bounds: Float[Array, "n"],
    active: Bool[Array, "n"],
    free: Bool[Array, "t"],
) -> tuple[Float[Array, "t"], Float[Array, ""]]:
    """Maximizes gain'x over x >= 0 with sum(x) = 1 and rows x >= bounds, by a primal-dual interior-point method.

    Each constraint and the gain are divided by their largest coefficients. 5e-7 |x|^2 is subtracted from the gain, so
    that the maximizer is unique and does not depend on the order of the elements. The number of iterations is fixed, so
    the method works under jit and vmap.

    Args:
        gain: coefficients of the objective.
        rows: coefficients of the constraints.
        bounds: their lower bounds.
        active: constraints that apply.
        free: elements that take part; the others are 0. With none, x is 0.

    Returns:
        x, and the largest violation of a scaled constraint. If the constraints cannot be met, the violation stays large
        and x is a finite point of no meaning. Otherwise it is below 1e-6 in float64, and below 1e-3 in float32.

    Source: Nocedal and Wright, Numerical Optimization (2006), chapters 14 and 16.6.
    """
    dtype = gain.dtype
    inside = free.astype(dtype)
    count = jnp.maximum(inside.sum(), 1)
    rows = jnp.where(free[None], rows, 0)
    sizes = jnp.abs(rows).max(1)
    active = active & (sizes > 0)
    sizes = jnp.where(active, sizes, 1)
    # A constraint that does not apply becomes 0 >= -1.
    matrix = jnp.where(active[:, None], rows / sizes[:, None], 0)
    lower = jnp.where(active, bounds / sizes - _SLACK * jnp.finfo(dtype).eps, -1)
    slope = -jnp.where(free, gain, 0)
    slope = slope / jnp.maximum(jnp.abs(slope).max(), jnp.finfo(dtype).tiny)

    def step(_: Array, point: _Point) -> _Point:
        x, z, slack, price, y = point
        gap = ((x * z * inside).sum() + (slack * price).sum()) / (count + len(slack))
        target = _CENTERING * gap
        missing = matrix @ x - slack - lower
        dual = slope + _CURVATURE * x - price @ matrix + y
        ratio = price / slack
        right = -dual + (target / slack - ratio * missing - price) @ matrix + target / x
        # Elements that are not free satisfy dx = 0.
        quadratic = matrix.T @ (ratio[:, None] * matrix) + jnp.diag(jnp.where(free, z / x + _CURVATURE, 1))
        system = jnp.block([[quadratic, inside[:, None]], [inside[None], jnp.zeros((1, 1), dtype)]])
        right = jnp.append(jnp.where(free, right, 0), 1 - (x * inside).sum())
        solution = jnp.linalg.solve(system, right)
        dx, dy = solution[:-1], solution[-1]
        dz = jnp.where(free, (target - z * dx) / x - z, 0)
        dslack = matrix @ dx + missing
        dprice = (target - price * dslack) / slack - price
        pairs = ((x, dx), (z, dz), (slack, dslack), (price, dprice))
        length = jnp.stack([to_boundary(value, change) for value, change in pairs]).min()
        moved = (*(value + length * change for value, change in pairs), y + length * dy)
        # Keep the last point if the precision runs out, or if the prices of an infeasible program grow without bound.
        finite = jnp.stack([jnp.isfinite(value).all() for value in moved]).all()
        return jax.tree.map(lambda new, old: jnp.where(finite, new, old), moved, point)

    x = jnp.where(free, 1 / count, 1).astype(dtype)
    slack = jnp.maximum(matrix @ jnp.where(free, x, 0) - lower, 0.1)
    start = (x, jnp.ones_like(x), slack, jnp.ones_like(slack), jnp.zeros((), dtype))
    x, *_ = lax.fori_loop(0, ITERATIONS, step, start)
    x = jnp.where(free, x, 0)
    x = x / jnp.where(free.any(), x.sum(), 1)
    return x, jnp.maximum(lower - matrix @ x, 0).max()
