"""Backbones: each returns the ordered list of its stages (`mtan_jax.models.stage.Stage`)."""
