"""Small convex problems over the tasks, in pure JAX: compiled with the step, safe in float32, any number of tasks.

Each takes the Gram matrix G of the task gradients, G_ij = <g_i, g_j>, and costs a fixed number of solutions of a linear
system with one unknown a task. All may be jitted and vmapped. Answers do not change where G is multiplied by a number.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float

ITERATIONS = 30
_TO_BOUNDARY = 0.99
_CENTERING = 0.1
_SHORTER = 6


def interior_point(
    objective: Callable[[Float[Array, "t"], Float[Array, ""]], Float[Array, ""]],
    start: Float[Array, "t"],
    free: Bool[Array, "t"],
    *,
    on_simplex: bool,
) -> Float[Array, "t"]:
    """Where a convex function is smallest over x >= 0, and sum(x) = 1 if `on_simplex`: primal-dual path-following.

    Args:
        objective: (x, how far from the end) -> value: twice differentiable where x > 0; values and derivatives of a
            size of about 1. The second argument falls to 0; by it, a function with an edge may be smoothed at first.
        start: positive; with `on_simplex` it sums to 1 over the free elements.
        free: where False, x stays 0.
        on_simplex: whether x sums to 1.

    Returns:
        x; every element at least 0. In float32 exact to about 1e-5 of the largest.

    Source: Nocedal and Wright, Numerical Optimization (2006), chapters 16.6 and 19.
    """
    dtype = start.dtype
    fixed = (~free).astype(dtype)

    def function(x: Float[Array, "t"], distance: Float[Array, ""]) -> Float[Array, ""]:
        return objective(jnp.where(free, x, 0), distance)

    def step(_: Array, carry: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        x, z, y = carry
        # Fixed elements are a problem of their own: min x^2/2 - x, which starts and stays at 1.
        distance = (x * z * (1 - fixed)).sum() / jnp.maximum(free.sum(), 1)
        gradient = jnp.where(free, jax.grad(function)(x, distance) + y * on_simplex, x - 1)
        target = _CENTERING * distance
        matrix = jax.hessian(function)(x, distance) + jnp.diag(z / x + fixed)
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
        longest = jnp.minimum(_to_boundary(x, dx), _to_boundary(z, dz))

        def error(length: Float[Array, ""]) -> Float[Array, ""]:
            x1, z1, y1 = x + length * dx, z + length * dz, y + length * dy
            slope = jax.grad(function)(x1, distance) + y1 * on_simplex - z1
            return (jnp.square(slope) + jnp.square(x1 * z1 - target)).sum(where=free)

        # A full step is best but where the function is far from a quadratic one.
        lengths = longest * 0.5 ** jnp.arange(_SHORTER)
        length = lengths[jnp.argmin(jax.vmap(error)(lengths))]
        moved = (x + length * dx, z + length * dz, y + length * dy)
        # Where float32 gives out, the iterate before stands.
        finite = jnp.isfinite(jnp.concatenate([moved[0], moved[1], moved[2][None]])).all()
        return jax.tree.map(lambda new, old: jnp.where(finite, new, old), moved, carry)

    x = jnp.where(free, start, 1)
    carry = (x, jnp.ones_like(x), jnp.zeros((), dtype))
    x, _, _ = lax.fori_loop(0, ITERATIONS, step, carry)
    return jnp.where(free, x, 0)


def _to_boundary(x: Float[Array, "t"], direction: Float[Array, "t"]) -> Float[Array, ""]:
    """The longest step, 1 at most, that keeps x above 0."""
    falls = direction < 0
    return jnp.where(falls, -_TO_BOUNDARY * x / jnp.where(falls, direction, -1), 1).min()


def min_norm(gram: Float[Array, "t t"], present: Bool[Array, "t"]) -> Float[Array, "t"]:
    """The weights of the shortest convex combination of the gradients: argmin w'Gw, w >= 0, sum w = 1.

    Args:
        gram: G.
        present: tasks that take part; the others have weight 0.

    Returns:
        w; all 0 where no task is present.
    """
    gram = unit_size(gram)
    return interior_point(
        lambda w, _: 0.5 * (w @ gram @ w + _ridge(gram) * w @ w), _uniform(gram, present), present, on_simplex=True
    )


def conflict_averse(gram: Float[Array, "t t"], present: Bool[Array, "t"], radius: float) -> Float[Array, "t"]:
    """CAGrad's inner problem (Liu et al. 2021, equation 5): argmin over the simplex of g_w'g_0 + c |g_0| |g_w|.

    g_0 is the mean of the gradients of present tasks and g_w = sum_i w_i g_i.

    Args:
        gram: G.
        present: tasks that take part.
        radius: c.

    Returns:
        w; all 0 where no task is present.
    """
    gram = unit_size(gram)
    mean = _uniform(gram, present)
    along, norm = gram @ mean, jnp.sqrt(jnp.maximum(mean @ gram @ mean, 0))

    def objective(w: Float[Array, "t"], distance: Float[Array, ""]) -> Float[Array, ""]:
        return along @ w + radius * norm * jnp.sqrt(w @ gram @ w + jnp.maximum(distance, 1e-14))

    return interior_point(objective, mean, present, on_simplex=True)


def project_to_dual_cone(
    weights: Float[Array, "t"], gram: Float[Array, "t t"], present: Bool[Array, "t"]
) -> Float[Array, "t"]:
    """The weights of the vector nearest to sum_i u_i g_i that conflicts with no gradient: <g_i, .> >= 0 for all i.

    Equation: argmin v'Gv, v >= u (Quinton and Rey 2024, proposition 1).

    Args:
        weights: u.
        gram: G.
        present: tasks that take part; the others keep u.

    Returns:
        v.
    """
    # In units of each gradient's length; a gradient of 0 conflicts with nothing.
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
    """The positive weights with (G w)_i = w_i^(-power): Nash-MTL's for power 1, FairGrad's for power 1/alpha.

    They are the minimum of w'Gw/2 - sum_i log w_i (power 1) or - sum_i w_i^(1-power) / (1-power), both convex, which
    Newton's method finds in the logarithms of w.

    Args:
        gram: G.
        present: tasks that take part; the others have weight 0.
        power: above 0.

    Returns:
        w; of a task without any gradient, as if its gradient had a millionth of the length of the largest. Where
        gradients nearly cancel the equation holds to about 1e-3; where they cancel it has no solution, and w is finite.
    """
    # In units of each gradient's length: x = |g| w solves (C x)_i = x_i^(-power) |g_i|^(power - 1), C the cosines.
    squares = jnp.where(present, jnp.diag(gram), 0)
    largest = jnp.where(squares.max() > 0, squares.max(), 1)
    lengths = jnp.sqrt(jnp.where(present, jnp.maximum(squares / largest, 1e-12), 1))
    both = present[:, None] & present[None]
    cosines = jnp.where(both, gram / largest / lengths[:, None] / lengths[None], 0)
    cosines = cosines * (1 - jnp.eye(len(gram))) + (1 + 10 * _ridge(gram)) * jnp.eye(len(gram))
    right = lengths ** (power - 1)

    def step(_: Array, logarithms: Float[Array, "t"]) -> Float[Array, "t"]:
        x = jnp.exp(logarithms)
        pull, push = x * (cosines @ x), right * x ** (1 - power)
        quadratic = x[:, None] * cosines * x[None]
        # Far from the minimum the function of the logarithms need not be convex; without that part it is.
        exact = jnp.linalg.solve(quadratic + jnp.diag(pull - (1 - power) * push), pull - push)
        steady = jnp.linalg.solve(quadratic + jnp.diag(jnp.abs(pull) + power * push), pull - push)
        usable = jnp.isfinite(exact).all() & (exact @ (pull - push) > 0)
        direction = jnp.where(usable, exact, steady)
        return logarithms - direction / jnp.maximum(jnp.abs(direction).max(), 1)

    logarithms = lax.fori_loop(0, ITERATIONS, step, jnp.log(right) / (1 + power))
    w = jnp.exp(logarithms) / lengths * largest ** (-1 / (1 + power))
    return jnp.where(present, w, 0)


def project_to_simplex(point: Float[Array, "t"], present: Bool[Array, "t"]) -> Float[Array, "t"]:
    """The nearest point whose elements are at least 0 and sum to 1 (Duchi et al., ICML 2008, figure 1).

    Args:
        point: any point.
        present: tasks that take part; the others have 0.

    Returns:
        w; all 0 where no task is present.
    """
    falling = jnp.sort(jnp.where(present, point, -jnp.inf))[::-1]
    excess = jnp.cumsum(jnp.where(jnp.isfinite(falling), falling, 0)) - 1
    counts = jnp.arange(1, len(point) + 1)
    kept = jnp.maximum((falling * counts > excess).sum(), 1)
    return jnp.where(present, jnp.maximum(point - excess[kept - 1] / kept, 0), 0)


def unit_size(gram: Float[Array, "t t"]) -> Float[Array, "t t"]:
    """G divided by its largest diagonal element."""
    largest = jnp.diag(gram).max()
    return gram / jnp.where(largest > 0, largest, 1)


def _uniform(gram: Float[Array, "t t"], present: Bool[Array, "t"]) -> Float[Array, "t"]:
    return present.astype(gram.dtype) / jnp.maximum(present.sum(), 1)


def _ridge(gram: Float[Array, "t t"]) -> float:
    """What is added to squares whose largest is 1, so that answers are unique: as much as their type can show."""
    return float(jnp.finfo(gram.dtype).eps)
