"""Multi-Task Attention Network (Liu, Johns, Davison, CVPR 2019) on any backbone."""

import dataclasses

from flax import linen as nn
from jaxtyping import Array, Float

from mtan_jax.models.attention import TaskAttention
from mtan_jax.models.network import predict
from mtan_jax.models.shared_features import hand_over
from mtan_jax.models.stage import Backbone, Trunk
from mtan_jax.tasks import Task


class MTAN(nn.Module):
    """A shared backbone, one soft-attention module a task on top of it, one head a task.

    Attributes:
        backbone: what is shared.
        tasks: any number of tasks; predictions come under their names.
    """

    backbone: Backbone
    tasks: tuple[Task, ...]

    @nn.compact
    def __call__(self, image: Float[Array, "b h w 3"], *, train: bool) -> dict[str, Float[Array, "b h w _"]]:
        stages = Trunk(self.backbone, name="backbone")(image, train=train)
        shown = hand_over(self, self.tasks, {name: (stage.look, stage.gate) for name, stage in stages.items()})
        for name, (look, gate) in shown.items():
            stages[name] = dataclasses.replace(stages[name], look=look, gate=gate)
        names = tuple(task.name for task in self.tasks)
        attended = TaskAttention(names, self.backbone.numerics, name="attention")(stages, train=train)
        features = dict(zip(names, attended, strict=True))
        return predict(self.backbone, self.tasks, features, image, train=train)
