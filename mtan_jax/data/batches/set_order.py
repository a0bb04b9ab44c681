"""Which sets the steps of training visit, where each image belongs to one task."""

import dataclasses
import math
from collections.abc import Mapping

import numpy as np
from jaxtyping import Int

ORDERS = ("random", "in_turn", "whole_sets")
DRAWN_AT_ONCE = 2**16


@dataclasses.dataclass(frozen=True)
class Itinerary:
    """Which sets each step takes its batch from, as a function of the seed and the step alone.

    Attributes:
        order: "random": sets are drawn with probabilities proportional to n^(1 / temperature), n being their sizes;
            "in_turn": one after the other, a step each; "whole_sets": one after the other, each for as many steps as
            it takes to see all its images, as the authors of MTAN train on the Decathlon.
        sizes: images of each set, by name, in the order of the tasks.
        batch_size: images a step, of all its sets together.
        groups: sets a step; each gets as many images as the others.
        temperature: 1: by size; above it sets come closer to equal shares, at infinity they have equal ones. The sets
            of one step are drawn without repetition, so with several a step small sets come more often.
        until: by name, after how many passes over all sets a set is left out; others stay to the end. Names of sets
            that are not trained on mean nothing.
        seed: of the draws.

    Raises:
        ValueError: the message names the field.
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
                f"config.mixing.tasks_per_step = {self.groups}: a number from 1 to {len(self.sizes)}, the number of "
                "sets that are trained on, is needed"
            )
        if self.batch_size % self.groups:
            raise ValueError(
                f"config.batch_size = {self.batch_size} cannot be divided among config.mixing.tasks_per_step = "
                f"{self.groups} sets; {max(round(self.batch_size / self.groups), 1) * self.groups} would do"
            )
        if self.order == "whole_sets" and self.groups > 1:
            raise ValueError(
                f"config.mixing.tasks_per_step = {self.groups}: with config.mixing.order='whole_sets' a step is of one "
                "set"
            )
        if not self.temperature > 0:
            raise ValueError(f"config.mixing.temperature = {self.temperature}: a number above 0 is needed")
        if self.until and self.order != "whole_sets":
            raise ValueError("config.mixing.until needs config.mixing.order='whole_sets'")
        if any(value < 1 or value != int(value) for value in self.until.values()):
            raise ValueError(f"config.mixing.until = {dict(self.until)}: whole numbers of epochs from 1 on are needed")
        if all(name in self.until for name in self.sizes):
            raise ValueError("config.mixing.until leaves no set after the last of its epochs; {} leaves out none")

    @property
    def rows(self) -> int:
        """Images that a step takes of each of its sets."""
        return self.batch_size // self.groups

    def epochs_to_steps(self, epochs: float) -> float:
        """Steps until all sets have been passed so many times in all; with `until`, the sets that still take part."""
        if self.order != "whole_sets":
            return epochs * sum(self.sizes.values()) / self.batch_size
        whole = math.floor(epochs)
        steps = float(sum(sum(self._visits(epoch).values()) for epoch in range(whole)))
        return steps + (epochs - whole) * sum(self._visits(whole).values())

    def steps_to_epochs(self, steps: int) -> float:
        """The inverse of `epochs_to_steps`."""
        if self.order != "whole_sets":
            return steps * self.batch_size / sum(self.sizes.values())
        epoch, left = 0, float(steps)
        while left >= (length := sum(self._visits(epoch).values())):
            epoch, left = epoch + 1, left - length
        return epoch + left / length

    def plan(self, steps: int) -> "Plan":
        """The sets of the first steps. A longer plan begins with a shorter one."""
        sets = {"random": self._random, "in_turn": self._in_turn, "whole_sets": self._whole_sets}[self.order](steps)
        starts = np.zeros(sets.shape, np.int64)
        for position in range(len(self.sizes)):
            visits = sets == position
            starts[visits] = np.arange(visits.sum()) * self.rows
        return Plan(sets, starts)

    def _random(self, steps: int) -> Int[np.ndarray, "steps groups"]:
        logits = np.log(np.array(list(self.sizes.values()), float)) / self.temperature
        rng, sets = np.random.default_rng([self.seed, 3]), np.zeros((steps, self.groups), np.int16)
        for start in range(0, steps, DRAWN_AT_ONCE):
            part = sets[start : start + DRAWN_AT_ONCE]
            # The largest of logits + Gumbel noise are a draw without repetition.
            part[:] = np.argsort(-(logits + rng.gumbel(size=(len(part), len(logits)))), axis=1)[:, : self.groups]
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
        """Steps of each set in a pass over all."""
        return {
            name: math.ceil(size / self.batch_size) if epoch < self.until.get(name, math.inf) else 0
            for name, size in self.sizes.items()
        }


@dataclasses.dataclass(frozen=True)
class Plan:
    """The sets of each step.

    Attributes:
        sets: positions of the sets, each once a step.
        starts: how many images of the set the steps before have used.
    """

    sets: Int[np.ndarray, "steps groups"]
    starts: Int[np.ndarray, "steps groups"]
