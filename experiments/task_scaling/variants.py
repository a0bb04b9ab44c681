"""Variants of MTAN that compute per-task parts for all tasks at once, or for one task after another.

Names and shapes of variables are those of `mtan_jax.models.mtan.MTAN`, so one set of variables serves every variant.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax
from jaxtyping import Array, Float

from mtan_jax.models.attention import AttentionMasks, Moments, Pointwise, TaskAttention, _MaskVariables
from mtan_jax.models.layers import Conv, xavier_normal
from mtan_jax.models.layers.batch_norm import batch_moments, normalise
from mtan_jax.models.network import predict
from mtan_jax.models.numerics import Numerics
from mtan_jax.models.ops.resample import max_pool, resize, upsample
from mtan_jax.models.stage import Backbone, Stage, Trunk
from mtan_jax.tasks import Task


def attention_masks(
    look: Float[Array, "*t b h w c"],
    attended: Float[Array, "t b h w e"] | None,
    hidden: Pointwise,
    output: Pointwise,
    running: tuple[Moments, Moments] | None = None,
    axis_name: str | None = None,
) -> tuple[Float[Array, "t b h w d"], tuple[Moments, Moments]]:
    """Computes `mtan_jax.models.attention.attention_mask` for all tasks at once, without its later fusions."""
    dtype = look.dtype
    channels = look.shape[-1]
    kernel = hidden.kernel.astype(dtype)
    # [u ; a_t] W_t as a sum, so that shared features are read once and not copied per task.
    x = jnp.einsum("bhwc,tcd->tbhwd" if look.ndim == 4 else "tbhwc,tcd->tbhwd", look, kernel[:, :channels])
    if attended is not None:
        x = x + jnp.einsum("tbhwc,tcd->tbhwd", attended, kernel[:, channels:])
    x, hidden_moments = _bias_and_norm(x, hidden, running and running[0], axis_name)
    x = jnp.einsum("tbhwc,tcd->tbhwd", nn.relu(x), output.kernel.astype(dtype))
    x, output_moments = _bias_and_norm(x, output, running and running[1], axis_name)
    return nn.sigmoid(x), (hidden_moments, output_moments)


def _bias_and_norm(
    x: Float[Array, "t b h w d"], layer: Pointwise, running: Moments | None, axis_name: str | None
) -> tuple[Float[Array, "t b h w d"], Moments]:
    x = x + jnp.expand_dims(layer.conv_bias, (1, 2, 3)).astype(x.dtype)
    moments = Moments(*batch_moments(x, axis_name)) if running is None else running
    return normalise(x, *moments, layer.scale, layer.bias), moments


class BatchedMasks(AttentionMasks):
    """`AttentionMasks` for all tasks at once."""

    @nn.compact
    def __call__(
        self, look: Float[Array, "b h w c"], attended: Float[Array, "t b h w e"] | None, *, train: bool
    ) -> Float[Array, "t b h w d"]:
        channels = look.shape[-1] + (0 if attended is None else attended.shape[-1])
        sizes = (channels, self.hidden, self.features)
        layers = [_MaskVariables(sizes, self.numerics.param_dtype, name=task) for task in self.tasks]
        (hidden, output), running = jax.tree.map(lambda *leaves: jnp.stack(leaves), *[layer() for layer in layers])
        axis_name = None if self.is_initializing() else self.numerics.axis_name
        masks, moments = attention_masks(look, attended, hidden, output, None if train else running, axis_name)
        if train and not self.is_initializing():
            for i, layer in enumerate(layers):
                layer.update(jax.tree.map(lambda leaf, i=i: leaf[i], moments))
        return masks


class BatchedAttention(TaskAttention):
    """`TaskAttention` for all tasks at once."""

    @nn.compact
    def __call__(self, stages: dict[str, Stage], *, train: bool) -> Float[Array, "t b h w c"]:
        attended: Any = None
        for name, stage in stages.items():
            shared = stage.shared(name=f"{name}_shared") if stage.shared else None
            if stage.resample == "up" and attended is not None:
                attended = upsample(attended)
                attended = shared(attended, train=train) if shared else attended
            masks = BatchedMasks(self.tasks, stage.hidden, stage.gate.shape[-1], self.numerics, name=name)
            attended = stage.gate[None] * masks(stage.look, attended, train=train)
            if stage.resample != "up" and shared:
                attended = shared(attended, train=train)
            if stage.resample == "down":
                attended, _ = max_pool(attended)
        return attended


class _ConvVariables(nn.Module):
    """Kernel and bias of a 3x3 `Conv` with as many outputs as inputs, under the names of `Conv`."""

    features: int
    is_inner: bool = False

    @nn.compact
    def __call__(self) -> tuple[Float[Array, "3 3 c c"], Float[Array, " c"]]:
        if not self.is_inner:
            return _ConvVariables(self.features, is_inner=True, name="conv")()
        shape = (3, 3, self.features, self.features)
        return self.param("kernel", xavier_normal, shape), self.param("bias", nn.initializers.zeros, shape[-1:])


class _HeadInTwo(nn.Module):
    """`heads.Head` in two steps: the variables of its first convolution, and the layers after it."""

    features: int
    channels: int
    image_size: tuple[int, int]
    numerics: Numerics

    def setup(self) -> None:
        self.conv_0 = _ConvVariables(self.features)
        self.conv_1 = Conv(self.channels, 1, numerics=self.numerics)

    def first(self) -> tuple[Float[Array, "3 3 c c"], Float[Array, " c"]]:
        return self.conv_0()

    def rest(self, x: Float[Array, "b h w c"]) -> Float[Array, "b H W channels"]:
        return resize(self.conv_1(x), self.image_size)


def grouped_conv(x: Float[Array, "t b h w c"], kernel: Float[Array, "t 3 3 c d"]) -> Float[Array, "t b h w d"]:
    """Applies one 3x3 convolution per task, padded by one; under vmap a convolution with t groups."""
    numbers = ("NHWC", "HWIO", "NHWC")
    return jax.vmap(lambda x, k: lax.conv_general_dilated(x, k, (1, 1), "SAME", dimension_numbers=numbers))(x, kernel)


def shifted_products(x: Float[Array, "t b h w c"], kernel: Float[Array, "t 3 3 c d"]) -> Float[Array, "t b h w d"]:
    """Computes `grouped_conv` as a sum of nine products batched over tasks, one per pixel of the kernel."""
    height, width = x.shape[2:4]
    x = jnp.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1), (0, 0)))
    terms = [
        jnp.einsum("tbhwc,tcd->tbhwd", x[:, :, i : i + height, j : j + width], kernel[:, i, j])
        for i in range(3)
        for j in range(3)
    ]
    return sum(terms[1:], terms[0])


def predict_batched(conv: Callable[..., Array]) -> Callable[..., dict[str, Array]]:
    """Makes a `predict` for `heads.Head` that computes the first convolutions of all heads together with `conv`."""

    def predict_together(
        backbone: Backbone,
        tasks: tuple[Task, ...],
        features: dict[str, Float[Array, "b h w c"]],
        image: Float[Array, "b H W 3"],
        *,
        train: bool,
    ) -> dict[str, Float[Array, "b H W _"]]:
        del train
        x = jnp.stack([features[task.name] for task in tasks])
        heads = [
            _HeadInTwo(x.shape[-1], task.channels, image.shape[1:3], backbone.numerics, name=f"head_{task.name}")
            for task in tasks
        ]
        kernel, bias = (jnp.stack(leaves) for leaves in zip(*[head.first() for head in heads], strict=True))
        x = conv(x, kernel) + jnp.expand_dims(bias, (1, 2, 3))
        return {
            task.name: task.activation(head.rest(x[i])) for i, (task, head) in enumerate(zip(tasks, heads, strict=True))
        }

    return predict_together


MASKS = {"batched": BatchedAttention, "unrolled": TaskAttention}
HEADS = {
    "unrolled": predict,
    "grouped": predict_batched(grouped_conv),
    "products": predict_batched(shifted_products),
}


class VariantMTAN(nn.Module):
    """`MTAN` with one of `MASKS` and one of `HEADS`."""

    backbone: Backbone
    tasks: tuple[Task, ...]
    masks: str
    heads: str

    @nn.compact
    def __call__(self, image: Float[Array, "b h w 3"], *, train: bool) -> dict[str, Float[Array, "b h w _"]]:
        stages = Trunk(self.backbone, name="backbone")(image, train=train)
        names = tuple(task.name for task in self.tasks)
        attended = MASKS[self.masks](names, self.backbone.numerics, name="attention")(stages, train=train)
        features = dict(zip(names, attended, strict=True))
        return HEADS[self.heads](self.backbone, self.tasks, features, image, train=train)
