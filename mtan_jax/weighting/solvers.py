"""Solvers for small convex problems over the tasks, in pure JAX, for any number of tasks.

They take the Gram matrix G of the task gradients, G_ij = <g_i, g_j>, and solve a fixed number of linear systems with
one unknown per task. They work under jit and vmap, and are stable in float32. Scaling G does not change the direction
of the result.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float

from mtan_jax.weighting.numerics import to_boundary

ITERATIONS = 30
_CENTERING = 0.1
_STEP_LENGTHS = 6


def interior_point(
    objective: Callable[[Float[Array, "t"], Float[Array, ""]], Float[Array, ""]],
    start: Float[Array, "t"],
    free: Bool[Array, "t"],
    *,
    on_simplex: bool,
) -> Float[Array, "t"]:
    """Minimizes a convex function over x >= 0, and sum(x) = 1 if `on_simplex`, by a primal-dual interior-point method.

    Args:
        objective: maps (x, duality gap) to a value, twice differentiable for x > 0, with values and derivatives of
            order 1. The gap falls to 0 over the iterations; a function with a kink can use it to smooth the kink.
        start: positive initial x; with `on_simplex` it sums to 1 over the free elements.
        free: where False, x stays 0.
        on_simplex: whether x sums to 1.

    Returns:
        The nonnegative minimizer x, accurate in float32 to about 1e-5 of its largest element.

    Source: Nocedal and Wright, Numerical Optimization (2006), chapters 16.6 and 19.
    """
    dtype = start.dtype
    fixed = (~free).astype(dtype)

    def function(x: Float[Array, "t"], gap: Float[Array, ""]) -> Float[Array, ""]:
        return objective(jnp.where(free, x, 0), gap)

    def step(_: Array, carry: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        x, z, y = carry
        # Fixed elements minimize x^2/2 - x instead: they start at its minimum, 1, and stay there.
        gap = (x * z * (1 - fixed)).sum() / jnp.maximum(free.sum(), 1)
        gradient = jnp.where(free, jax.grad(function)(x, gap) + y * on_simplex, x - 1)
        target = _CENTERING * gap
        matrix = jax.hessian(function)(x, gap) + jnp.diag(z / x + fixed)
        right = target / x - gradient
        if on_simplex:
            ones = free.astype(dtype)
            matrix = jnp.block([[matrix, ones[:, None]], [ones[None], jnp.zeros((1, 1), dtype)]])
            solution = jnp.linalg.solve(matrix, jnp.append(right, 1 - (x * ones).sum()))
            dx, dy = solution[:-1], solution[-1]
        else:
            dx, dy = jnp.linalg.solve(matrix, right), jnp.zeros((), dtype)
        dx = jnp.where(free, dx, 0)
        dz = jnp.where(free, (target - z * dx) / x - z, 0)
        longest = jnp.minimum(to_boundary(x, dx), to_boundary(z, dz))

        def error(length: Float[Array, ""]) -> Float[Array, ""]:
            x1, z1, y1 = x + length * dx, z + length * dz, y + length * dy
            slope = jax.grad(function)(x1, gap) + y1 * on_simplex - z1
            return (jnp.square(slope) + jnp.square(x1 * z1 - target)).sum(where=free)

        # The full step is best, except where the function is far from quadratic.
        lengths = longest * 0.5 ** jnp.arange(_STEP_LENGTHS, dtype=dtype)
        length = lengths[jnp.argmin(jax.vmap(error)(lengths))]
        moved = (x + length * dx, z + length * dz, y + length * dy)
        # Keep the last iterate if float32 runs out of precision.
        finite = jnp.isfinite(jnp.concatenate([moved[0], moved[1], moved[2][None]])).all()
        return jax.tree.map(lambda new, old: jnp.where(finite, new, old), moved, carry)

    x = jnp.where(free, start, 1)
    carry = (x, jnp.ones_like(x), jnp.zeros((), dtype))
    x, _, _ = lax.fori_loop(0, ITERATIONS, step, carry)
    return jnp.where(free, x, 0)


def min_norm(gram: Float[Array, "t t"], present: Bool[Array, "t"]) -> Float[Array, "t"]:
    """The weights of the convex combination of least norm: argmin w'Gw, w >= 0, sum w = 1.

    Args:
        gram: G.
        present: tasks that take part; the others have weight 0.

    Returns:
        w; all 0 if no task is present.
    """
    gram = unit_size(gram)
    return interior_point(
        lambda w, _: 0.5 * (w @ gram @ w + _ridge(gram) * w @ w), _uniform(gram, present), present, on_simplex=True
    )


def conflict_averse(gram: Float[Array, "t t"], present: Bool[Array, "t"], radius: float) -> Float[Array, "t"]:
    """CAGrad's inner problem (Liu et al. 2021, equation 5): argmin over the simplex of g_w'g_0 + c |g_0| |g_w|.

    g_0 is the mean gradient of the present tasks, and g_w = sum_i w_i g_i.

    Args:
        gram: G, of unit size (`unit_size`).
        present: tasks that take part.
        radius: c.

    Returns:
        w; all 0 if no task is present.
    """
    mean = _uniform(gram, present)
    along, norm = gram @ mean, jnp.sqrt(jnp.maximum(mean @ gram @ mean, 0))

    def objective(w: Float[Array, "t"], gap: Float[Array, ""]) -> Float[Array, ""]:
        return along @ w + radius * norm * jnp.sqrt(w @ gram @ w + jnp.maximum(gap, 1e-14))

    return interior_point(objective, mean, present, on_simplex=True)


def project_to_dual_cone(
    weights: Float[Array, "t"], gram: Float[Array, "t t"], present: Bool[Array, "t"]
) -> Float[Array, "t"]:
    """Projects sum_i u_i g_i onto the dual cone of the gradients, the vectors with <g_i, .> >= 0 for all i.

    Equation: argmin v'Gv, v >= u (Quinton and Rey 2024, proposition 1).

    Args:
        weights: u.
        gram: G.
        present: tasks that take part; the others keep u.

    Returns:
        v, the weights of the projection sum_i v_i g_i.
    """
    # Compute with gradients divided by their norms. A gradient of 0 conflicts with nothing.
    lengths = jnp.sqrt(jnp.diag(gram))
    lengths = jnp.where(present & (lengths > 0), lengths, 1)
    cosines = gram / lengths[:, None] / lengths[None]
    moved = present & (jnp.diag(gram) > 0)
    scale = jnp.abs(weights * lengths * present).max()
    wanted = weights * lengths / jnp.where(scale > 0, scale, 1)
    pull = cosines @ jnp.where(present, wanted, 0)
    more = interior_point(
        lambda x, _: 0.5 * (x @ cosines @ x + 10 * _ridge(gram) * x @ x) + pull @ x,
        jnp.ones_like(weights),
        moved,
        on_simplex=False,
    )
    return weights + more * scale / lengths


def fair_weights(gram: Float[Array, "t t"], present: Bool[Array, "t"], power: float) -> Float[Array, "t"]:
    """The positive weights with (G w)_i = w_i^(-power): Nash-MTL for power 1, FairGrad for power 1/alpha.

    They minimize w'Gw/2 - sum_i log w_i (power 1) or w'Gw/2 - sum_i w_i^(1-power) / (1-power). Both are convex.
    Newton's method runs on the logarithms of w.

    Args:
        gram: G.
        present: tasks that take part; the others have weight 0.
        power: positive exponent.

    Returns:
        w. A gradient of 0 counts as one with a millionth of the largest norm. If the gradients nearly cancel, the
        equation holds to about 1e-3. If they cancel, it has no solution, and w is finite.
    """
    # With the matrix of cosines C, x = |g| w solves (C x)_i = x_i^(-power) |g_i|^(power - 1).
    squares = jnp.where(present, jnp.diag(gram), 0)
    largest = jnp.where(squares.max() > 0, squares.max(), 1)
    lengths = jnp.sqrt(jnp.where(present, jnp.maximum(squares / largest, 1e-12), 1))
    both = present[:, None] & present[None]
    cosines = jnp.where(both, gram / largest / lengths[:, None] / lengths[None], 0)
    unit = jnp.eye(len(gram), dtype=gram.dtype)
    cosines = cosines * (1 - unit) + (1 + 10 * _ridge(gram)) * unit
    right = lengths ** (power - 1)

    def step(_: Array, logarithms: Float[Array, "t"]) -> Float[Array, "t"]:
        x = jnp.exp(logarithms)
        pull, push = x * (cosines @ x), right * x ** (1 - power)
        quadratic = x[:, None] * cosines * x[None]
        # Far from the minimum, the Hessian in the first system may be indefinite; the second is positive definite.
        exact = jnp.linalg.solve(quadratic + jnp.diag(pull - (1 - power) * push), pull - push)
        steady = jnp.linalg.solve(quadratic + jnp.diag(jnp.abs(pull) + power * push), pull - push)
        usable = jnp.isfinite(exact).all() & (exact @ (pull - push) > 0)
        direction = jnp.where(usable, exact, steady)
        return logarithms - direction / jnp.maximum(jnp.abs(direction).max(), 1)

    logarithms = lax.fori_loop(0, ITERATIONS, step, jnp.log(right) / (1 + power))
    w = jnp.exp(logarithms) / lengths * largest ** (-1 / (1 + power))
    return jnp.where(present, w, 0)


def project_to_simplex(point: Float[Array, "t"], present: Bool[Array, "t"]) -> Float[Array, "t"]:
    """The Euclidean projection onto the simplex (Duchi et al., ICML 2008, figure 1).

    Args:
        point: any point.
        present: tasks that take part; the others have 0.

    Returns:
        The nearest point with nonnegative elements that sum to 1; all 0 if no task is present.
    """
    falling = jnp.sort(jnp.where(present, point, -jnp.inf))[::-1]
    excess = jnp.cumsum(jnp.where(jnp.isfinite(falling), falling, 0)) - 1
    counts = jnp.arange(1, len(point) + 1)
    kept = jnp.maximum((falling * counts > excess).sum(), 1)
    return jnp.where(present, jnp.maximum(point - excess[kept - 1] / kept, 0), 0)


def unit_size(gram: Float[Array, "t t"]) -> Float[Array, "t t"]:
    """Divides G by its largest diagonal element."""
    largest = jnp.diag(gram).max()
    return gram / jnp.where(largest > 0, largest, 1)


def _uniform(gram: Float[Array, "t t"], present: Bool[Array, "t"]) -> Float[Array, "t"]:
    return present.astype(gram.dtype) / jnp.maximum(present.sum(), 1)


def _ridge(gram: Float[Array, "t t"]) -> float:
    """Machine epsilon, added to a diagonal whose largest element is 1 so that the solution is unique."""
    return float(jnp.finfo(gram.dtype).eps)
