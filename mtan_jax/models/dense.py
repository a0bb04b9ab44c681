"""The authors' network "dense": a shared network, and a network a task that reads the shared one at every block."""

import dataclasses
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from mtan_jax.models.network import predict
from mtan_jax.models.shared_features import hand_over
from mtan_jax.models.stage import Backbone, Flow, Trunk, start
from mtan_jax.tasks import Task


class Dense(nn.Module):
    """A shared backbone, and a backbone and a head a task; each block of a task reads the shared features besides.

    The input of a task's block is [the task's features; the shared features], unpooled each by its own positions where
    there are any. What the last shared block computes is read by nothing, as in the authors' code, where it has as many
    channels as the first task's prediction.

    Attributes:
        backbone: of what is shared and of each task; its last block takes `last`, its number of channels.
        tasks: any number of tasks; predictions come under their names.
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
        _, *inner, _ = common  # neither the image nor what nothing reads
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
    """The flow out of a block that was given joined features: memory as if the block had seen the task's alone."""
    pushed = len(after.memory) - len(before.memory)
    memory = after.memory[:pushed] + before.memory if pushed > 0 else before.memory[-pushed:]
    return Flow(after.x, memory)
