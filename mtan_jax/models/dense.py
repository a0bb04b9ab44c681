"""The network "dense" of MTAN's authors: one network per task, which reads a shared network at every block."""

import dataclasses
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from mtan_jax.models.predictions import predict
from mtan_jax.models.shared_features import hand_over
from mtan_jax.models.stage import Backbone, Flow, Trunk, start
from mtan_jax.tasks import Task


class Dense(nn.Module):
    """A shared backbone, and one backbone and head per task, whose blocks also read the shared backbone's features.

    The input of a task's block is [the task's features; the shared features], each unpooled with its own positions in
    the decoder. As in the authors' code, the last shared block has as many channels as the first task's prediction, and
    nothing reads its output.

    Attributes:
        backbone: of the shared network and of each task; its last block must accept `last`, its number of channels.
        tasks: any number of tasks; predictions are returned under their names.
    """

    backbone: Backbone
    tasks: tuple[Task, ...]

    @nn.compact
    def __call__(self, image: Float[Array, "b h w 3"], *, train: bool) -> dict[str, Float[Array, "b h w _"]]:
        *names, last = self.backbone.blocks
        narrow = functools.partial(self.backbone.blocks[last], last=self.tasks[0].channels)
        blocks: dict[str, Callable[..., nn.Module]] = {**self.backbone.blocks, last: narrow}
        trunk = Trunk(dataclasses.replace(self.backbone, blocks=blocks), name="backbone")
        common = [start(self.backbone, image)]
        for name in (*names, last):
            common.append(trunk.block(name, common[-1], train=train)[1])
        _, *inner, _ = common  # without the image and the last output, which nothing reads
        handed = hand_over(self, self.tasks, [flow.x for flow in inner])
        shared = [flow._replace(x=x) for flow, x in zip(inner, handed, strict=True)]
        features = {}
        for task in self.tasks:
            trunk = Trunk(self.backbone, name=f"backbone_{task.name}")
            flow = start(self.backbone, image)
            for i, name in enumerate(self.backbone.blocks):
                into = _joined(flow, shared[i - 1]) if i else flow
                stage, new = trunk.block(name, into, train=train)
                flow = _memory_of_task(flow, new)
            features[task.name] = stage.gate
        return predict(self.backbone, self.tasks, features, image, train=train)


def _joined(flow: Flow, common: Flow) -> Flow:
    return jax.tree.map(lambda own, shared: jnp.concatenate([own, shared], -1), flow, common)


def _memory_of_task(before: Flow, after: Flow) -> Flow:
    """Returns the flow after a block that got joined features, with the memory of the task's own features only."""
    pushed = len(after.memory) - len(before.memory)
    memory = after.memory[:pushed] + before.memory if pushed > 0 else before.memory[-pushed:]
    return Flow(after.x, memory)
