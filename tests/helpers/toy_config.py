"""A whole run that compiles in seconds: toy data and a network of one BatchNorm and one layer a task."""

from flax import linen as nn
from helpers.toy_data import ToyBuilder

from mtan_jax.config import Argument, default_config
from mtan_jax.data import DATASETS
from mtan_jax.models import ARCHITECTURES, Backbone


class Plain(nn.Module):
    """Each pixel's prediction is a linear function of its colour."""

    backbone: Backbone
    tasks: tuple

    @nn.compact
    def __call__(self, image, *, train):
        numerics = {"dtype": self.backbone.numerics.dtype, "param_dtype": self.backbone.numerics.param_dtype}
        x = nn.BatchNorm(not train, axis_name=self.backbone.numerics.axis_name, **numerics)(image)
        outputs = {task.name: nn.Dense(task.channels, name=task.name, **numerics)(x) for task in self.tasks}
        return {task.name: task.activation(outputs[task.name]) for task in self.tasks}


DATASETS["toy"] = ToyBuilder
ARCHITECTURES["plain"] = Plain


def get_config(arg=None):
    argument = Argument.parse(arg)
    config = default_config()
    config.data.name = "toy"
    config.model.arch = "plain"
    config.optimizer.learning_rate = 1e-2
    config.batch_size = config.eval.batch_size = 4
    config.duration = "4 steps"
    config.log_every = "1 steps"
    config.eval.every = config.checkpoint.every = "1 steps"
    config.compilation_cache = ""
    argument.apply(config)
    return config
