"""Backbones: functions that return a `mtan_jax.models.stage.Backbone`."""
