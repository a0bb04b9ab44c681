"""Learning-rate schedules from `config.optimizer`."""

import math
from collections.abc import Callable, Sequence

import ml_collections
import optax

SCHEDULES = ("constant", "halve", "cosine", "pieces")


def build_schedule(
    config: ml_collections.ConfigDict, total_steps: int, to_steps: Callable[[str], int], *, is_dry_run: bool = False
) -> optax.Schedule:
    """Builds the learning-rate schedule, a function of the step.

    Args:
        config: `config.optimizer` with these fields:
            `learning_rate`: the rate before the schedule applies.
            `schedule`: "constant"; "halve", which halves the rate every `halve_every`; "cosine", which decays to 0 at
            the end of the run; "pieces", which is piecewise constant with `pieces`, pairs of a duration and the rate
            from then on.
            `warmup`: duration of a linear warmup from 0, after which the schedule starts, or None.
        total_steps: length of the run.
        to_steps: converts a duration such as "100 epochs" to steps.
        is_dry_run: whether the size of the dataset is unknown, so durations in different units cannot be compared.

    Raises:
        ValueError: the schedule is unknown, or a rate is not positive and finite.
    """
    rate = config.learning_rate
    if not 0 < rate < math.inf:
        raise ValueError(f"config.optimizer.learning_rate={rate}; expected a positive finite number")
    warmup_steps = 0 if config.warmup is None else to_steps(config.warmup)
    if config.schedule == "constant":
        schedule = optax.constant_schedule(rate)
    elif config.schedule == "halve":
        schedule = optax.exponential_decay(rate, to_steps(config.halve_every), 0.5, staircase=True)
    elif config.schedule == "cosine":
        schedule = optax.cosine_decay_schedule(rate, max(total_steps - warmup_steps, 1))
    elif config.schedule == "pieces":
        schedule = _piecewise(rate, config.pieces, to_steps, is_dry_run=is_dry_run)
    else:
        raise ValueError(f"config.optimizer.schedule={config.schedule!r} is unknown; known: {', '.join(SCHEDULES)}")
    if not warmup_steps:
        return schedule
    return optax.join_schedules([optax.linear_schedule(0.0, rate, warmup_steps), schedule], [warmup_steps])


def _piecewise(
    rate: float, pieces: Sequence[tuple[str, float]], to_steps: Callable[[str], int], *, is_dry_run: bool
) -> optax.Schedule:
    """Piecewise constant rates. In a dry run without data, the order of the boundaries is unknown and not checked."""
    boundaries, rates = [], [rate]
    for piece in pieces:
        if len(piece) != 2 or not 0 < piece[1] < math.inf:
            raise ValueError(
                f"config.optimizer.pieces contains {piece!r}; expected a duration and a positive finite rate, such as "
                "('50 epochs', 0.05)"
            )
        boundaries.append(to_steps(piece[0]))
        rates.append(piece[1])
    if boundaries != sorted(boundaries) and not is_dry_run:
        raise ValueError(f"config.optimizer.pieces={pieces!r}; expected durations in ascending order")
    return optax.join_schedules([optax.constant_schedule(value) for value in rates], boundaries)
