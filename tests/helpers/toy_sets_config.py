"""A whole run on three small sets of images, each a task, with a narrow Wide ResNet."""

from helpers.toy_sets import CLASSES, ToySets

from mtan_jax.config import Argument, default_config
from mtan_jax.data import DATASETS

DATASETS["toy_sets"] = ToySets


def get_config(arg=None):
    argument = Argument.parse(arg)
    config = default_config()
    config.tasks = tuple(CLASSES)
    config.data.name = "toy_sets"
    config.data.augment = True
    config.model.backbone, config.model.width = "wrn10_4", 0.0625
    config.optimizer.name = "sgd"
    config.optimizer.options = {"momentum": 0.9}
    config.optimizer.learning_rate, config.optimizer.weight_decay = 0.05, 1e-3
    config.optimizer.absent_tasks = "rest"
    config.batch_size = config.eval.batch_size = 4
    config.duration = "6 steps"
    config.log_every = "2 steps"
    config.eval.every = config.checkpoint.every = "3 steps"
    config.compilation_cache = ""
    argument.apply(config)
    return config
