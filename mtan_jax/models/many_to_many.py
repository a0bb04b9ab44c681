"""Networks in which each image belongs to one task ("many-to-many" learning)."""

import dataclasses
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Int

from mtan_jax.models import ops
from mtan_jax.models.attention import SharedExtractor, TaskAttention, sow_masks
from mtan_jax.models.backbones.wide_resnet import mean_over_positions
from mtan_jax.models.stage import Backbone, Stage, Trunk
from mtan_jax.tasks import Task
from mtan_jax.types import Variables


class ManyToMany(nn.Module):
    """A backbone, optional attention and one linear head per task; each image passes its own task's modules.

    The rows of a training batch belong to `groups` tasks in turn: row i is in group i mod `groups`, and all rows of a
    group belong to one task. A batch of evaluation belongs to one task.

    Attributes:
        backbone: built from `mtan_jax.models.layers.task_layers`, for the same tasks.
        tasks: any number of tasks; predictions are returned under their names.
        attention: whether each task attends to the backbone's features with its own masks (MTAN).
        groups: number of tasks in a training batch.
    """

    backbone: Backbone
    tasks: tuple[Task, ...]
    attention: bool = False
    groups: int = 1

    @nn.compact
    def __call__(
        self, image: Float[Array, "b h w 3"], *, train: bool, tasks: Int[Array, "b"] | None = None
    ) -> dict[str, Float[Array, "b _"]]:
        """Returns every head's predictions for every row. Those of a row's own task are the ones to use.

        Args:
            image: normalized with the statistics of its dataset.
            train: whether this is training.
            tasks: task index of each row; None: the first task.
        """
        groups = self.groups if train else 1
        rows = image.shape[0]
        tasks = jnp.zeros(rows, jnp.int32) if tasks is None else tasks
        chosen = tasks[:groups]
        image = image.reshape(rows // groups, groups, *image.shape[1:]).swapaxes(0, 1)
        stages = Trunk(self.backbone, name="backbone")(image, train=train, tasks=chosen)
        if self.attention:
            x = self._attend(stages, chosen, train=train)
        else:
            *_, last = stages.values()
            x = last.gate
        features = mean_over_positions(x).swapaxes(0, 1).reshape(rows, -1)
        features = features.astype(jnp.promote_types(features.dtype, jnp.float32))
        # One product per head: the last bits of one product for all heads would depend on the total number of columns,
        # and a task added later must not change the others' predictions.
        return {task.name: task.activation(self._head(task)(features)) for task in self.tasks}

    def _attend(self, stages: dict[str, Stage], chosen: Int[Array, "g"], *, train: bool) -> Float[Array, "g b h w c"]:
        """Equations (1) and (2) as in `MTAN`, each group with the masks of its own task."""
        numerics = self.backbone.numerics
        modules = [TaskAttention(numerics, name=f"attention_{task.name}") for task in self.tasks]
        attention = ChosenAttention(modules, chosen, train=train)
        attended: Array | None = None
        with jax.named_scope("attention"):
            for name, stage in stages.items():
                extractor = SharedExtractor(name, stage, train=train, tasks=chosen)
                masks = attention(name, stage, extractor.before_mask(attended))
                attended = x = extractor.after_mask(ops.multiply(stage.gate, masks))
                sow_masks(self, name, masks)
            attention.store_statistics()
        return x

    def _head(self, task: Task) -> nn.Module:
        dtype = self.backbone.numerics.param_dtype
        return nn.Dense(task.channels, param_dtype=dtype, name=f"head_{task.name}")


class ChosenAttention:
    """Applies to each group of images the attention module of its task.

    The task index is a traced array, so the variables of all tasks are stacked and indexed with it.

    Args:
        modules: one per task.
        chosen: each group's task index.
        train: whether this is training.
    """

    def __init__(self, modules: Sequence[TaskAttention], chosen: Int[Array, "g"], *, train: bool):
        self._modules, self._chosen, self._train = modules, chosen, train
        self._groups: list[Variables] = []
        if not modules[0].is_initializing():
            stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *[module.variables for module in modules])
            self._groups = [jax.tree.map(lambda leaf, task=task: leaf[task], stacked) for task in chosen]

    def __call__(
        self, name: str, stage: Stage, attended: Float[Array, "g b h w e"] | None
    ) -> Float[Array, "g b h w d"]:
        """Computes the masks of a stage."""
        masks = []
        for i in range(stage.look.shape[0]):
            of_group = dataclasses.replace(stage, look=stage.look[i], gate=stage.gate[i])
            before = None if attended is None else attended[i]
            if not self._groups:  # initializing: every module creates its variables once
                mask, *_ = [module(name, of_group, before, train=False) for module in self._modules]
                return jnp.stack([mask] * stage.look.shape[0])
            module = self._modules[0].clone(parent=None, name=None)
            mutable = ["batch_stats"] if self._train else []
            mask, updates = module.apply(self._groups[i], name, of_group, before, train=self._train, mutable=mutable)
            self._groups[i] = {**self._groups[i], **updates}
            masks.append(mask)
        return jnp.stack(masks)

    def store_statistics(self) -> None:
        """Writes the updated running statistics to the modules of the tasks in the batch."""
        if not self._groups or not self._train:
            return
        stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *[group["batch_stats"] for group in self._groups])
        for task, module in enumerate(self._modules):
            is_group = self._chosen == task
            place, is_present = jnp.argmax(is_group), is_group.any()
            old = module.variables["batch_stats"]
            new = jax.tree.map(
                lambda new, old, place=place, is_present=is_present: jnp.where(is_present, new[place], old),
                stacked,
                old,
            )
            for name, statistics in new.items():
                module.put_variable("batch_stats", name, statistics)
