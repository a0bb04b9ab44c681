"""Hard parameter sharing, and separate networks per task."""

from collections.abc import Callable

from flax import linen as nn
from jaxtyping import Array, Float

from mtan_jax.models.predictions import predict
from mtan_jax.models.shared_features import hand_over
from mtan_jax.models.stage import Backbone, Trunk
from mtan_jax.tasks import Task


class Split(nn.Module):
    """A shared backbone and one head per task (hard parameter sharing).

    Attributes:
        backbone: shared by all tasks.
        tasks: any number of tasks; predictions are returned under their names.
    """

    backbone: Backbone
    tasks: tuple[Task, ...]

    @nn.compact
    def __call__(self, image: Float[Array, "b h w 3"], *, train: bool) -> dict[str, Float[Array, "b h w _"]]:
        *_, last = Trunk(self.backbone, name="backbone")(image, train=train).values()
        common = hand_over(self, self.tasks, last.gate)
        features = {task.name: common for task in self.tasks}
        return predict(self.backbone, self.tasks, features, image, train=train)


class Separate(nn.Module):
    """One single-task network per task; nothing is shared.

    Attributes:
        network: makes each network: `network(backbone, (task,), name=...)`.
        backbone: of each network.
        tasks: any number of tasks; predictions are returned under their names.
    """

    network: Callable[..., nn.Module]
    backbone: Backbone
    tasks: tuple[Task, ...]

    @nn.compact
    def __call__(self, image: Float[Array, "b h w 3"], *, train: bool) -> dict[str, Float[Array, "b h w _"]]:
        predictions: dict[str, Float[Array, "b h w _"]] = {}
        for task in self.tasks:
            predictions |= self.network(self.backbone, (task,), name=task.name)(image, train=train)
        return predictions
