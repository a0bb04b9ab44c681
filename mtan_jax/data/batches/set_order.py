"""The order in which training steps draw from several sets of labelled images."""

import dataclasses
import math
from collections.abc import Mapping

import numpy as np
from jaxtyping import Int

ORDERS = ("random", "in_turn", "whole_sets")
DRAWS_PER_CHUNK = 2**16


@dataclasses.dataclass(frozen=True)
class SetOrder:
    """The sets from which each step draws its batch; depends only on the seed and the step.

    Attributes:
        order: "random" draws sets with probabilities proportional to n^(1 / temperature), where n is the set's size;
            "in_turn" cycles through the sets, one step each; "whole_sets" cycles through the sets, each for as many
            steps as one epoch of it takes, as the MTAN authors train on the Decathlon.
        sizes: number of images in each set, by name, in the order of the tasks.
        batch_size: images per step, of all its sets together.
        groups: sets per step; each contributes the same number of images.
        temperature: 1 samples sets in proportion to their size, infinity uniformly. The sets of one step are drawn
            without replacement, so with several sets per step, small ones are drawn more often than in proportion.
        until: by name, the number of passes over all sets after which a set is dropped; others remain to the end. Names
            of sets that are not trained on are ignored.
        seed: of the draws.

    Raises:
        ValueError: a field is invalid; the message names it.
    """

    order: str
    sizes: Mapping[str, int]
    batch_size: int
    groups: int = 1
    temperature: float = 1.0
    until: Mapping[str, float] = dataclasses.field(default_factory=dict)
    seed: int = 0

    def __post_init__(self) -> None:
        if self.order not in ORDERS:
            raise ValueError(f"config.mixing.order = {self.order!r} is not known; known: {', '.join(ORDERS)}")
        if not 1 <= self.groups <= len(self.sizes):
            raise ValueError(
                f"config.mixing.tasks_per_step = {self.groups}: expected a number from 1 to {len(self.sizes)}, the "
                "number of sets that are trained on"
            )
        if self.batch_size % self.groups:
            raise ValueError(
                f"config.batch_size = {self.batch_size} is not divisible by config.mixing.tasks_per_step = "
                f"{self.groups}; use {max(round(self.batch_size / self.groups), 1) * self.groups}"
            )
        if self.order == "whole_sets" and self.groups > 1:
            raise ValueError(
                f"config.mixing.tasks_per_step = {self.groups}: config.mixing.order='whole_sets' needs one set per step"
            )
        if not self.temperature > 0:
            raise ValueError(f"config.mixing.temperature = {self.temperature}: expected a number above 0")
        if self.until and self.order != "whole_sets":
            raise ValueError("config.mixing.until needs config.mixing.order='whole_sets'")
        if any(value < 1 or value != int(value) for value in self.until.values()):
            raise ValueError(f"config.mixing.until = {dict(self.until)}: expected whole numbers of epochs, at least 1")
        if all(name in self.until for name in self.sizes):
            raise ValueError("config.mixing.until drops all sets after some epoch; keep at least one set")

    @property
    def rows(self) -> int:
        """Number of images per step from each of its sets."""
        return self.batch_size // self.groups

    def epochs_to_steps(self, epochs: float) -> float:
        """Number of steps in so many passes over all sets; with `until`, over the sets that remain."""
        if self.order != "whole_sets":
            return epochs * sum(self.sizes.values()) / self.batch_size
        whole = math.floor(epochs)
        steps = float(sum(sum(self._visits(epoch).values()) for epoch in range(whole)))
        return steps + (epochs - whole) * sum(self._visits(whole).values())

    def steps_to_epochs(self, steps: int) -> float:
        """Inverse of `epochs_to_steps`."""
        if self.order != "whole_sets":
            return steps * self.batch_size / sum(self.sizes.values())
        epoch, left = 0, float(steps)
        while left >= (length := sum(self._visits(epoch).values())):
            epoch, left = epoch + 1, left - length
        return epoch + left / length

    def plan(self, steps: int) -> "Plan":
        """The sets of the first steps; a shorter plan is a prefix of a longer one."""
        sets = {"random": self._random, "in_turn": self._in_turn, "whole_sets": self._whole_sets}[self.order](steps)
        starts = np.zeros(sets.shape, np.int64)
        for position in range(len(self.sizes)):
            visits = sets == position
            starts[visits] = np.arange(visits.sum()) * self.rows
        return Plan(sets, starts)

    def _random(self, steps: int) -> Int[np.ndarray, "steps groups"]:
        logits = np.log(np.array(list(self.sizes.values()), float)) / self.temperature
        rng, sets = np.random.default_rng([self.seed, 3]), np.zeros((steps, self.groups), np.int16)
        for start in range(0, steps, DRAWS_PER_CHUNK):
            chunk = sets[start : start + DRAWS_PER_CHUNK]
            # Gumbel top-k trick: the largest of logits + Gumbel noise are draws without replacement.
            chunk[:] = np.argsort(-(logits + rng.gumbel(size=(len(chunk), len(logits)))), axis=1)[:, : self.groups]
        return sets

    def _in_turn(self, steps: int) -> Int[np.ndarray, "steps groups"]:
        return np.arange(steps * self.groups).reshape(steps, self.groups) % len(self.sizes)

    def _whole_sets(self, steps: int) -> Int[np.ndarray, "steps 1"]:
        parts: list[np.ndarray] = []
        done, epoch = 0, 0
        while done < steps:
            visits = self._visits(epoch)
            parts.append(np.repeat(np.arange(len(visits)), list(visits.values())))
            done, epoch = done + len(parts[-1]), epoch + 1
        return np.concatenate([*parts, np.zeros(0, int)])[:steps, None]

    def _visits(self, epoch: int) -> dict[str, int]:
        """Number of steps that draw from each set in one pass over all sets; 0 for sets that are dropped."""
        return {
            name: math.ceil(size / self.batch_size) if epoch < self.until.get(name, math.inf) else 0
            for name, size in self.sizes.items()
        }


@dataclasses.dataclass(frozen=True)
class Plan:
    """The sets of each step.

    Attributes:
        sets: indices of the sets, distinct within a step.
        starts: number of images of each set that earlier steps have used.
    """

    sets: Int[np.ndarray, "steps groups"]
    starts: Int[np.ndarray, "steps groups"]
