"""Trains one member per preference vector, all in one compiled program."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from front_problems import TASKS, FrontProblem
from jaxtyping import Array, Float, PyTree

from mtan_jax.weighting import build_weighting, task_gradients

METHODS = ("epo", "hypervolume", "stch", "static")
SMOOTHING = 0.01  # mu of stch


def preference_vectors(count: int) -> Float[np.ndarray, "p 2"]:
    """Preferences r whose rays r_1 L_1 = r_2 L_2 have evenly spaced angles, from 9 to 81 degrees."""
    angles = np.linspace(np.pi / 20, 9 * np.pi / 20, count)
    return 1 / np.stack([np.cos(angles), np.sin(angles)], 1)


def weighting(name: str, problem: FrontProblem, preferences: Float[Array, "2"]) -> tuple[str, dict[str, Any]]:
    """A method with its options. All members of `hypervolume` have the same ones."""
    return {
        "epo": ("epo", {"preferences": preferences}),
        "hypervolume": ("hypervolume", {"reference": (problem.reference,) * 2, "members": "members"}),
        "stch": ("stch", {"preferences": preferences, "mu": SMOOTHING}),
        "static": ("static", {"weights": preferences / preferences.sum()}),
    }[name]


def train(
    name: str,
    problem: FrontProblem,
    preferences: Float[np.ndarray, "p 2"],
    *,
    steps: int | None = None,
    seed: int = 0,
) -> Float[np.ndarray, "p 2"]:
    """The losses of all members at the end of training.

    Args:
        name: one of `METHODS`.
        problem: one of `front_problems.PROBLEMS`.
        preferences: one vector per member.
        steps: number of steps; None: the problem's.
        seed: of the initial parameters, which differ between members.
    """
    steps = steps or problem.steps
    schedule = optax.cosine_decay_schedule(problem.learning_rate, steps)
    optimizer = {"sgd": optax.sgd, "adam": optax.adam}[problem.optimizer](schedule)

    def chain(vector: Float[Array, "2"]) -> optax.GradientTransformationExtraArgs:
        return build_weighting((weighting(name, problem, vector),), TASKS, optimizer)

    def step(params: PyTree, state: optax.OptState, vector: Float[Array, "2"]) -> tuple[PyTree, optax.OptState]:
        given = task_gradients(lambda params: dict(zip(TASKS, problem.losses(params), strict=True)), params)
        updates, state = chain(vector).update(given, state, params)
        return optax.apply_updates(params, updates), state

    @jax.jit
    def run(params: PyTree, vectors: Float[Array, "p 2"]) -> Float[Array, "p 2"]:
        state = jax.vmap(lambda params, vector: chain(vector).init(params))(params, vectors)
        all_members = jax.vmap(step, axis_name="members")
        params, _ = jax.lax.fori_loop(0, steps, lambda _, carry: all_members(*carry, vectors), (params, state))
        return jax.vmap(problem.losses)(params)

    keys = jax.vmap(lambda member: jax.random.fold_in(jax.random.key(seed), member))(jnp.arange(len(preferences)))
    return np.asarray(run(jax.vmap(problem.initialize)(keys), jnp.asarray(preferences)))
