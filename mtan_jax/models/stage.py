"""What a backbone shows of itself to the modules that stand on it."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from mtan_jax.models.numerics import FLOAT32, Numerics


class Flow(NamedTuple):
    """What one block of a backbone hands to the next.

    Attributes:
        x: features, at first the image.
        memory: what later blocks need besides, the last one first, such as the positions of max-poolings.
        tasks: where each image belongs to one task, x is [g, b, h, w, c] and this says which task a group is of.
    """

    x: Float[Array, "*g b h w c"]
    memory: tuple[Array, ...] = ()
    tasks: Any = None  # Int[Array, "g"]


@dataclasses.dataclass(frozen=True)
class Stage:
    """What a block of a backbone offers to attention.

    Attributes:
        look: the features that a mask looks at.
        gate: the features that a mask gates; of look's height and width.
        hidden: channels between the two layers of a mask.
        shared: makes the module, one for all tasks, that attended features pass on their way: after the mask, or before
            it where `resample` is "up". `shared(name=...)` gives a module `(x [t,b,h,w,c], train=...)`. None: they pass
            none.
        resample: "down": attended features are max-pooled by 2 after the stage; "up": they are doubled before it; None:
            they keep their size.
        shared_pools: whether the max-pooling of "down" is done by `shared`, as `ConvNorm(pool=True)` does at less cost.

    Raises:
        ValueError: `look` and `gate` differ in height or width, `resample` is none of these, or `shared_pools` is set
            where nothing pools.
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
                f"Stage.look is {self.look.shape} and gate {self.gate.shape}: a mask has the height and width of both"
            )
        if self.resample not in ("down", "up", None):
            raise ValueError(f"Stage.resample is {self.resample!r}; known: 'down', 'up', None")
        if self.shared_pools and (self.resample != "down" or self.shared is None):
            raise ValueError("Stage.shared_pools needs resample='down' and something shared, which does the pooling")


@dataclasses.dataclass(frozen=True)
class Backbone:
    """A feed-forward network as an ordered list of named blocks, and the head that suits it.

    Attributes:
        blocks: name -> what makes the block: `make()` gives a module `(flow, train=...) -> (Stage, Flow)`. The last
            block's `gate` holds the features of the network as a whole.
        head: `head(channels=..., image_size=..., name=...)` gives a module `(x, train=...)` whose output is a task's
            prediction before its activation.
        multiple: the image's sides must be multiples of this.
        numerics: of all its layers.
    """

    blocks: Mapping[str, Callable[..., nn.Module]]
    head: Callable[..., nn.Module]
    multiple: int
    numerics: Numerics = FLOAT32


class Trunk(nn.Module):
    """The blocks of a backbone with their variables."""

    backbone: Backbone

    def setup(self) -> None:
        for name, make in self.backbone.blocks.items():
            if hasattr(type(self), name) or name in type(self).__dataclass_fields__ or not name.isidentifier():
                raise ValueError(f"Backbone.blocks has a block {name!r}, which Flax uses itself; give it another name")
            setattr(self, name, make())

    def block(self, name: str, flow: Flow, *, train: bool) -> tuple[Stage, Flow]:
        """Runs one block."""
        stage, flow = getattr(self, name)(flow, train=train)
        return stage, flow

    def __call__(self, image: Float[Array, "*g b h w 3"], *, train: bool, tasks: Any = None) -> dict[str, Stage]:
        """Runs all blocks in order; `tasks` [g] where each image belongs to one task."""
        flow, stages = start(self.backbone, image)._replace(tasks=tasks), {}
        for name in self.backbone.blocks:
            stages[name], flow = self.block(name, flow, train=train)
        return stages


def abstract_stages(backbone: Backbone, image_size: tuple[int, int], *, grouped: bool) -> dict[str, Stage]:
    """The stages for one image, with shapes in place of arrays; nothing is computed.

    Args:
        backbone: of any kind.
        image_size: height, width.
        grouped: whether it is one for images of single tasks, [g, b, h, w, c].
    """
    stages: dict[str, Stage] = {}
    rows, tasks = ((1, 1), jnp.zeros(1, jnp.int32)) if grouped else ((1,), None)

    def run(image: Float[Array, "*g 1 h w 3"]) -> dict[str, tuple[Array, Array]]:
        stages.update(Trunk(backbone).init_with_output(jax.random.key(0), image, train=False, tasks=tasks)[0])
        return {name: (stage.look, stage.gate) for name, stage in stages.items()}

    shapes = jax.eval_shape(run, jax.ShapeDtypeStruct((*rows, *image_size, 3), jnp.float32))
    # Not in the order of `shapes`: JAX sorts the keys.
    return {
        name: dataclasses.replace(stage, look=shapes[name][0], gate=shapes[name][1]) for name, stage in stages.items()
    }


def start(backbone: Backbone, image: Float[Array, "*g b h w 3"]) -> Flow:
    """The flow into the first block.

    Raises:
        ValueError: where the image's sides do not suit the backbone; it names the nearest that do.
    """
    sides, multiple = image.shape[-3:-1], backbone.multiple
    if any(side % multiple for side in sides):
        fitting = tuple(max(round(side / multiple), 1) * multiple for side in sides)
        raise ValueError(
            f"image size {tuple(sides)}: the network needs sides that are multiples of {multiple}; {fitting} would do "
            "(config.data.options.image_size)"
        )
    return Flow(image.astype(backbone.numerics.dtype))
