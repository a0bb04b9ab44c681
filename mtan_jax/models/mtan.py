"""Multi-Task Attention Network on any backbone that lists its stages."""

import functools
from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from mtan_jax.models.attention import AttentionMasks
from mtan_jax.models.layers import Conv, ConvNorm, max_pool, upsample
from mtan_jax.models.stage import Stage
from mtan_jax.tasks import Task


class Head(nn.Module):
    """conv3x3 then conv1x1, nothing between them: a task's prediction before its activation."""

    channels: int
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w channels"]:
        conv = functools.partial(Conv, dtype=self.dtype, param_dtype=self.param_dtype)
        x = conv(x.shape[-1], name="conv_0")(x)
        return conv(self.channels, kernel_size=1, name="conv_1")(x)


class TaskAttention(nn.Module):
    """Every task's way through the stages of a backbone (Liu et al. 2019, figure 2).

    At stage j, task t gates the shared features p_j by its mask: a_t = m_t * p_j (`attention_mask`). Between stages
    a_t passes a convolution that all tasks share and follows the backbone's change of resolution. The BatchNorm of a
    shared convolution sees each task's features in turn, as in the authors' code.
    """

    tasks: tuple[str, ...]
    axis_name: str | None = None
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, stages: list[Stage], *, train: bool) -> Float[Array, "t b h w c"]:
        attended: Any = None
        for stage in stages:
            shared = ConvNorm(
                stage.features,
                axis_name=self.axis_name,
                dtype=self.dtype,
                param_dtype=self.param_dtype,
                name=f"{stage.name}_shared",
            )
            if stage.resample == "up" and attended is not None:
                attended = shared(upsample(attended), train=train)
            masks = AttentionMasks(self.tasks, stage.gate.shape[-1], self.axis_name, self.param_dtype, name=stage.name)
            attended = masks(stage.look, attended, train=train) * stage.gate[None]
            if stage.resample == "down":
                attended, _ = max_pool(shared(attended, train=train))
        return attended


class MTAN(nn.Module):
    """A shared backbone, one soft-attention module a task on top of it, one head a task.

    Attributes:
        backbone: a module `(image, train=...) -> list[Stage]`.
        tasks: any number of tasks; predictions come under their names.
        axis_name: devices over which BatchNorm takes its moments; None: each on its own.
        dtype: type of the computation; predictions are float32 at least.
        param_dtype: type of parameters and statistics.
    """

    backbone: nn.Module
    tasks: tuple[Task, ...]
    axis_name: str | None = None
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, image: Float[Array, "b h w 3"], *, train: bool) -> dict[str, Float[Array, "b h w _"]]:
        stages = self.backbone(image, train=train)
        attention = TaskAttention(
            tuple(task.name for task in self.tasks), self.axis_name, self.dtype, self.param_dtype, name="attention"
        )
        attended = attention(stages, train=train)
        predictions = {}
        for task, features in zip(self.tasks, attended, strict=True):
            head = Head(task.channels, self.dtype, self.param_dtype, name=f"head_{task.name}")
            raw = head(features)
            predictions[task.name] = task.activation(raw.astype(jnp.promote_types(raw.dtype, jnp.float32)))
        return predictions
