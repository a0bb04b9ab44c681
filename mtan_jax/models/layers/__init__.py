"""Layers with the numerics of the authors' PyTorch layers."""

from mtan_jax.models.layers.batch_norm import BatchNorm
from mtan_jax.models.layers.conv import Conv, ConvNorm, Dropout, xavier_normal

__all__ = ["BatchNorm", "Conv", "ConvNorm", "Dropout", "xavier_normal"]
