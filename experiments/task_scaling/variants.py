"""Variants of MTAN that compute per-task parts for all tasks at once, or for one task after another.

Names and shapes of variables are those of `mtan_jax.models.mtan.MTAN`, so one set of variables serves every variant.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax
from jaxtyping import Array, Float

from mtan_jax.models import ops
from mtan_jax.models.attention import SharedExtractor, TaskAttention
from mtan_jax.models.layers import Conv, xavier_normal
from mtan_jax.models.mtan import MTAN
from mtan_jax.models.numerics import Numerics
from mtan_jax.models.predictions import predict
from mtan_jax.models.stage import Backbone, Stage
from mtan_jax.tasks import Task
from mtan_jax.types import Variables

Modules = dict[str, TaskAttention]
Stages = dict[str, Stage]


def attend_one_by_one(modules: Modules, stages: Stages, train: bool) -> list[Float[Array, "b h w c"]]:
    """Attention as in `MTAN`: one task after another."""
    attended: dict[str, Array] = {}
    for name, stage in stages.items():
        extractor = SharedExtractor(name, stage, train=train)
        for task, module in modules.items():
            mask = module(name, stage, extractor.before_mask(attended.get(task)), train=train)
            attended[task] = extractor.after_mask(ops.multiply(stage.gate, mask))
    return list(attended.values())


def attend_together(modules: Modules, stages: Stages, train: bool) -> Float[Array, "t b h w c"]:
    """Attention for all tasks at once: parameters are stacked, features have a leading axis of tasks."""
    tasks = list(modules.values())
    if tasks[0].is_initializing():
        return jnp.stack(attend_one_by_one(modules, stages, train))
    variables = jax.tree.map(lambda *leaves: jnp.stack(leaves), *[module.variables for module in tasks])
    attended = None
    for name, stage in stages.items():
        extractor = _Together(name, stage, train=train)

        def mask_of(
            variables: Variables, attended: Array | None, name: str = name, stage: Stage = stage
        ) -> tuple[Array, Variables]:
            module = tasks[0].clone(parent=None, name=None)
            mask, updates = module.apply(variables, name, stage, attended, train=train, mutable=["batch_stats"])
            return mask, updates

        masks, updates = jax.vmap(mask_of)(variables, extractor.before_mask(attended))
        variables = {**variables, **updates}
        attended = extractor.after_mask(stage.gate[None] * masks)
    if train:
        for i, module in enumerate(tasks):
            for name, statistics in variables["batch_stats"].items():
                module.put_variable("batch_stats", name, jax.tree.map(lambda leaf, i=i: leaf[i], statistics))
    return attended


class _Together(SharedExtractor):
    """The shared extractor for features [t, b, h, w, c]."""

    def _extract(self, x: Float[Array, "t b h w e"]) -> Float[Array, "t b H W d"]:
        return x if self._module is None else self._module(x, train=self._train)


class _ConvVariables(nn.Module):
    """Kernel and bias of a 3x3 `Conv` with as many outputs as inputs, under the names that `Conv` gives them."""

    features: int
    is_inner: bool = False

    @nn.compact
    def __call__(self) -> tuple[Float[Array, "3 3 c c"], Float[Array, " c"]]:
        if not self.is_inner:
            return _ConvVariables(self.features, is_inner=True, name="conv")()
        shape = (3, 3, self.features, self.features)
        return self.param("kernel", xavier_normal, shape), self.param("bias", nn.initializers.zeros, shape[-1:])


class _HeadInTwo(nn.Module):
    """`heads.Head` in two steps: the variables of its first convolution, and what follows that convolution."""

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
        return ops.resize(self.conv_1(x), self.image_size)


def grouped_conv(x: Float[Array, "t b h w c"], kernel: Float[Array, "t 3 3 c d"]) -> Float[Array, "t b h w d"]:
    """A 3x3 convolution a task, padded by one: under vmap one convolution with t groups of channels."""
    numbers = ("NHWC", "HWIO", "NHWC")
    return jax.vmap(lambda x, k: lax.conv_general_dilated(x, k, (1, 1), "SAME", dimension_numbers=numbers))(x, kernel)


def shifted_products(x: Float[Array, "t b h w c"], kernel: Float[Array, "t 3 3 c d"]) -> Float[Array, "t b h w d"]:
    """The same as a sum of nine products batched over tasks, one for each pixel of the kernel."""
    height, width = x.shape[2:4]
    x = jnp.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1), (0, 0)))
    terms = [
        jnp.einsum("tbhwc,tcd->tbhwd", x[:, :, i : i + height, j : j + width], kernel[:, i, j])
        for i in range(3)
        for j in range(3)
    ]
    return sum(terms[1:], terms[0])


def predict_batched(conv: Callable[..., Array]) -> Callable[..., dict[str, Array]]:
    """`predict` for `heads.Head`, with the first convolutions of all heads computed together by `conv`."""

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


MASKS = {"batched": attend_together, "unrolled": attend_one_by_one}
HEADS = {
    "unrolled": predict,
    "grouped": predict_batched(grouped_conv),
    "products": predict_batched(shifted_products),
}


class VariantMTAN(MTAN):
    """`MTAN` with one of `MASKS` and one of `HEADS`."""

    masks: str
    heads: str

    @nn.compact
    def __call__(self, image: Float[Array, "b h w 3"], *, train: bool) -> dict[str, Float[Array, "b h w _"]]:
        stages = self.shared_stages(image, train=train)
        names = [task.name for task in self.tasks]
        modules = {task: TaskAttention(self.backbone.numerics, name=f"attention_{task}") for task in names}
        features = dict(zip(names, MASKS[self.masks](modules, stages, train), strict=True))
        return HEADS[self.heads](self.backbone, self.tasks, features, image, train=train)
