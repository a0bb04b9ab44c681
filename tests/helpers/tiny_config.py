"""A whole run in seconds: `python -m mtan_jax.main --config=tests/helpers/tiny_config.py --workdir=...`."""

import functools

from mtan_jax.config import Argument, default_config
from mtan_jax.models import BACKBONES
from mtan_jax.models.backbones.segnet import segnet

BACKBONES["tiny"] = functools.partial(segnet, widths=(4, 6))


def get_config(arg=None):
    argument = Argument.parse(arg)
    config = default_config()
    config.data.options = {"image_size": (32, 64), "train_examples": 10, "val_examples": 6}
    config.data.augment = True
    config.model.backbone = "tiny"
    config.weighting = "dwa"
    config.optimizer.learning_rate = 1e-2
    config.batch_size = config.eval.batch_size = 4
    config.duration = "12 steps"
    config.log_every = "3 steps"
    config.eval.every = "4 steps"
    config.checkpoint.every = "2 steps"
    argument.apply(config)
    return config
