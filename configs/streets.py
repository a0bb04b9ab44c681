"""MTAN on the embedded `streets` scenes: semantics, inverse depth and normals, in minutes on a laptop's CPU.

    python -m mtan_jax.main --config=configs/streets.py --workdir=runs/streets

Needs no data: the scenes are rendered on the first run. After ':' smoke, arch=, backbone=, width=,
protocol=paper|benchmark (with augmentation).
"""

from mtan_jax.config import Argument, default_config


def get_config(arg=None):
    """The configuration; `arg` is the text after ':'."""
    argument = Argument.parse(arg)
    config = default_config()
    config.data.name = "streets"
    config.data.options = {"image_size": (128, 256), "train_examples": 1000, "val_examples": 200, "seed": 0}
    config.data.augment = argument.protocol == "benchmark"
    config.model.width = 0.125
    config.optimizer.learning_rate = 3e-3
    config.optimizer.schedule = "cosine"
    config.optimizer.warmup = "20 steps"
    config.batch_size = 8
    config.duration = "200 steps"
    config.log_every = "20 steps"
    config.eval.every = "100 steps"
    config.checkpoint.every = "100 steps"
    if argument.smoke:
        config.data.options = {"image_size": (64, 128), "train_examples": 16, "val_examples": 6, "seed": 0}
        config.model.width = 0.0625
        config.batch_size = config.eval.batch_size = 4
        config.duration = "4 steps"
        config.log_every = "2 steps"
        config.eval.every = config.checkpoint.every = "2 steps"
    argument.apply(config)
    return config
