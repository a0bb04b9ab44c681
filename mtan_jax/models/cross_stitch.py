"""Cross-stitch networks (Misra, Shrivastava, Gupta, Hebert, CVPR 2016) as the authors of MTAN run them."""

from flax import linen as nn
from jaxtyping import Array, Float

from mtan_jax.models.predictions import predict
from mtan_jax.models.stage import Backbone, Trunk, start
from mtan_jax.tasks import Task


class CrossStitch(nn.Module):
    """One backbone and one head per task, with features mixed between blocks.

    After each block, one learned weighted sum of the tasks' features is the input of every task's next block, as in the
    code of MTAN's authors; Misra et al. learn one sum per task. Weights start at 1.

    Attributes:
        backbone: one per task.
        tasks: any number of tasks; predictions are returned under their names.
    """

    backbone: Backbone
    tasks: tuple[Task, ...]

    @nn.compact
    def __call__(self, image: Float[Array, "b h w 3"], *, train: bool) -> dict[str, Float[Array, "b h w _"]]:
        names = tuple(self.backbone.blocks)
        trunks = [Trunk(self.backbone, name=f"backbone_{task.name}") for task in self.tasks]
        shape = (len(names) - 1, len(self.tasks))
        weights = self.param("stitch", nn.initializers.ones, shape, self.backbone.numerics.param_dtype)
        flows = [start(self.backbone, image)] * len(self.tasks)
        for i, name in enumerate(names):
            if i:
                mixed = sum(w.astype(f.x.dtype) * f.x for w, f in zip(weights[i - 1], flows, strict=True))
                flows = [flow._replace(x=mixed) for flow in flows]
            stages = []
            for t, trunk in enumerate(trunks):
                stage, flows[t] = trunk.block(name, flows[t], train=train)
                stages.append(stage)
        features = {task.name: stage.gate for task, stage in zip(self.tasks, stages, strict=True)}
        return predict(self.backbone, self.tasks, features, image, train=train)
