"""Two problems with two tasks whose Pareto fronts are known."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

TASKS = ("first", "second")
_SIZE = 20  # variables of the concave problem
_EXAMPLES = 64
_HIDDEN = 32


@dataclasses.dataclass(frozen=True)
class FrontProblem:
    """A problem with two tasks.

    Attributes:
        title: for the figure.
        initialize: maps a random key to the parameters of one member.
        losses: maps the parameters of one member to the losses of both tasks.
        front: maps positions from 0 to 1 to the losses on the front, [n, 2].
        steps: steps of training.
        learning_rate: the initial one; it falls to 0 along a cosine.
        optimizer: "sgd" or "adam".
        reference: reference point of the hypervolume, for both tasks.
    """

    title: str
    initialize: Callable[[Array], PyTree]
    losses: Callable[[PyTree], Float[Array, "2"]]
    front: Callable[[Float[np.ndarray, "n"]], Float[np.ndarray, "n 2"]]
    steps: int
    learning_rate: float
    optimizer: str
    reference: float


def _concave_losses(params: dict[str, Array]) -> Float[Array, "2"]:
    """f_i = 1 - exp(-|x -+ 1/sqrt(n)|^2) (Lin et al., NeurIPS 2019, the synthetic example)."""
    x = params["x"]
    centers = jnp.array([[1.0], [-1.0]]) / jnp.sqrt(len(x))
    return 1 - jnp.exp(-((x[None] - centers) ** 2).sum(1))


def _concave_front(positions: Float[np.ndarray, "n"]) -> Float[np.ndarray, "n 2"]:
    """The Pareto set is the segment between both minima, x = t (1, ..., 1) / sqrt(n) with t from -1 to 1."""
    t = 2 * positions - 1
    return np.stack([1 - np.exp(-((t - 1) ** 2)), 1 - np.exp(-((t + 1) ** 2))], 1)


_X = np.linspace(-1, 1, _EXAMPLES)
_TARGETS = np.stack([np.sin(np.pi * _X), np.cos(np.pi * _X)])
_DISTANCE = ((_TARGETS[0] - _TARGETS[1]) ** 2).mean()


def _initial_network(key: Array) -> dict[str, Any]:
    keys = jax.random.split(key, 4)
    middle = jax.random.normal(keys[2], (_HIDDEN, _HIDDEN)) / np.sqrt(_HIDDEN)
    last = jax.random.normal(keys[3], (_HIDDEN, 1)) / np.sqrt(_HIDDEN)
    first, biases = 3 * jax.random.normal(keys[0], (1, _HIDDEN)), jax.random.normal(keys[1], (_HIDDEN,))
    return {
        "hidden_0": {"kernel": first, "bias": biases},
        "hidden_1": {"kernel": middle, "bias": jnp.zeros(_HIDDEN)},
        "output": {"kernel": last, "bias": jnp.zeros(1)},
    }


def _regression_losses(params: dict[str, Any]) -> Float[Array, "2"]:
    """Mean square errors of one output of a network with respect to two targets, sin(pi x) and cos(pi x)."""
    dense = lambda layer, x: x @ layer["kernel"] + layer["bias"][None]  # noqa: E731
    hidden = jnp.tanh(dense(params["hidden_0"], jnp.asarray(_X)[:, None]))
    output = dense(params["output"], jnp.tanh(dense(params["hidden_1"], hidden)))[:, 0]
    return ((output[None] - jnp.asarray(_TARGETS)) ** 2).mean(1)


def _regression_front(positions: Float[np.ndarray, "n"]) -> Float[np.ndarray, "n 2"]:
    """The best outputs are (1 - t) first + t second target, so that sqrt(L_1) + sqrt(L_2) is constant."""
    return _DISTANCE * np.stack([positions**2, (1 - positions) ** 2], 1)


PROBLEMS = {
    "concave": FrontProblem(
        title="Concave front, 20 variables",
        initialize=lambda key: {"x": jax.random.uniform(key, (_SIZE,), minval=-0.3, maxval=0.3)},
        losses=_concave_losses,
        front=_concave_front,
        steps=1000,
        learning_rate=0.2,
        optimizer="sgd",
        reference=1.1,
    ),
    "network": FrontProblem(
        title="Network, two regression targets",
        initialize=_initial_network,
        losses=_regression_losses,
        front=_regression_front,
        steps=4000,
        learning_rate=0.01,
        optimizer="adam",
        reference=1.1,
    ),
}


def distances(problem: FrontProblem, losses: Float[np.ndarray, "p 2"]) -> Float[np.ndarray, "p"]:
    """The distance of each point from the front."""
    line = problem.front(np.linspace(0, 1, 20_001))
    return np.linalg.norm(np.asarray(losses)[:, None] - line[None], axis=2).min(1)
