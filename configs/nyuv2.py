"""MTAN on NYUv2: 13-class segmentation, depth and surface normals at 288x384 (https://arxiv.org/abs/1803.10704).

Command:
    python -m mtan_jax.main --config=configs/nyuv2.py

Data: nyu_depth_v2_labeled.mat, or the authors' preprocessed folders train and val. They are read from
DATA_DIR/downloads/manual/nyuv2, or from DIR with --config.data.raw_dir=DIR. The run is written to runs/nyuv2, or to
another folder with --workdir.

Protocol: "paper" (default, table 3 of the paper) is SegNet, Adam at 1e-4 halved after epoch 100 of 200, batch size 2,
no augmentation. "benchmark" adds random scale, crop and flip and reports the mean over the last 10 epochs, as later
papers do. Select it with configs/nyuv2.py:protocol=benchmark. Other arguments after ':' are smoke, arch=, backbone= and
width=.

Hardware: one GPU with 12 GB, or a TPU. Time: not run here.

Expected, not run here: with protocol=benchmark and equal weights, mIoU 39.29, pixel accuracy 65.33, absolute depth
error 0.5493, relative 0.2263, mean normal error 28.15 degrees (SegNet-MTAN with linear scalarization, as published by
Nash-MTL and later papers). Published tables average over batches. To compare with them, add
--config.eval.protocol=authors.
"""

from ml_collections import ConfigDict

from mtan_jax.config import Argument, default_config


def get_config(arg: str | None = None) -> ConfigDict:
    """Returns the config; `arg` is the text after ':'."""
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
