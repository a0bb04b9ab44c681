"""MTAN on the embedded `streets` scenes: semantics, inverse depth and normals, in minutes on a laptop's CPU.

    python -m mtan_jax.main --config=configs/streets.py --workdir=runs/streets

Needs no data: the scenes are rendered on the first run. On 2 busy CPU cores 616 s with installation and rendering; on
val mIoU 0.470, inverse depth error 0.0229 /m, mean normal error 27.4 degrees (experiments/streets). After ':' smoke,
arch=, backbone=, width=, protocol=paper|benchmark (with augmentation).
"""

from mtan_jax.config import Argument, default_config


def get_config(arg=None):
    """The configuration; `arg` is the text after ':'."""
    argument = Argument.parse(arg)
    config = default_config()
    config.data.name = "streets"
    config.data.options = {"image_size": (64, 128), "train_examples": 1000, "val_examples": 200, "seed": 0}
    config.data.augment = argument.protocol == "benchmark"
    config.model.width = 0.25
    config.weighting = "static"  # the losses differ in size by a factor of 30
    config.weighting_options.static.weights = {"semantic": 1.0, "depth": 20.0, "normal": 20.0}
    config.optimizer.learning_rate = 3e-3
    config.optimizer.options = {"b2": 0.99}  # a run this short ends before an average over 1000 steps is one
    config.optimizer.schedule = "cosine"
    config.optimizer.warmup = "20 steps"
    config.batch_size = 2  # many steps in a few minutes
    config.duration = "2400 steps"
    config.log_every = "100 steps"
    config.eval.every = "1200 steps"
    config.checkpoint.every = "400 steps"
    if argument.smoke:
        config.data.options = {"image_size": (64, 128), "train_examples": 16, "val_examples": 6, "seed": 0}
        config.model.width = 0.0625
        config.batch_size = config.eval.batch_size = 4
        config.duration = "4 steps"
        config.log_every = "2 steps"
        config.eval.every = config.checkpoint.every = "2 steps"
    argument.apply(config)
    return config
