"""Lengths of training in the unit that suits: "200 epochs", "30000 steps", "1e6 examples"."""

import math
from collections.abc import Callable

UNITS = ("steps", "epochs", "examples")


def to_steps(duration: str, *, epochs_to_steps: Callable[[float], float], batch_size: int) -> int:
    """Number of training steps in a duration, rounded up.

    Args:
        duration: a number above 0 and one of steps, epochs, examples (the singular will do).
        epochs_to_steps: from a number of epochs to steps, whole or not; batches run on across epochs, so an epoch of n
            examples is n / batch_size steps.
        batch_size: of all devices together.

    Raises:
        ValueError: for anything else.
    """
    number, _, unit = duration.strip().partition(" ")
    unit = unit.strip().removesuffix("s") + "s"
    try:
        value = float(number)
    except ValueError:
        value = math.nan
    if not (unit in UNITS and value > 0 and math.isfinite(value)):
        raise ValueError(
            f"duration {duration!r}: a number above 0 and a unit are needed, as in '200 epochs', "
            f"'30000 steps' or '1e6 examples'"
        )
    steps = {"steps": value, "epochs": epochs_to_steps(value), "examples": value / batch_size}[unit]
    return max(math.ceil(steps), 1)
