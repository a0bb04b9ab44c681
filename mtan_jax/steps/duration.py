"""Parses lengths of training such as "200 epochs", "30000 steps" and "1e6 examples"."""

import math
from collections.abc import Callable

UNITS = ("steps", "epochs", "examples")


def to_steps(duration: str, *, epochs_to_steps: Callable[[float], float], batch_size: int) -> int:
    """Converts a duration to a number of training steps, rounded up.

    Args:
        duration: a positive number and a unit: steps, epochs or examples (singular or plural).
        epochs_to_steps: converts epochs to steps, which may be fractional: batches continue across epochs, so an epoch
            of n examples has n / batch_size steps.
        batch_size: batch size of all devices together.

    Raises:
        ValueError: the text is not a positive number with a known unit.
    """
    number, _, unit = duration.strip().partition(" ")
    unit = unit.strip().removesuffix("s") + "s"
    try:
        value = float(number)
    except ValueError:
        value = math.nan
    if not (unit in UNITS and value > 0 and math.isfinite(value)):
        raise ValueError(
            f"duration {duration!r}: expected a positive number and a unit, such as '200 epochs', '30000 steps' or "
            "'1e6 examples'"
        )
    steps = {"steps": value, "epochs": epochs_to_steps(value), "examples": value / batch_size}[unit]
    return max(math.ceil(steps), 1)
