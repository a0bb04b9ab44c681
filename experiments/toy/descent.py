"""Runs a weighting method of `mtan_jax` on the problem, from all starting points at once."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax
from jaxtyping import Array, Float
from landscape import FLOOR, TASKS, Problem

from mtan_jax.weighting import METHODS, build_weighting, task_gradients

# Options other than the defaults. A new method of METHODS needs no entry if its defaults suffice.
OPTIONS: dict[str, dict[str, Any]] = {
    "dwa": {"variant": "nash"},
    "uncertainty": {"variant": "nash"},
}
STEPS_PER_EPOCH = 100  # for methods that count epochs
LEFT_OUT = {
    "static": "weights chosen by the user; equal is one case",
    "schedule": "weights chosen by the user",
    "dtp": "needs an indicator of how well each task is done",
    "auto_lambda": "learns from a second batch; here there is only one",
    "modo": "learns from a second batch; here there is only one",
    "pbi": "trade-off chosen by the user",
    "cosmos": "trade-off chosen by the user",
    "krum": "the mean of both gradients if there are two",
    "trimmed_mean": "the mean of both gradients if there are two",
}
NAMES = tuple(name for name in METHODS if name not in LEFT_OUT)


def trajectories(
    name: str,
    problem: Problem,
    *,
    steps: int | None = None,
    every: int = 100,
    options: Mapping[str, Any] | None = None,
    floor: float = FLOOR,
    x64: bool = True,
) -> Float[np.ndarray, "starts samples 2"]:
    """Returns the trajectories of a method with Adam, one per starting point.

    Args:
        name: a name in `METHODS`.
        problem: one of `landscape.PROBLEMS`.
        steps: number of steps, a multiple of `every`; None: the problem's.
        every: number of steps between two samples.
        options: options of the method; they override those of `OPTIONS` and of the problem.
        floor: subtracted from the unscaled losses that methods see, because some divide by losses or take their
            logarithm, and these losses are negative. Gradients are unchanged.
        x64: whether to use float64. On the front gradients cancel, and Adam scales rounding noise to full steps.

    Returns:
        The points before steps 0, every, 2 every, ..., and after the last step.
    """
    chosen = OPTIONS.get(name, {}) | dict(problem.options.get(name, {})) | dict(options or {})
    with jax.enable_x64(x64):
        return np.asarray(_run(name, problem, steps or problem.steps, every, chosen, floor))


def _run(
    name: str, problem: Problem, steps: int, every: int, options: Mapping[str, Any], floor: float
) -> Float[Array, "starts samples 2"]:
    tx = build_weighting(
        name,
        TASKS,
        optax.adam(problem.learning_rate),
        options={name: options},
        defaults={"steps_per_epoch": STEPS_PER_EPOCH, "learning_rate": problem.learning_rate},
    )

    def seen(params: dict[str, Array]) -> Float[Array, "t"]:
        return problem.losses(params["point"]) - floor * jnp.array(problem.scale)

    def step(carry: Any, _: None) -> tuple[Any, None]:
        params, state = carry
        gradients = task_gradients(lambda params: dict(zip(TASKS, seen(params), strict=True)), params)
        updates, state = tx.update(gradients, state, params)
        return (optax.apply_updates(params, updates), state), None

    def sample(carry: Any, _: None) -> tuple[Any, Float[Array, "2"]]:
        return lax.scan(step, carry, None, every)[0], carry[0]["point"]

    @jax.jit
    @jax.vmap
    def run(start: Float[Array, "2"]) -> Float[Array, "samples 2"]:
        params = {"point": start}
        (params, _), points = lax.scan(sample, (params, tx.init(params)), None, steps // every)
        return jnp.concatenate([points, params["point"][None]])

    return run(jnp.array(problem.starts))
