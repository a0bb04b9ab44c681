"""Schedules of task weights, for the weighting method `schedule`.

Each function returns an optax schedule: a function from the step to one task's weight. `curriculum` returns one per
task. Arguments are named as in optax.

    weights = {
        "semantic": constant(1.0),
        "depth": linear(1.0, 0.1, transition_steps=10_000),
        "normal": step(0.0, 1.0, transition_begin=2000),
    }
    weights = curriculum(("semantic", "depth", "normal"), 5000, overlap=1000)

All durations are in steps. The first step is 0.
"""

from collections.abc import Mapping, Sequence

import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int32

from mtan_jax.weighting.option_checks import check_count, check_number, check_tasks

__all__ = ["constant", "cosine", "curriculum", "cyclic", "linear", "piecewise", "step"]

_Step = Int32[Array, ""]
_Weight = Float[Array, ""]


def constant(value: float) -> optax.Schedule:
    """The same weight at every step.

    Args:
        value: the weight.

    Raises:
        ValueError: the weight is negative or not finite.

    Example:
        >>> from mtan_jax.weighting.schedules import constant
        >>> constant(0.5)(100)
        0.5
    """
    return optax.constant_schedule(check_number("constant", "value", value, least=0))


def linear(init_value: float, end_value: float, transition_steps: int, transition_begin: int = 0) -> optax.Schedule:
    """Moves from one weight to another along a line.

    Equation: w(t) = init + (end - init) (t - begin) / steps, clipped to the two weights.

    Args:
        init_value: the weight until `transition_begin`.
        end_value: the weight from `transition_begin` + `transition_steps` on.
        transition_steps: duration of the transition, at least 1.
        transition_begin: first step of the transition.

    Raises:
        ValueError: a weight is negative or not finite, or a duration is too short.

    Example:
        >>> from mtan_jax.weighting.schedules import linear
        >>> weight = linear(1.0, 0.5, transition_steps=100)
        >>> [float(weight(t)) for t in (0, 50, 100, 200)]
        [1.0, 0.75, 0.5, 0.5]
    """
    return optax.linear_schedule(
        check_number("linear", "init_value", init_value, least=0),
        check_number("linear", "end_value", end_value, least=0),
        check_count("linear", "transition_steps", transition_steps, least=1),
        check_count("linear", "transition_begin", transition_begin, least=0),
    )


def cosine(init_value: float, end_value: float, transition_steps: int, transition_begin: int = 0) -> optax.Schedule:
    """Moves from one weight to another along half a cosine, up or down (optax's cosine only decays).

    Equation: w(t) = end + (init - end) (1 + cos(pi u)) / 2 with u = (t - begin) / steps, clipped to 0..1.

    Args:
        init_value: the weight until `transition_begin`.
        end_value: the weight from `transition_begin` + `transition_steps` on.
        transition_steps: duration of the transition, at least 1.
        transition_begin: first step of the transition.

    Raises:
        ValueError: a weight is negative or not finite, or a duration is too short.

    Example:
        >>> from mtan_jax.weighting.schedules import cosine
        >>> weight = cosine(0.0, 1.0, transition_steps=100)
        >>> [round(float(weight(t)), 3) for t in (0, 25, 50, 100, 200)]
        [0.0, 0.146, 0.5, 1.0, 1.0]
    """
    init_value = check_number("cosine", "init_value", init_value, least=0)
    end_value = check_number("cosine", "end_value", end_value, least=0)
    transition_steps = check_count("cosine", "transition_steps", transition_steps, least=1)
    transition_begin = check_count("cosine", "transition_begin", transition_begin, least=0)

    def weight(step: _Step) -> _Weight:
        return init_value + (end_value - init_value) * _rise((step - transition_begin) / transition_steps)

    return weight


def step(init_value: float, end_value: float, transition_begin: int) -> optax.Schedule:
    """Switches from one weight to another at a step.

    Equation: w(t) = init for t < begin, end for t >= begin.

    Args:
        init_value: the weight before; 0 excludes the task.
        end_value: the weight after.
        transition_begin: the first step with `end_value`.

    Raises:
        ValueError: a weight is negative or not finite, or the step is not an integer of at least 0.

    Example:
        >>> from mtan_jax.weighting.schedules import step
        >>> weight = step(0.0, 1.0, transition_begin=100)
        >>> [float(weight(t)) for t in (0, 99, 100)]
        [0.0, 0.0, 1.0]
    """
    init_value = check_number("step", "init_value", init_value, least=0)
    end_value = check_number("step", "end_value", end_value, least=0)
    transition_begin = check_count("step", "transition_begin", transition_begin, least=0)
    return lambda step: jnp.where(step < transition_begin, init_value, end_value)


