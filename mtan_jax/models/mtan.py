"""Multi-Task Attention Network (Liu, Johns, Davison, CVPR 2019) on any backbone."""

import jax
from flax import linen as nn
from jaxtyping import Array, Float

from mtan_jax.models import ops
from mtan_jax.models.attention import SharedExtractor, TaskAttention, sow_masks
from mtan_jax.models.predictions import predict
from mtan_jax.models.shared_features import hand_over_stages
from mtan_jax.models.stage import Backbone, Stage, Trunk
from mtan_jax.tasks import Task


class MTAN(nn.Module):
    r"""A shared network, one soft-attention module per task and one head per task (section 3 of the paper).

    At stage j, the shared network offers the features p_j and the earlier features u_j of the same size. Task t attends
    to p_j through a mask (equation 1 of the paper):

        a_{t,j} = m_{t,j} * p_j

    (The paper writes a for the mask, m here, and a with a hat for the attended features, a here.) The mask depends on
    u_j and on the task's attended features of the previous stage (equation 2):

        m_{t,j} = h_{t,j}(g_{t,j}([u_j ; f_j(a_{t,j-1})])),    m_{t,1} = h_{t,1}(g_{t,1}(u_1))

    g is a 1x1 convolution, BatchNorm and ReLU; h is a 1x1 convolution, BatchNorm and a sigmoid. f is a feature
    extractor that all tasks share (3x3 convolutions in SegNet, a bottleneck block in ResNet), followed by max-pooling
    in an encoder and preceded by upsampling in a decoder. Each task's head reads the task's attended features of the
    last stage.

    Tasks are computed one after the other (docs/performance.md has the measurements).

    Attributes:
        backbone: the shared network, with u as `Stage.look`, p as `Stage.gate` and f as `Stage.shared`.
        tasks: any number of tasks; predictions are returned under their names.
    """

    backbone: Backbone
    tasks: tuple[Task, ...]

    @nn.compact
    def __call__(self, image: Float[Array, "b h w 3"], *, train: bool) -> dict[str, Float[Array, "b h w _"]]:
        numerics, names = self.backbone.numerics, [task.name for task in self.tasks]
        stages = self.shared_stages(image, train=train)
        attention = {task: TaskAttention(numerics, name=f"attention_{task}") for task in names}
        attended: dict[str, Array] = {}  # a, by task; empty before the first stage
        with jax.named_scope("attention"):
            for name, stage in stages.items():
                extractor = SharedExtractor(name, stage, train=train)  # f
                masks = {}
                for task in names:
                    a = extractor.before_mask(attended.get(task))
                    masks[task] = attention[task](name, stage, a, train=train)  # equation 2
                    # The order of the factors matters: XLA for CPUs of jaxlib 0.10.2 computes a wrong gradient of
                    # `mask * gate` for several tasks at once (tests/models/test_attention.py).
                    a = ops.multiply(stage.gate, masks[task])  # equation 1
                    attended[task] = extractor.after_mask(a)
                sow_masks(self, name, masks.values())
        return predict(self.backbone, self.tasks, attended, image, train=train)

    def shared_stages(self, image: Float[Array, "b h w 3"], *, train: bool) -> dict[str, Stage]:
        """Runs the shared network; marks its features, so that losses can be differentiated with respect to them."""
        return hand_over_stages(self, self.tasks, Trunk(self.backbone, name="backbone")(image, train=train))
