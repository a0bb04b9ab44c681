"""The two-task problem of the CAGrad and Nash-MTL papers: losses, starting points, Pareto front."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

TASKS = ("one", "two")
SMALLEST_DISTANCE = 5e-6  # to the floor of a valley
FLOOR = -21.0  # a lower bound of both losses


@dataclasses.dataclass(frozen=True)
class Problem:
    """Losses, starting points and number of steps of one paper.

    Attributes:
        title: title in figures.
        scale: factor of each loss.
        starts: starting points [starts, 2].
        steps: number of steps of Adam.
        options: options by method name, where this paper differs from `descent.OPTIONS`.
        learning_rate: learning rate of Adam.
    """

    title: str
    scale: tuple[float, float]
    starts: tuple[tuple[float, float], ...]
    steps: int
    options: Mapping[str, Mapping[str, Any]] = dataclasses.field(hash=False)
    learning_rate: float = 1e-3

    def losses(self, point: Float[Array, "2"]) -> Float[Array, "2"]:
        """Returns both scaled losses at a point."""
        return unscaled_losses(point) * jnp.array(self.scale, point.dtype)


PROBLEMS = {
    # The paper prints (-8.5, 5) for the second start; its code and figure 1 have (-8.5, -5).
    "cagrad": Problem(
        "CAGrad (NeurIPS 2021)",
        (1.0, 1.0),
        ((-8.5, 7.5), (-8.5, -5.0), (0.0, 0.0), (9.0, 9.0), (10.0, -8.0)),
        100_000,
        {"cagrad": {"c": 0.5}},
    ),
    "nash": Problem(
        "Nash-MTL (ICML 2022)",
        (0.1, 1.0),
        ((-8.5, 7.5), (0.0, 0.0), (9.0, 9.0), (-7.5, -0.5), (9.0, -1.0)),
        35_000,
        {"cagrad": {"c": 0.4}},
    ),
}


def unscaled_losses(point: Float[Array, "2"]) -> Float[Array, "2"]:
    """The losses of Liu et al., NeurIPS 2021, section 5.1.

    L_i = c_1 f_i + c_2 g_i. Above y = 0 a loss is c_1 = tanh(y / 2) times f_i, a logarithm with a narrow valley; below
    it is c_2 = tanh(-y / 2) times g_i, a bowl. With x the first coordinate, the valleys are at x = -7 + 2 tanh y and
    7 - 2 tanh y and the bowls at x = 7 and -7, so each task has to cross to the other side on its way down.

    The papers print the tanh of the second valley with the other sign. This is the sign of both published codes and of
    the drawn contours, which are symmetric.
    """
    x, y = point
    side = jnp.array([-1.0, 1.0], point.dtype)
    upper, lower = _positive(jnp.tanh(y / 2)), _positive(jnp.tanh(-y / 2))
    distance = jnp.abs((7 - 2 * jnp.tanh(y) - side * x) / 2)
    valley = jnp.log(jnp.where(distance >= SMALLEST_DISTANCE, distance, SMALLEST_DISTANCE)) + 6
    bowl = ((x + 7 * side) ** 2 + (y + 8) ** 2 / 10) / 10 - 20
    return upper * valley + lower * bowl


def _positive(number: Float[Array, ""]) -> Float[Array, ""]:
    """Returns max(number, 0), with slope 1 at 0 as in PyTorch, because one start is there."""
    return jnp.where(number >= 0, number, 0)


@dataclasses.dataclass(frozen=True)
class Front:
    """The Pareto front.

    Attributes:
        shares: [points], increasing from 0 to 1.
        points: [points, 2], the minimizers of share * L_1 + (1 - share) * L_2 with unscaled losses.
        losses: [points, 2], the scaled losses.
    """

    shares: np.ndarray
    points: np.ndarray
    losses: np.ndarray

    def nearest(self, losses: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns the distance of losses [..., 2] from the front, and the shares of the nearest points.

        Each loss is measured in units of its range over the front, so a distance of 1 is its whole extent.
        """
        extent = np.ptp(self.losses, axis=0)
        apart = np.linalg.norm((losses[..., None, :] - self.losses) / extent, axis=-1)
        return apart.min(-1), self.shares[apart.argmin(-1)]


def pareto_front(problem: Problem, count: int = 1001) -> Front:
    """Computes the front by Newton's method on weighted sums of the losses.

    Every point of the front minimizes such a sum because the front is convex. `tests/experiments/test_toy.py`
    compares it with a grid.
    """
    shares = np.linspace(0, 1, count)

    def minimise(share: Float[Array, ""]) -> Float[Array, "2"]:
        def total(point: Float[Array, "2"]) -> Float[Array, ""]:
            return jnp.array([share, 1 - share]) @ unscaled_losses(point)

        def step(_: Array, point: Float[Array, "2"]) -> Float[Array, "2"]:
            return point - jnp.linalg.solve(jax.hessian(total)(point), jax.grad(total)(point))

        return lax.fori_loop(0, 20, step, jnp.array([0.0, -8.0]))

    with jax.enable_x64(True):
        points = jax.vmap(minimise)(jnp.asarray(shares))
        return Front(shares, np.asarray(points), np.asarray(jax.vmap(problem.losses)(points)))
