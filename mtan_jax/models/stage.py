"""The interface between a backbone and the architectures built on it: `Flow`, `Stage`, `Backbone`, `Trunk`."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Int

from mtan_jax.models.numerics import FLOAT32, Numerics


class Flow(NamedTuple):
    """The data that one block of a backbone passes to the next.

    Attributes:
        x: features; for the first block, the image.
        memory: further arrays that later blocks need, last in first out, such as max-pooling positions.
        tasks: if each image belongs to one task, x is [g, b, h, w, c] and this holds each group's task index.
    """

    x: Float[Array, "*g b h w c"]
    memory: tuple[Array, ...] = ()
    tasks: Int[Array, "g"] | None = None


@dataclasses.dataclass(frozen=True)
class Stage:
    """The features of a block that attention uses, and how attended features continue.

    Attributes:
        look: the features that a mask is computed from (u in the paper).
        gate: the features that a mask is applied to (p in the paper), with look's height and width.
        hidden: channels between the two layers of a mask.
        shared: makes the module, shared by all tasks, that is applied to attended features (f in the paper): after the
            mask, or before it if `resample` is "up". `shared(name=...)` returns a module `(x [t,b,h,w,c], train=...)`.
            None: there is no such module.
        resample: "down": attended features are max-pooled by 2 after the stage; "up": they are upsampled by 2 before
            it; None: they keep their size.
        shared_pools: whether `shared` does the max-pooling of "down", as `ConvNorm(pool=True)` does at less cost.

    Raises:
        ValueError: `look` and `gate` differ in height or width, `resample` is unknown, or `shared_pools` is set where
            nothing can pool.
    """

    look: Float[Array, "*g b h w c"]
    gate: Float[Array, "*g b h w d"]
    hidden: int
    shared: Callable[..., nn.Module] | None = None
    resample: Literal["down", "up"] | None = None
    shared_pools: bool = False

    def __post_init__(self) -> None:
        if self.look.shape[:-1] != self.gate.shape[:-1]:
            raise ValueError(
                f"Stage.look is {self.look.shape} and Stage.gate is {self.gate.shape}; they must have the same height "
                "and width"
            )
        if self.resample not in ("down", "up", None):
            raise ValueError(f"Stage.resample={self.resample!r} is not one of 'down', 'up', None")
        if self.shared_pools and (self.resample != "down" or self.shared is None):
            raise ValueError("Stage.shared_pools=True needs resample='down' and a `shared` module that pools")


@dataclasses.dataclass(frozen=True)
class Backbone:
    """A feed-forward network as an ordered list of named blocks, and its head.

    Attributes:
        blocks: by name, a function `make()` that returns a module `(flow, train=...) -> (Stage, Flow)`. The last
            block's `gate` is the output of the network.
        head: `head(channels=..., image_size=..., name=...)` returns a module `(x, train=...)` that computes a task's
            prediction before its activation.
        multiple: the image's height and width must be multiples of this.
        numerics: of all layers.
    """

    blocks: Mapping[str, Callable[..., nn.Module]]
    head: Callable[..., nn.Module]
    multiple: int
    numerics: Numerics = FLOAT32


class Trunk(nn.Module):
    """Runs the blocks of a backbone and holds their variables."""

    backbone: Backbone

    def setup(self) -> None:
        for name, make in self.backbone.blocks.items():
            if hasattr(type(self), name) or name in type(self).__dataclass_fields__ or not name.isidentifier():
                raise ValueError(f"Backbone.blocks has a block {name!r}, a name that Flax reserves; rename the block")
            setattr(self, name, make())

    def block(self, name: str, flow: Flow, *, train: bool) -> tuple[Stage, Flow]:
        """Runs one block."""
        stage, flow = getattr(self, name)(flow, train=train)
        return stage, flow

    def __call__(
        self, image: Float[Array, "*g b h w 3"], *, train: bool, tasks: Int[Array, "g"] | None = None
    ) -> dict[str, Stage]:
        """Runs all blocks in order.

        Args:
            image: [b, h, w, 3], or [g, b, h, w, 3] where each group of images belongs to one task.
            train: whether this is training.
            tasks: each group's task index.
        """
        flow, stages = start(self.backbone, image)._replace(tasks=tasks), {}
        for name in self.backbone.blocks:
            stages[name], flow = self.block(name, flow, train=train)
        return stages


def abstract_stages(backbone: Backbone, image_size: tuple[int, int], *, grouped: bool) -> dict[str, Stage]:
    """Returns the stages for one image with shapes in place of arrays; computes nothing.

    Args:
        backbone: any backbone.
        image_size: height and width.
        grouped: whether the backbone takes groups of images, [g, b, h, w, c].
    """
    stages: dict[str, Stage] = {}
    rows, tasks = ((1, 1), jnp.zeros(1, jnp.int32)) if grouped else ((1,), None)

    def run(image: Float[Array, "*g 1 h w 3"]) -> dict[str, tuple[Array, Array]]:
        stages.update(Trunk(backbone).init_with_output(jax.random.key(0), image, train=False, tasks=tasks)[0])
        return {name: (stage.look, stage.gate) for name, stage in stages.items()}

    shapes = jax.eval_shape(run, jax.ShapeDtypeStruct((*rows, *image_size, 3), jnp.float32))
    # In the order of `stages`: JAX sorts the keys of `shapes`.
    return {
        name: dataclasses.replace(stage, look=shapes[name][0], gate=shapes[name][1]) for name, stage in stages.items()
    }


def start(backbone: Backbone, image: Float[Array, "*g b h w 3"]) -> Flow:
    """Returns the flow into the first block.

    Raises:
        ValueError: the image's sides are not multiples of `backbone.multiple`; the message gives the nearest that are.
    """
    sides, multiple = image.shape[-3:-1], backbone.multiple
    if any(side % multiple for side in sides):
        fitting = tuple(max(round(side / multiple), 1) * multiple for side in sides)
        raise ValueError(
            f"config.data.options.image_size: {tuple(sides)} is not a multiple of {multiple}, which the network needs; "
            f"use {fitting}"
        )
    return Flow(image.astype(backbone.numerics.dtype))
