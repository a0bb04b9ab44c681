"""Optimisers and schedules of the learning rate, from `config.optimizer`."""

import inspect
import math
from collections.abc import Callable

import ml_collections
import optax

OPTIMIZERS: dict[str, Callable[..., optax.GradientTransformation]] = {
    "adam": optax.adam,
    "adamw": optax.adamw,
    "sgd": optax.sgd,
}
SCHEDULES = ("constant", "halve", "cosine")


def build_schedule(
    config: ml_collections.ConfigDict, total_steps: int, to_steps: Callable[[str], int]
) -> optax.Schedule:
    """The learning rate as a function of the step.

    Args:
        config: `config.optimizer`: `learning_rate`; `schedule`: "constant", "halve" (the rate is halved every
            `halve_every`) or "cosine" (to 0 at the end); `warmup`: a duration of linear growth from 0, or None.
        total_steps: length of the run.
        to_steps: from a duration such as "100 epochs" to steps.

    Raises:
        ValueError: for an unknown schedule, or a rate that is not above 0.
    """
    rate = config.learning_rate
    if not 0 < rate < math.inf:
        raise ValueError(f"config.optimizer.learning_rate = {rate}: a finite number above 0 is needed")
    warmup_steps = 0 if config.warmup is None else to_steps(config.warmup)
    if config.schedule == "constant":
        schedule = optax.constant_schedule(rate)
    elif config.schedule == "halve":
        schedule = optax.exponential_decay(rate, to_steps(config.halve_every), 0.5, staircase=True)
    elif config.schedule == "cosine":
        schedule = optax.cosine_decay_schedule(rate, max(total_steps - warmup_steps, 1))
    else:
        raise ValueError(f"config.optimizer.schedule = {config.schedule!r} is not known; known: {', '.join(SCHEDULES)}")
    if not warmup_steps:
        return schedule
    return optax.join_schedules([optax.linear_schedule(0.0, rate, warmup_steps), schedule], [warmup_steps])


def build_optimizer(config: ml_collections.ConfigDict, schedule: optax.Schedule) -> optax.GradientTransformation:
    """What follows the weighting methods: clipping, if any, and the optimiser.

    Args:
        config: `config.optimizer`: `name`, its `options`, and `clip_norm` (the largest global norm, or None).
        schedule: of the learning rate.

    Raises:
        ValueError: for an unknown optimiser or option, or a norm that is not above 0.
    """
    if config.name not in OPTIMIZERS:
        raise ValueError(
            f"config.optimizer.name = {config.name!r} is not known; known: {', '.join(sorted(OPTIMIZERS))}"
        )
    make = OPTIMIZERS[config.name]
    known = list(inspect.signature(make).parameters)[1:]  # without the learning rate
    for option in config.options:
        if option not in known:
            raise ValueError(
                f"config.optimizer.options.{option} is not known to {config.name}; known: {', '.join(known)}"
            )
    optimizer = make(schedule, **config.options)
    if config.clip_norm is None:
        return optimizer
    if not config.clip_norm > 0:
        raise ValueError(f"config.optimizer.clip_norm = {config.clip_norm}: a number above 0 is needed, or None")
    return optax.chain(optax.clip_by_global_norm(config.clip_norm), optimizer)
