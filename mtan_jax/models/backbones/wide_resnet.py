"""Wide ResNet (Zagoruyko, Komodakis 2016) for images of single tasks, as the authors of MTAN use it for the Decathlon.

Every convolution and BatchNorm is made by `Layers`, which says what of it belongs to single tasks: that is all in which
the methods differ that adapt one network to many tasks.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, Literal

from flax import linen as nn
from jaxtyping import Array, Float

from mtan_jax.models.layers.task_layers import SharedConv, TaskConv, TaskConvNorm, TaskNorm
from mtan_jax.models.numerics import Numerics
from mtan_jax.models.stage import Backbone, Flow, Stage

CHANNELS = (16, 64, 128, 256)  # of WRN-28-4: the stem and three groups
LAST_MOMENTUM = 0.1  # of the last BatchNorm; PyTorch's 0.9 is the share of the new value
AUTHORS_SIDE, POOLED = 9, 8  # of 72 pixels' 9x9 positions the authors' avg_pool2d(x, 8) sees the first 8x8


@dataclasses.dataclass(frozen=True)
class Layers:
    """What the layers of a network are.

    Attributes:
        tasks: names of all tasks.
        numerics: see there.
        conv: makes every 3x3 convolution.
        shortcut: makes every 1x1 convolution beside a block.
        norm: see `TaskNorm.parameters`.
    """

    tasks: tuple[str, ...]
    numerics: Numerics
    conv: type[TaskConv] = SharedConv
    shortcut: type[TaskConv] = SharedConv
    norm: Literal["shared", "own", "frozen"] = "shared"

    def make_norm(self, **options: Any) -> TaskNorm:
        """A BatchNorm."""
        return TaskNorm(self.tasks, self.numerics, self.norm, **options)

    def make_conv(self, features: int, stride: int = 1, **options: Any) -> TaskConv:
        """A 3x3 convolution."""
        return self.conv(self.tasks, self.numerics, features, stride=stride, **options)

    def make_shortcut(self, features: int, stride: int, **options: Any) -> TaskConv:
        """A 1x1 convolution."""
        return self.shortcut(self.tasks, self.numerics, features, kernel_size=1, stride=stride, **options)


class Block(nn.Module):
    """BatchNorm, ReLU, convolution, twice, and a shortcut. The second convolution has the stride."""

    layers: Layers
    features: int
    stride: int

    @nn.compact
    def __call__(self, flow: Flow, *, train: bool) -> Flow:
        x, tasks, layers = flow.x, flow.tasks, self.layers
        y = layers.make_norm(activation="relu", name="norm_0")(x, tasks, train=train)
        y = layers.make_conv(self.features, name="conv_0")(y, tasks)
        y = layers.make_norm(activation="relu", name="norm_1")(y, tasks, train=train)
        y = layers.make_conv(self.features, self.stride, name="conv_1")(y, tasks)
        if self.stride != 1 or x.shape[-1] != self.features:
            x = layers.make_shortcut(self.features, self.stride, name="shortcut")(x, tasks)
        return flow._replace(x=x + y)


class Stem(nn.Module):
    """The first convolution."""

    layers: Layers
    features: int
    next_features: int

    @nn.compact
    def __call__(self, flow: Flow, *, train: bool) -> tuple[Stage, Flow]:
        del train
        flow = flow._replace(x=self.layers.make_conv(self.features, name="conv")(flow.x, flow.tasks))
        return _stage(flow.x, self.layers, self.next_features, "down"), flow


class Group(nn.Module):
    """Blocks of one width, the first with stride 2; the last group ends in BatchNorm and ReLU."""

    layers: Layers
    features: int
    next_features: int
    blocks: int
    is_last: bool

    @nn.compact
    def __call__(self, flow: Flow, *, train: bool) -> tuple[Stage, Flow]:
        for i in range(self.blocks):
            flow = Block(self.layers, self.features, 2 if i == 0 else 1, name=f"block_{i}")(flow, train=train)
        if self.is_last:
            norm = self.layers.make_norm(momentum=LAST_MOMENTUM, activation="relu", name="norm")
            flow = flow._replace(x=norm(flow.x, flow.tasks, train=train))
        return _stage(flow.x, self.layers, self.next_features, None if self.is_last else "down"), flow


def _stage(x: Float[Array, "g b h w c"], layers: Layers, next_features: int, resample: Literal["down"] | None) -> Stage:
    """Attention looks at a group's output and gates it; hidden are as many channels as it has."""
    shared = functools.partial(TaskConvNorm, layers.tasks, layers.numerics, next_features)
    return Stage(x, x, x.shape[-1], shared, resample)


def pooled(x: Float[Array, "g b h w c"]) -> Float[Array, "g b c"]:
    """The mean over positions.

    Of a side of 9, which 72 pixels come to, it takes the first 8, as the authors' code does; of any other it takes all.
    """
    height, width = (POOLED if side == AUTHORS_SIDE else side for side in x.shape[2:4])
    return x[:, :, :height, :width].mean((2, 3))


def wide_resnet(depth: int, width: float, layers: Layers) -> Backbone:
    """A Wide ResNet of 6 n + 4 layers with 16, 64, 128, 256 channels times `width`; WRN-28-4 at a width of 1.

    Args:
        depth: 10, 16, 22, 28, ...
        width: multiplies all channels.
        layers: what the layers are.

    Raises:
        ValueError: a depth that is none of these.
    """
    blocks, rest = divmod(depth - 4, 6)
    if rest or blocks < 1:
        raise ValueError(f"a Wide ResNet of depth {depth}: 6 n + 4 layers are needed, such as 10, 16 or 28")
    stem, *groups = (max(round(width * channels), 1) for channels in CHANNELS)
    made: dict[str, Callable[..., nn.Module]] = {"stem": functools.partial(Stem, layers, stem, groups[0])}
    for i, features in enumerate(groups):
        is_last = i == len(groups) - 1
        next_features = features if is_last else groups[i + 1]
        made[f"group_{i}"] = functools.partial(Group, layers, features, next_features, blocks, is_last)
    return Backbone(made, head=_no_dense_head, multiple=8, numerics=layers.numerics)


def _no_dense_head(**options: Any) -> nn.Module:
    raise ValueError("Wide ResNet has no head for dense tasks")
