"""MTAN on the rendered `streets` scenes: semantic segmentation, inverse depth and normals, on a laptop's CPU.

Command:
    python -m mtan_jax.main --config=configs/streets.py --workdir=runs/streets

Data: none needed; the scenes are rendered on the first run.

Hardware and time: 616 to 1248 s on 2 CPU cores, including installation and rendering.

Expected on val (experiments/streets, two runs): mIoU 0.41 and 0.47, inverse depth error 0.021 and 0.023 /m, mean normal
error 29.1 and 27.4 degrees.

Arguments after ':' are smoke, arch=, backbone=, width= and protocol=paper|benchmark (the latter with augmentation).
"""

from ml_collections import ConfigDict

from mtan_jax.config import Argument, default_config


def get_config(arg: str | None = None) -> ConfigDict:
    """Returns the config; `arg` is the text after ':'."""
    argument = Argument.parse(arg)
    config = default_config()
    config.data.name = "streets"
    config.data.options = {"image_size": (64, 128), "train_examples": 1000, "val_examples": 200, "seed": 0}
    config.data.augment = argument.protocol == "benchmark"
    config.model.width = 0.25
    config.weighting = "static"  # fixed weights, because the losses differ by a factor of 30
    config.weighting_options.static.weights = {"semantic": 1.0, "depth": 20.0, "normal": 20.0}
    config.optimizer.learning_rate = 3e-3
    config.optimizer.options = {"b2": 0.99}  # the default 0.999 averages over 1000 steps, too long for this short run
    config.optimizer.schedule = "cosine"
    config.optimizer.warmup = "20 steps"
    config.batch_size = 2  # small, for many steps in a few minutes
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
