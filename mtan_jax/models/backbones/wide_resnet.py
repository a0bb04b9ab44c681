"""Wide ResNet (Zagoruyko, Komodakis 2016) for images of one task each, as MTAN's authors use it for the Decathlon.

Methods that adapt one network to many tasks differ only in which parameters of a layer are per task. `Layers` makes
every convolution and BatchNorm accordingly.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Literal

from flax import linen as nn
from jaxtyping import Array, Float, Int

from mtan_jax.models.layers.batch_norm import MOMENTUM
from mtan_jax.models.layers.task_layers import SharedConv, TaskConv, TaskConvNorm, TaskNorm
from mtan_jax.models.numerics import Numerics
from mtan_jax.models.stage import Backbone, Flow, Stage

CHANNELS = (16, 64, 128, 256)  # WRN-28-4: the stem and three groups
LAST_MOMENTUM = 0.1  # of the last BatchNorm; PyTorch's 0.9 is the weight of the new value
AUTHORS_SIDE, POOLED = 9, 8  # for 72 pixels, the authors' avg_pool2d(x, 8) reads 8x8 of the 9x9 positions


@dataclasses.dataclass(frozen=True)
class Layers:
    """Makes the layers of a network.

    Attributes:
        tasks: names of all tasks.
        numerics: of all layers.
        conv: class of every 3x3 convolution, or a partial of it.
        shortcut: class of every 1x1 convolution beside a block.
        norm: `TaskNorm.parameters` of every BatchNorm.
    """

    tasks: tuple[str, ...]
    numerics: Numerics
    conv: Callable[..., TaskConv] = SharedConv
    shortcut: type[TaskConv] = SharedConv
    norm: Literal["shared", "own", "frozen"] = "shared"

    def make_norm(self, *, name: str, momentum: float = MOMENTUM) -> TaskNorm:
        """Makes a BatchNorm with ReLU."""
        return TaskNorm(self.tasks, self.numerics, self.norm, momentum, "relu", name=name)

    def make_conv(self, features: int, stride: int = 1, *, name: str) -> TaskConv:
        """Makes a 3x3 convolution."""
        return self.conv(self.tasks, self.numerics, features, stride=stride, name=name)

    def make_shortcut(self, features: int, stride: int, *, name: str) -> TaskConv:
        """Makes a 1x1 convolution."""
        return self.shortcut(self.tasks, self.numerics, features, kernel_size=1, stride=stride, name=name)


def _tasks(flow: Flow) -> Int[Array, "g"]:
    if flow.tasks is None:
        raise ValueError("Wide ResNet takes groups of images of one task each; pass each group's task index")
    return flow.tasks


class Block(nn.Module):
    """A pre-activation residual block: BatchNorm, ReLU, convolution, twice. The second convolution has the stride."""

    layers: Layers
    features: int
    stride: int

    @nn.compact
    def __call__(self, flow: Flow, *, train: bool) -> Flow:
        x, tasks, layers = flow.x, _tasks(flow), self.layers
        y = layers.make_norm(name="norm_0")(x, tasks, train=train)
        y = layers.make_conv(self.features, name="conv_0")(y, tasks)
        y = layers.make_norm(name="norm_1")(y, tasks, train=train)
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
        flow = flow._replace(x=self.layers.make_conv(self.features, name="conv")(flow.x, _tasks(flow)))
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
            norm = self.layers.make_norm(momentum=LAST_MOMENTUM, name="norm")
            flow = flow._replace(x=norm(flow.x, _tasks(flow), train=train))
        return _stage(flow.x, self.layers, self.next_features, None if self.is_last else "down"), flow


def _stage(x: Float[Array, "g b h w c"], layers: Layers, next_features: int, resample: Literal["down"] | None) -> Stage:
    """A stage whose mask is computed from a group's output and applied to it."""
    shared = functools.partial(TaskConvNorm, layers.tasks, layers.numerics, next_features)
    return Stage(x, x, x.shape[-1], shared, resample)


def mean_over_positions(x: Float[Array, "g b h w c"]) -> Float[Array, "g b c"]:
    """Averages over positions.

    A side of 9, the result of 72 pixels, is cropped to its first 8 as in the authors' code; other sides are not.
    """
    height, width = (POOLED if side == AUTHORS_SIDE else side for side in x.shape[2:4])
    return x[:, :, :height, :width].mean((2, 3))


def wide_resnet(depth: int, width: float, layers: Layers) -> Backbone:
    """Makes a Wide ResNet of 6 n + 4 layers with 16, 64, 128, 256 channels times `width`; width 1 is WRN-d-4.

    Args:
        depth: 10, 16, 22, 28, ...
        width: multiplies all channels.
        layers: makes the layers.

    Raises:
        ValueError: the depth is not 6 n + 4.
    """
    blocks, rest = divmod(depth - 4, 6)
    if rest or blocks < 1:
        raise ValueError(f"depth={depth} of a Wide ResNet is not 6 n + 4; use 10, 16, 22 or 28, for example")
    stem, *groups = (max(round(width * channels), 1) for channels in CHANNELS)
    made: dict[str, Callable[..., nn.Module]] = {"stem": functools.partial(Stem, layers, stem, groups[0])}
    for i, features in enumerate(groups):
        is_last = i == len(groups) - 1
        next_features = features if is_last else groups[i + 1]
        made[f"group_{i}"] = functools.partial(Group, layers, features, next_features, blocks, is_last)
    return Backbone(made, head=_no_dense_head, multiple=8, numerics=layers.numerics)


def _no_dense_head(**options: object) -> nn.Module:
    del options
    raise ValueError("Wide ResNet has no head for dense prediction tasks")
