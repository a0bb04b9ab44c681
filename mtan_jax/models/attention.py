"""Soft attention masks, one a task, over the features of a shared stage (Liu et al. 2019, section 3.2)."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax
from jaxtyping import Array, Float

from mtan_jax.models.layers.batch_norm import Activation, normalise, normalise_batch, update_running
from mtan_jax.models.layers.conv import xavier_normal
from mtan_jax.models.numerics import FLOAT32, Numerics
from mtan_jax.models.ops.convolution import convolve
from mtan_jax.models.ops.pixel_pairs import each_pixel
from mtan_jax.models.ops.resample import max_pool, upsample
from mtan_jax.models.stage import Stage


class Pointwise(NamedTuple):
    """A 1x1 convolution and the BatchNorm after it."""

    kernel: Float[Array, "c d"]
    conv_bias: Float[Array, " d"]
    scale: Float[Array, " d"]
    bias: Float[Array, " d"]


class Moments(NamedTuple):
    """Mean and variance of the input of a BatchNorm."""

    mean: Float[Array, " d"]
    var: Float[Array, " d"]


def attention_mask(
    look: Float[Array, "b h w c"],
    attended: Float[Array, "b h w e"] | None,
    hidden: Pointwise,
    output: Pointwise,
    running: tuple[Moments, Moments] | None = None,
    axis_name: str | None = None,
) -> tuple[Float[Array, "b h w d"], tuple[Moments, Moments]]:
    r"""The mask of one task at one stage.

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
        The mask in 0..1, and the moments that were used.
    """
    channels = look.shape[-1]
    kernel = hidden.kernel.astype(look.dtype)
    # [u ; a_t] W_t as a sum: what tasks share is read where it lies and never copied a task.
    x = convolve(look, kernel[None, None, :channels])
    if attended is not None:
        x = x + convolve(attended, kernel[None, None, channels:])
    x, hidden_moments = _norm(x, hidden, running and running[0], axis_name, "relu")
    x = convolve(x, output.kernel.astype(x.dtype)[None, None])
    x, output_moments = _norm(x, output, running and running[1], axis_name, "sigmoid")
    return x, (hidden_moments, output_moments)


def _norm(
    x: Float[Array, "b h w d"], layer: Pointwise, running: Moments | None, axis_name: str | None, activation: Activation
) -> tuple[Float[Array, "b h w d"], Moments]:
    # The convolution's bias is never added: see batch_norm.BatchNorm.
    if running is not None:
        mean, variance = running
        return normalise(x, mean - layer.conv_bias, variance, layer.scale, layer.bias, activation), running
    x, (mean, variance) = normalise_batch(x, layer.scale, layer.bias, axis_name, activation)
    return x, Moments(lax.stop_gradient(mean + layer.conv_bias), variance)


class AttentionMasks(nn.Module):
    """The parameters and running statistics of `attention_mask`, each task's under the task's name.

    Looks, attended features and masks are lists, one entry a task. The masks are shown under the stage's name in the
    collection "masks" where that is mutable, as one array. Where each image belongs to one task, an entry is of a group
    of images, and `chosen` [g] says of which tasks.
    """

    tasks: tuple[str, ...]
    hidden: int
    features: int
    numerics: Numerics = FLOAT32

    @nn.compact
    def __call__(
        self,
        looks: Sequence[Float[Array, "b h w c"]],
        attended: Sequence[Float[Array, "b h w e"]] | None,
        *,
        train: bool,
        chosen: Any = None,
    ) -> list[Float[Array, "b h w d"]]:
        channels = looks[0].shape[-1] + (0 if attended is None else attended[0].shape[-1])
        sizes = (channels, self.hidden, self.features)
        layers = [_MaskVariables(sizes, self.numerics.param_dtype, name=task) for task in self.tasks]
        variables: list[Any] = [layer() for layer in layers]
        if chosen is not None:
            stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *variables)
            variables = [jax.tree.map(lambda leaf, i=i: leaf[i], stacked) for i in chosen]
        axis_name = None if self.is_initializing() else self.numerics.axis_name
        masks, moments = [], []
        for i, ((hidden, output), running) in enumerate(variables):
            into = None if attended is None else attended[i]
            mask, found = attention_mask(looks[i], into, hidden, output, None if train else running, axis_name)
            masks.append(mask)
            moments.append(found)
        if train and not self.is_initializing():
            self._update(layers, moments, chosen)
        self.sow("masks", "mask", jnp.stack(masks), reduce_fn=lambda _, new: new, init_fn=lambda: None)
        return masks

    def _update(self, layers: list[Any], moments: list[tuple[Moments, Moments]], chosen: Any) -> None:
        if chosen is None:
            for layer, found in zip(layers, moments, strict=True):
                layer.update(found)
            return
        stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *moments)
        for i, layer in enumerate(layers):
            place = jnp.argmax(chosen == i)
            layer.update(jax.tree.map(lambda leaf, place=place: leaf[place], stacked), (chosen == i).any())


class TaskAttention(nn.Module):
    """Every task's way through the stages of a backbone (Liu et al. 2019, figure 2).

    At stage j, task t gates the shared features p_j by its mask: a_t = m_t * p_j (`attention_mask`). Between stages
    a_t passes what all tasks share there and follows the backbone's change of resolution (`Stage.shared`,
    `Stage.resample`). BatchNorms in what they share see each task's features in turn, as in the authors' code. Where
    each image belongs to one task, the stages' features are [g, b, h, w, c] and `chosen` [g] says of which tasks.

    Tasks pass one after the other (docs/performance.md has the measurements).

    Raises:
        ValueError: attended features reach a stage in another height or width than its own, or what should have pooled
            them has not.
    """

    tasks: tuple[str, ...]
    numerics: Numerics = FLOAT32

    @nn.compact
    def __call__(self, stages: dict[str, Stage], *, train: bool, chosen: Any = None) -> list[Float[Array, "b h w c"]]:
        count = len(self.tasks) if chosen is None else chosen.shape[0]
        attended: Any = None
        for name, stage in stages.items():
            shared = self._shared(f"{name}_shared", stage, train, chosen) if stage.shared else list
            if stage.resample == "up" and attended is not None:
                attended = shared([upsample(a) for a in attended])
            if attended is not None and attended[0].shape[-3:-1] != stage.look.shape[-3:-1]:
                raise ValueError(
                    f"stage {name!r} is {_size(stage.look)}, but the features attended to before it come as "
                    f"{_size(attended[0])}: a stage that is followed by half the size needs resample='down', one of "
                    "double the size resample='up' itself, and one whose `shared` pools shared_pools=True"
                )
            masks = AttentionMasks(self.tasks, stage.hidden, stage.gate.shape[-1], self.numerics, name=name)
            looks, gates = (
                [features] * count if chosen is None else list(features) for features in (stage.look, stage.gate)
            )
            shown = masks(looks, attended, train=train, chosen=chosen)
            # In this order: XLA for CPUs of jaxlib 0.10.2 gets the gradient of `mask * gate` wrong for several tasks
            # at once (tests/models/test_attention.py).
            attended = [each_pixel(jnp.multiply, pair) for pair in zip(gates, shown, strict=True)]
            if stage.resample != "up":
                attended = shared(attended)
            if stage.resample == "down" and not stage.shared_pools:
                attended = [max_pool(a)[0] for a in attended]
            if stage.shared_pools and attended[0].shape[-3] == stage.look.shape[-3]:
                raise ValueError(
                    f"stage {name!r} has shared_pools=True, but what it shares keeps the size of {_size(stage.look)}: "
                    "it has to pool, as ConvNorm(pool=True) does"
                )
        return attended

    def _shared(self, name: str, stage: Stage, train: bool, chosen: Any) -> Callable[[list[Array]], list[Array]]:
        """What tasks share after or before a stage, for each of them in turn."""
        module = stage.shared(name=name)  # type: ignore[misc]

        def of_one(i: int, x: Float[Array, "b h w c"]) -> Float[Array, "b H W d"]:
            options = {} if chosen is None else {"tasks": chosen[i : i + 1]}
            return module(x[None], train=train, **options)[0]

        return lambda attended: [of_one(i, x) for i, x in enumerate(attended)]


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

    def update(self, moments: tuple[Moments, ...], present: Any = True) -> None:
        """Lets the moments of a batch enter the running averages, where the task is present in it."""
        for variables, new in zip(self.running, moments, strict=True):
            for variable, value in zip(variables, new, strict=True):
                updated = update_running(variable.value, value[None])
                variable.value = updated if present is True else jnp.where(present, updated, variable.value)
