"""MTAN on Cityscapes: 7-class semantics and inverse depth at 128x256, as in the paper's table 2.

    python -m mtan_jax.main --config=configs/cityscapes.py --workdir=runs/cityscapes --config.data.raw_dir=DIR

DIR holds leftImg8bit, gtFine, disparity and camera, as folders or as the zips that one downloads, or the authors'
preprocessed folders train and val. Protocol (default protocol=paper): SegNet, Adam 1e-4 halved at epoch 100 of 200,
batch 8, no augmentation. After ':' protocol=benchmark adds random scale, crop and flip and reports the mean over the
last 10 epochs; smoke, arch=, backbone=, width= as everywhere. Published tables average over batches: for figures beside
theirs add --config.eval.protocol=authors. Hardware: one GPU with 12 GB or a TPU. Time and
numbers: not run here.
"""

from mtan_jax.config import Argument, default_config


def get_config(arg=None):
    """The configuration; `arg` is the text after ':'."""
    argument = Argument.parse(arg)
    config = default_config()
    config.tasks = ("semantic", "depth")
    config.data.name = "cityscapes"
    config.data.options = {
        "layout": "auto",  # auto | release | authors
        "num_classes": 7,  # 2 | 7 | 19
        "image_size": (128, 256),
        "depth": "disparity",  # disparity | inverse_depth
        "category_ids": "all",  # all | evaluated
    }
    config.weighting_options.static.weights = {"semantic": 1.0, "depth": 1.0}
    config.data.workers = 4
    config.optimizer.schedule = "halve"
    if argument.protocol == "benchmark":
        config.data.augment = True
        config.eval.average_last = 10
    if argument.smoke:
        config.data.options.image_size = (64, 128)
        config.data.workers = 0
        config.model.width = 0.0625
        config.batch_size = config.eval.batch_size = 2
        config.duration = "4 steps"
        config.log_every = "2 steps"
        config.eval.every = config.checkpoint.every = "4 steps"
    argument.apply(config)
    return config
