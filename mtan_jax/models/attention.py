"""Soft attention masks, one a task, over the features of a shared stage (Liu et al. 2019, section 3.2)."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from mtan_jax.models.layers import (
    FLOAT32,
    Numerics,
    batch_moments,
    max_pool,
    normalise,
    update_running,
    upsample,
    xavier_normal,
)
from mtan_jax.models.stage import Stage


class Pointwise(NamedTuple):
    """A 1x1 convolution and the BatchNorm after it, one a task."""

    kernel: Float[Array, "t c d"]
    conv_bias: Float[Array, "t d"]
    scale: Float[Array, "t d"]
    bias: Float[Array, "t d"]


class Moments(NamedTuple):
    """Mean and variance that a BatchNorm divides by, one a task."""

    mean: Float[Array, "t d"]
    var: Float[Array, "t d"]


def attention_mask(
    look: Float[Array, "b h w c"],
    attended: Float[Array, "t b h w e"] | None,
    hidden: Pointwise,
    output: Pointwise,
    running: tuple[Moments, Moments] | None = None,
    axis_name: str | None = None,
) -> tuple[Float[Array, "t b h w d"], tuple[Moments, Moments]]:
    r"""The masks of all tasks at one stage.

    Equations (1) to (3) of the paper, without their resampling: with u the features that all tasks look at and a_t what
    task t attended to at the stage before (none at the first),

        m_t = sigmoid(BN(W'_t relu(BN(W_t [u ; a_t]))))

    Args:
        look: u.
        attended: a_t; None at the first stage.
        hidden: W_t and its BatchNorm, from c + e channels.
        output: W'_t and its BatchNorm.
        running: the moments to normalise by; None (in training) takes those of the batch.
        axis_name: devices over which the batch's moments are taken.

    Returns:
        The masks in 0..1, and the moments that were used.
    """
    dtype = look.dtype
    channels = look.shape[-1]
    kernel = hidden.kernel.astype(dtype)
    # [u ; a_t] W_t as a sum: what tasks share is read once and never copied a task.
    x = jnp.einsum("bhwc,tcd->tbhwd", look, kernel[:, :channels])
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


class AttentionMasks(nn.Module):
    """The parameters and running statistics of `attention_mask`, each task's under the task's name.

    The masks are shown under the stage's name in the collection "masks" where that is mutable.
    """

    tasks: tuple[str, ...]
    hidden: int
    features: int
    numerics: Numerics = FLOAT32

    @nn.compact
    def __call__(
        self, look: Float[Array, "b h w c"], attended: Float[Array, "t b h w e"] | None, *, train: bool
    ) -> Float[Array, "t b h w d"]:
        channels = look.shape[-1] + (0 if attended is None else attended.shape[-1])
        sizes = (channels, self.hidden, self.features)
        layers = [_MaskVariables(sizes, self.numerics.param_dtype, name=task) for task in self.tasks]
        per_task = [layer() for layer in layers]
        (hidden, output), running = jax.tree.map(lambda *leaves: jnp.stack(leaves), *per_task)
        axis_name = None if self.is_initializing() else self.numerics.axis_name
        mask, moments = attention_mask(look, attended, hidden, output, None if train else running, axis_name)
        if train and not self.is_initializing():
            for i, layer in enumerate(layers):
                layer.update(jax.tree.map(lambda leaf, i=i: leaf[i], moments))
        self.sow("masks", "mask", mask, reduce_fn=lambda _, new: new, init_fn=lambda: None)
        return mask


class TaskAttention(nn.Module):
    """Every task's way through the stages of a backbone (Liu et al. 2019, figure 2).

    At stage j, task t gates the shared features p_j by its mask: a_t = m_t * p_j (`attention_mask`). Between stages
    a_t passes what all tasks share there and follows the backbone's change of resolution (`Stage.shared`,
    `Stage.resample`). BatchNorms in what they share see each task's features in turn, as in the authors' code.

    Raises:
        ValueError: attended features reach a stage in another height or width than its own.
    """

    tasks: tuple[str, ...]
    numerics: Numerics = FLOAT32

    @nn.compact
    def __call__(self, stages: dict[str, Stage], *, train: bool) -> Float[Array, "t b h w c"]:
        attended: Any = None
        for name, stage in stages.items():
            shared = stage.shared(name=f"{name}_shared") if stage.shared else None
            if stage.resample == "up" and attended is not None:
                attended = upsample(attended)
                attended = shared(attended, train=train) if shared else attended
            if attended is not None and attended.shape[-3:-1] != stage.look.shape[-3:-1]:
                raise ValueError(
                    f"stage {name!r} is {_size(stage.look)}, but the features attended to before it come as "
                    f"{_size(attended)}: a stage that is followed by half the size needs resample='down', one of "
                    "double the size resample='up' itself"
                )
            masks = AttentionMasks(self.tasks, stage.hidden, stage.gate.shape[-1], self.numerics, name=name)
            # In this order: XLA for CPUs of jaxlib 0.10.2 gets the gradient of `masks * gate` wrong for several tasks
            # at once (tests/models/test_attention.py).
            attended = stage.gate[None] * masks(stage.look, attended, train=train)
            if stage.resample != "up" and shared:
                attended = shared(attended, train=train)
            if stage.resample == "down":
                attended, _ = max_pool(attended)
        return attended


def _size(x: Float[Array, "... h w c"]) -> str:
    return "x".join(map(str, x.shape[-3:-1]))


class _MaskVariables(nn.Module):
    """One task's variables at one stage."""

    sizes: tuple[int, int, int]
    param_dtype: Any

    def setup(self) -> None:
        in_features, hidden, features = self.sizes
        shapes = {"hidden": (in_features, hidden), "output": (hidden, features)}
        self.layers = tuple(self._pointwise(name, *shape) for name, shape in shapes.items())
        self.running = tuple(
            (
                self.variable("batch_stats", f"{name}_mean", jnp.zeros, (size,), self.param_dtype),
                self.variable("batch_stats", f"{name}_var", jnp.ones, (size,), self.param_dtype),
            )
            for name, (_, size) in shapes.items()
        )

    def _pointwise(self, name: str, in_features: int, features: int) -> Pointwise:
        def param(leaf: str, init: Any, *shape: int) -> Array:
            return self.param(f"{name}_{leaf}", init, shape, self.param_dtype)

        return Pointwise(
            kernel=param("kernel", xavier_normal, in_features, features),
            conv_bias=param("conv_bias", nn.initializers.zeros, features),
            scale=param("scale", nn.initializers.ones, features),
            bias=param("bias", nn.initializers.zeros, features),
        )

    def __call__(self) -> tuple[tuple[Pointwise, ...], tuple[Moments, ...]]:
        return self.layers, tuple(Moments(mean.value, var.value) for mean, var in self.running)

    def update(self, moments: tuple[Moments, ...]) -> None:
        """Lets the moments of a batch enter the running averages."""
        for variables, new in zip(self.running, moments, strict=True):
            for variable, value in zip(variables, new, strict=True):
                variable.value = update_running(variable.value, value[None])
