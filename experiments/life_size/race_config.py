"""The smoke run of a configuration, with a network of one layer that compiles in a second; for races.py.

--config=experiments/life_size/race_config.py:nyuv2
"""

import pathlib
import runpy

from flax import linen as nn

from mtan_jax.models import ARCHITECTURES, Backbone

CONFIGS = pathlib.Path(__file__).resolve().parents[2] / "configs"


class Linear(nn.Module):
    """Each pixel's prediction is a linear function of its colour."""

    backbone: Backbone
    tasks: tuple

    @nn.compact
    def __call__(self, image, *, train):
        numerics = {"dtype": self.backbone.numerics.dtype, "param_dtype": self.backbone.numerics.param_dtype}
        x = nn.BatchNorm(not train, axis_name=self.backbone.numerics.axis_name, **numerics)(image)
        outputs = {task.name: nn.Dense(task.channels, name=task.name, **numerics)(x) for task in self.tasks}
        return {task.name: task.activation(outputs[task.name]) for task in self.tasks}


ARCHITECTURES["linear"] = Linear


def get_config(name):
    """The configuration `configs/NAME.py:smoke` with that network."""
    config = runpy.run_path(str(CONFIGS / f"{name}.py"))["get_config"]("smoke")
    config.model.arch = "linear"
    return config
