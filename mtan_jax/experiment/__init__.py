"""From a configuration to everything that a run needs."""

from mtan_jax.experiment.experiment import MEAN_ACCURACY, Batch, Experiment

__all__ = ["MEAN_ACCURACY", "Batch", "Experiment"]
