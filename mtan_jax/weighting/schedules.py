"""Functions of the step for the weights of tasks, in the form that `schedule` and optax take.

Each function here makes one that maps the step to the weight of one task; `curriculum` makes one for each of several
tasks. Arguments that optax has too are called as there. `constant` and `linear` are optax's own.

    weights = {
        "semantic": constant(1.0),
        "depth": linear(1.0, 0.1, transition_steps=10_000),
        "normal": step(0.0, 1.0, transition_begin=2000),
    }
    weights = curriculum(("semantic", "depth", "normal"), 5000, overlap=1000)

All lengths are in steps, and the first step is 0.
"""

import math
from collections.abc import Mapping, Sequence

import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int32
from optax import constant_schedule as constant
from optax import linear_schedule as linear

from mtan_jax.weighting.core import check_tasks

__all__ = ["constant", "cosine", "curriculum", "cyclic", "linear", "piecewise", "step"]

_Step = Int32[Array, ""]
_Weight = Float[Array, ""]


def cosine(init_value: float, end_value: float, transition_steps: int, transition_begin: int = 0) -> optax.Schedule:
    """From one weight to another along half a cosine, up or down (that of optax only falls).

    Equation: w(t) = end + (init - end) (1 + cos(pi u)) / 2 with u = (t - begin) / steps, held in 0..1.

    Args:
        init_value: the weight until `transition_begin`.
        end_value: the weight from `transition_begin` + `transition_steps` on.
        transition_steps: length of the way, at least 1.
        transition_begin: where it begins.

    Raises:
        ValueError: a weight is negative or not finite, or a length too small.

    Example:
        >>> from mtan_jax.weighting.schedules import cosine
        >>> weight = cosine(0.0, 1.0, transition_steps=100)
        >>> [round(float(weight(t)), 3) for t in (0, 25, 50, 100, 200)]
        [0.0, 0.146, 0.5, 1.0, 1.0]
    """
    _check_weights("cosine", init_value=init_value, end_value=end_value)
    _check_length("cosine", "transition_steps", transition_steps, 1)
    _check_length("cosine", "transition_begin", transition_begin, 0)

    def weight(step: _Step) -> _Weight:
        return init_value + (end_value - init_value) * _rise((step - transition_begin) / transition_steps)

    return weight


def step(init_value: float, end_value: float, transition_begin: int) -> optax.Schedule:
    """One weight before a step, another from it on.

    Equation: w(t) = init for t < begin, end for t >= begin.

    Args:
        init_value: the weight before; 0 leaves the task out.
        end_value: the weight after.
        transition_begin: the first step with `end_value`.

    Raises:
        ValueError: a weight is negative or not finite, or the step is no whole number of at least 0.

    Example:
        >>> from mtan_jax.weighting.schedules import step
        >>> weight = step(0.0, 1.0, transition_begin=100)
        >>> [float(weight(t)) for t in (0, 99, 100)]
        [0.0, 0.0, 1.0]
    """
    _check_weights("step", init_value=init_value, end_value=end_value)
    _check_length("step", "transition_begin", transition_begin, 0)
    return lambda step: jnp.where(step < transition_begin, init_value, end_value)


def piecewise(points: Mapping[int, float]) -> optax.Schedule:
    """Straight lines from point to point.

    Equation: w(t) = w_k + (w_{k+1} - w_k) (t - t_k) / (t_{k+1} - t_k) for t_k <= t <= t_{k+1}; before the first point
    and after the last the weight is theirs.

    Args:
        points: {step: weight}, the steps growing.

    Raises:
        ValueError: no point, a step that is no whole number of at least 0 or not above the one before, or a weight that
            is negative or not finite.

    Example:
        >>> from mtan_jax.weighting.schedules import piecewise
        >>> weight = piecewise({0: 0.0, 100: 1.0, 300: 0.5})
        >>> [float(weight(t)) for t in (0, 50, 100, 200, 1000)]
        [0.0, 0.5, 1.0, 0.75, 0.5]
    """
    steps, weights = list(points), list(points.values())
    if not steps or steps != sorted(steps):
        raise ValueError(f"piecewise points are {dict(points)}: at least one is needed, and their steps must grow")
    for at, value in points.items():
        _check_length("piecewise", "step of points", at, 0)
        _check_weights("piecewise", **{f"weight at step {at}": value})
    return lambda step: jnp.interp(step, jnp.array(steps, jnp.float32), jnp.array(weights, jnp.float32))


