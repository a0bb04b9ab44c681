"""Builds the parts of a run from its configuration."""

from mtan_jax.experiment.experiment import Experiment

__all__ = ["Experiment"]
