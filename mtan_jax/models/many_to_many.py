"""Networks for images that belong to one task each ("many to many")."""

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Int

from mtan_jax.models.attention import TaskAttention
from mtan_jax.models.backbones.wide_resnet import pooled
from mtan_jax.models.stage import Backbone, Trunk
from mtan_jax.tasks import Task


class ManyToMany(nn.Module):
    """A backbone, attention where asked for, and a linear head a task; an image passes what its task has.

    The rows of a batch of training are of `groups` tasks in turn: row i belongs to the group i mod `groups`, and all
    rows of a group to one task. A batch of evaluation is of one task.

    Attributes:
        backbone: whose layers know all tasks.
        tasks: any number of tasks; predictions come under their names.
        attention: whether each task attends to the backbone's features by masks of its own (MTAN).
        groups: tasks in a batch of training.
    """

    backbone: Backbone
    tasks: tuple[Task, ...]
    attention: bool = False
    groups: int = 1

    @nn.compact
    def __call__(
        self, image: Float[Array, "b h w 3"], *, train: bool, tasks: Int[Array, "b"] | None = None
    ) -> dict[str, Float[Array, "b _"]]:
        """Predictions of all tasks; a row's are those of its image as its own task sees it.

        Args:
            image: normalised by the statistics of its set.
            train: whether this is training.
            tasks: position of each row's task; None: the first.
        """
        groups = self.groups if train else 1
        rows = image.shape[0]
        tasks = jnp.zeros(rows, jnp.int32) if tasks is None else tasks
        chosen = tasks[:groups]
        image = image.reshape(rows // groups, groups, *image.shape[1:]).swapaxes(0, 1)
        stages = Trunk(self.backbone, name="backbone")(image, train=train, tasks=chosen)
        if self.attention:
            names = tuple(task.name for task in self.tasks)
            attention = TaskAttention(names, self.backbone.numerics, name="attention")
            x = jnp.stack(attention(stages, train=train, chosen=chosen))
        else:
            *_, last = stages.values()
            x = last.gate
        features = pooled(x).swapaxes(0, 1).reshape(rows, -1)
        features = features.astype(jnp.promote_types(features.dtype, jnp.float32))
        # A product a head: the last bits of one product of all heads would depend on how many columns there are in all,
        # and a task added later must leave the others' predictions as they are.
        return {task.name: task.activation(self._head(task)(features)) for task in self.tasks}

    def _head(self, task: Task) -> nn.Module:
        dtype = self.backbone.numerics.param_dtype
        return nn.Dense(task.channels, param_dtype=dtype, name=f"head_{task.name}")