def piecewise(points: Mapping[int, float]) -> optax.Schedule:
    """Interpolates linearly between points.

    Equation: w(t) = w_k + (w_{k+1} - w_k) (t - t_k) / (t_{k+1} - t_k) for t_k <= t <= t_{k+1}. The weight is constant
    before the first point and after the last.

    Args:
        points: {step: weight}, with increasing steps.

    Raises:
        ValueError: no point, a step that is not an integer of at least 0, steps that do not increase, or a weight that
            is negative or not finite.

    Example:
        >>> from mtan_jax.weighting.schedules import piecewise
        >>> weight = piecewise({0: 0.0, 100: 1.0, 300: 0.5})
        >>> [float(weight(t)) for t in (0, 50, 100, 200, 1000)]
        [0.0, 0.5, 1.0, 0.75, 0.5]
    """
    steps, weights = list(points), list(points.values())
    if not steps or steps != sorted(steps):
        raise ValueError(f"piecewise points are {dict(points)}; expected at least one, with increasing steps")
    for at, value in points.items():
        check_count("piecewise", "step of points", at, least=0)
        check_number("piecewise", f"weight at step {at}", value, least=0)
    return lambda step: jnp.interp(step, jnp.array(steps, jnp.float32), jnp.array(weights, jnp.float32))


def cyclic(low: float, high: float, period: int, *, phase: float = 0.0) -> optax.Schedule:
    """Oscillates between two weights along a cosine.

    Equation: w(t) = low + (high - low) (1 - cos(2 pi (t / period + phase))) / 2.

    Tasks with evenly spaced phases take turns. The weights of n >= 2 such tasks sum to n (low + high) / 2 at every
    step.

    Args:
        low: the weight at t = 0 for phase 0.
        high: the weight half a period later.
        period: duration of a cycle, at least 1.
        phase: offset of the cycle, in periods.

    Raises:
        ValueError: a weight is negative, a number is not finite, or the period is too short.

    Example:
        >>> from mtan_jax.weighting.schedules import cyclic
        >>> weight = cyclic(0.5, 1.5, period=100)
        >>> [round(float(weight(t)), 3) for t in (0, 25, 50, 75, 100)]
        [0.5, 1.0, 1.5, 1.0, 0.5]
        >>> turns = {task: cyclic(0.0, 2.0, 300, phase=i / 3) for i, task in enumerate(("semantic", "depth", "normal"))}
    """
    low = check_number("cyclic", "low", low, least=0)
    high = check_number("cyclic", "high", high, least=0)
    period = check_count("cyclic", "period", period, least=1)
    phase = check_number("cyclic", "phase", phase)

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
    """Emphasizes one task after another: each has the high weight during its turn, all others the low weight.

    Equation: w_k(t) = low + (high - low) (r_k(t) - r_{k+1}(t)), where r_k rises from 0 to 1 along half a cosine over
    the `overlap` steps before step k `turn`, at which turn k = 0, ..., n - 1 begins; r_0 = 1 and r_n = 0. The weights
    sum to high + (n - 1) low at every step.

    The result is a dictionary. Add other tasks with `|`: `curriculum(("depth", "normal"), 1000) | {"semantic": 1.0}`.
    For tasks that join and stay, use one `step` or `cosine` per task.

    Args:
        tasks: task names, in the order of their turns.
        turn: duration of a turn; the last one does not end.
        overlap: duration of the transition to the next task, at the end of a turn; at most `turn`, 0 switches at once.
        low: the weight of a task outside its turn.
        high: the weight of a task during its turn.
        repeat: whether the turns start over after the last task.

    Returns:
        {task: function of the step}.

    Raises:
        ValueError: no task, a repeated name, a weight that is negative or not finite, or a duration out of range.

    Example:
        >>> from mtan_jax.weighting.schedules import curriculum
        >>> weights = curriculum(("semantic", "depth"), 100, overlap=20)
        >>> [[round(float(weights[task](t)), 3) for task in weights] for t in (0, 80, 90, 100, 500)]
        [[1.0, 0.0], [1.0, 0.0], [0.5, 0.5], [0.0, 1.0], [0.0, 1.0]]
    """
    tasks = check_tasks(tasks)
    low = check_number("curriculum", "low", low, least=0)
    high = check_number("curriculum", "high", high, least=0)
    turn = check_count("curriculum", "turn", turn, least=1)
    overlap = check_count("curriculum", "overlap", overlap, least=0)
    if overlap > turn:
        raise ValueError(f"curriculum overlap is {overlap}; expected at most the {turn} steps of a turn")
    count = len(tasks)

    def progress(step: _Step, k: int) -> _Weight:
        return _rise(1 + (step - k * turn) / max(overlap, 1))  # a transition over one step switches at once

    def make(k: int) -> optax.Schedule:
        def weight(step: _Step) -> _Weight:
            step = step % (count * turn) if repeat else step
            share = progress(step, k) if k else jnp.ones(())
            share = share - progress(step, k + 1) if repeat or k + 1 < count else share
            share = share + progress(step, count) if repeat and k == 0 else share
            return low + (high - low) * share

        return weight

    return {task: make(k) for k, task in enumerate(tasks)}


def _rise(u: _Weight) -> _Weight:
    """Rises from 0 at u = 0 to 1 at u = 1 along half a cosine."""
    return (1 - jnp.cos(jnp.pi * jnp.clip(u, 0, 1))) / 2