def cyclic(low: float, high: float, period: int, *, phase: float = 0.0) -> optax.Schedule:
    """Between two weights and back, again and again, along a cosine.

    Equation: w(t) = low + (high - low) (1 - cos(2 pi (t / period + phase))) / 2.

    Tasks with phases spread evenly take turns, and their weights add up to the same at every step: with n of them, at
    least 2, to n (low + high) / 2.

    Args:
        low: the weight at t = 0 where the phase is 0.
        high: the weight half a period later.
        period: at least 1.
        phase: how far the cycle is at t = 0, in periods.

    Raises:
        ValueError: a weight is negative, a number is not finite, or the period too small.

    Example:
        >>> from mtan_jax.weighting.schedules import cyclic
        >>> weight = cyclic(0.5, 1.5, period=100)
        >>> [round(float(weight(t)), 3) for t in (0, 25, 50, 75, 100)]
        [0.5, 1.0, 1.5, 1.0, 0.5]
        >>> turns = {task: cyclic(0.0, 2.0, 300, phase=i / 3) for i, task in enumerate(("semantic", "depth", "normal"))}
    """
    _check_weights("cyclic", low=low, high=high)
    _check_length("cyclic", "period", period, 1)
    if not math.isfinite(phase):
        raise ValueError(f"cyclic phase is {phase}: a finite number of periods is needed")

    def weight(step: _Step) -> _Weight:
        return low + (high - low) * (1 - jnp.cos(2 * jnp.pi * (step % period / period + phase))) / 2

    return weight


def curriculum(
    tasks: Sequence[str],
    turn: int,
    *,
    overlap: int = 0,
    low: float = 0.0,
    high: float = 1.0,
    repeat: bool = False,
) -> dict[str, optax.Schedule]:
    """One task after the other: each has the high weight in its turn, the others the low one.

    Equation: w_k(t) = low + (high - low) (r_k(t) - r_{k+1}(t)), where r_k rises from 0 to 1 along half a cosine over
    the `overlap` steps before step k `turn`, at which turn k = 0, ..., n - 1 begins; r_0 = 1 and r_n = 0. The weights
    add up to high + (n - 1) low at every step.

    The result is a dictionary to which other tasks can be added: `curriculum(("depth", "normal"), 1000) | {"semantic":
    1.0}`. For tasks that join and stay, give each a `step` or a `cosine` of its own.

    Args:
        tasks: names, in the order of their turns.
        turn: length of each; the last task's does not end.
        overlap: steps at the end of a turn over which it is handed over, at most `turn`; 0: at once.
        low: the weight of a task that does not have its turn.
        high: the weight of the one that has.
        repeat: whether the first task follows the last, so that they take turns to the end.

    Returns:
        {task: function of the step}.

    Raises:
        ValueError: no task or one named twice; a weight is negative or not finite; a length is out of its range.

    Example:
        >>> from mtan_jax.weighting.schedules import curriculum
        >>> weights = curriculum(("semantic", "depth"), 100, overlap=20)
        >>> [[round(float(weights[task](t)), 3) for task in weights] for t in (0, 80, 90, 100, 500)]
        [[1.0, 0.0], [1.0, 0.0], [0.5, 0.5], [0.0, 1.0], [0.0, 1.0]]
    """
    tasks = check_tasks(tasks)
    _check_weights("curriculum", low=low, high=high)
    _check_length("curriculum", "turn", turn, 1)
    _check_length("curriculum", "overlap", overlap, 0)
    if overlap > turn:
        raise ValueError(f"curriculum overlap is {overlap}: at most the {turn} steps of a turn are possible")
    count = len(tasks)

    def has_come(step: _Step, k: int) -> _Weight:
        return _rise(1 + (step - k * turn) / max(overlap, 1))  # over one step is at once

    def make(k: int) -> optax.Schedule:
        def weight(step: _Step) -> _Weight:
            step = step % (count * turn) if repeat else step
            share = has_come(step, k) if k else jnp.ones(())
            share = share - has_come(step, k + 1) if repeat or k + 1 < count else share
            share = share + has_come(step, count) if repeat and k == 0 else share
            return low + (high - low) * share

        return weight

    return {task: make(k) for k, task in enumerate(tasks)}


def _rise(u: _Weight) -> _Weight:
    """From 0 at u = 0 to 1 at u = 1 along half a cosine."""
    return (1 - jnp.cos(jnp.pi * jnp.clip(u, 0, 1))) / 2


def _check_weights(name: str, **values: float) -> None:
    for argument, value in values.items():
        if isinstance(value, bool | str) or not 0 <= value < math.inf:
            raise ValueError(f"{name} {argument} is {value!r}: a finite number of at least 0 is needed")


def _check_length(name: str, argument: str, value: int, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(f"{name} {argument} is {value!r}: a whole number of at least {least} steps is needed")
