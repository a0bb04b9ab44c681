"""MTAN on NYUv2: 13-class semantics, depth and normals at 288x384, as in the paper's table 3.

    python -m mtan_jax.main --config=configs/nyuv2.py --workdir=runs/nyuv2 --config.data.raw_dir=DIR

DIR holds nyu_depth_v2_labeled.mat, or the authors' preprocessed folders train and val.
Protocol (default protocol=paper): SegNet, Adam 1e-4 halved at epoch 100 of 200, batch 2, no augmentation.
After ':' protocol=benchmark adds random scale, crop and flip and reports the mean over the last 10 epochs, as the later
benchmarks do; smoke, arch=, backbone=, width= as everywhere. Published tables average over batches: for figures beside
theirs add --config.eval.protocol=authors. Hardware: one GPU with 12 GB or a TPU. Time and numbers: not run here.
"""

from mtan_jax.config import Argument, default_config


def get_config(arg=None):
    """The configuration; `arg` is the text after ':'."""
    argument = Argument.parse(arg)
    config = default_config()
    config.data.name = "nyuv2"
    config.data.options = {"layout": "auto", "num_classes": 13, "image_size": (288, 384)}
    config.data.workers = 4
    config.optimizer.schedule = "halve"
    config.batch_size = config.eval.batch_size = 2
    if argument.protocol == "benchmark":
        config.data.augment = True
        config.eval.average_last = 10
    if argument.smoke:
        config.data.options.image_size = (96, 128)
        config.data.workers = 0
        config.model.width = 0.0625
        config.duration = "4 steps"
        config.log_every = "2 steps"
        config.eval.every = config.checkpoint.every = "4 steps"
    argument.apply(config)
    return config
