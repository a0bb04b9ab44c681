"""Converts durations of a run to steps."""

import dataclasses
from collections.abc import Callable

from mtan_jax.steps import duration


@dataclasses.dataclass(frozen=True)
class Lengths:
    """Converts durations such as "20 epochs" to steps, and steps to epochs.

    Attributes:
        batch_size: examples per step, on all devices together.
        epochs_to_steps: number of steps in a number of epochs, which may be fractional.
        steps_to_epochs: the inverse, for whole steps.
        is_placeholder: whether the size of the dataset is unknown, so durations in different units cannot be compared.
    """

    batch_size: int
    epochs_to_steps: Callable[[float], float]
    steps_to_epochs: Callable[[int], float]
    is_placeholder: bool = False

    @classmethod
    def placeholder(cls) -> "Lengths":
        """One step per epoch and per example, to check a configuration before the size of its dataset is known."""
        return cls(1, lambda epochs: epochs, float, is_placeholder=True)

    def to_steps(self, text: str) -> int:
        """Number of steps in a duration such as "20 epochs", rounded up.

        Raises:
            ValueError: the text is not a duration.
        """
        return duration.to_steps(text, epochs_to_steps=self.epochs_to_steps, batch_size=self.batch_size)

    @property
    def steps_per_epoch(self) -> float:
        return self.epochs_to_steps(1)
