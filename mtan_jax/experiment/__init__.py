"""From a configuration to everything that a run needs."""

from mtan_jax.experiment.experiment import Experiment

__all__ = ["Experiment"]
