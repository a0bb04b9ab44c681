"""Batch normalization with the numerics of PyTorch's layer."""

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from mtan_jax.models import ops
from mtan_jax.models.numerics import FLOAT32, Numerics

MOMENTUM = 0.9  # the weight of the old value, as in Flax; PyTorch's momentum 0.1 is the weight of the new one


def update_running(running: Float[Array, " c"], values: Float[Array, "t c"]) -> Float[Array, " c"]:
    """Updates a running average with the values of each task in turn."""
    tasks = values.shape[0]
    age = jnp.arange(tasks - 1, -1, -1)[:, None]
    shares = (1 - MOMENTUM) * MOMENTUM**age
    return MOMENTUM**tasks * running + (shares * values).sum(0)


class BatchNorm(nn.Module):
    """Batch normalization and the activation and max-pooling that follow it.

    With a leading task axis, all tasks share scale, bias and running averages. Each task's features are normalized with
    their own moments, and the running averages are updated once per task, as if the tasks were passed one after the
    other. The running variance is the biased one, as in Flax; PyTorch's is larger by the factor n / (n - 1) for n
    pixels in the batch.

    Attributes:
        numerics: types, and devices over which moments are computed.
        activation: applied to the normalized features.
        pool: whether max-pooling by 2 follows.
    """

    numerics: Numerics = FLOAT32
    activation: ops.Activation = None
    pool: bool = False

    @nn.compact
    def __call__(
        self, x: Float[Array, "*t b h w c"], *, train: bool, offset: Float[Array, " c"] | float = 0.0
    ) -> Float[Array, "*t b H W c"]:
        """Normalizes features.

        Args:
            x: features.
            train: whether to use the batch's moments and update the running averages.
            offset: the bias of the convolution before this layer. It cancels in training, so it is not added to x but
                only to the running mean.
        """
        features, dtype = (x.shape[-1],), self.numerics.param_dtype
        scale = self.param("scale", nn.initializers.ones, features, dtype)
        bias = self.param("bias", nn.initializers.zeros, features, dtype)
        mean = self.variable("batch_stats", "mean", jnp.zeros, features, dtype)
        variance = self.variable("batch_stats", "var", jnp.ones, features, dtype)
        affine = [parameter.reshape(*(1,) * (x.ndim - 4), -1) for parameter in (scale, bias)]
        if not train:
            running = [moment.reshape(affine[0].shape) for moment in (mean.value - offset, variance.value)]
            return ops.normalize(x, running[0], running[1], affine[0], affine[1], self.activation, self.pool)
        axis_name = None if self.is_initializing() else self.numerics.axis_name
        y, moments = ops.normalize_batch(x, affine[0], affine[1], axis_name, self.activation, self.pool)
        if not self.is_initializing():
            means = moments[0].reshape(-1, *features) + jnp.reshape(jnp.asarray(offset), (1, -1))
            mean.value = update_running(mean.value, means)
            variance.value = update_running(variance.value, moments[1].reshape(-1, *features))
        return y
