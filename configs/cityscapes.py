"""MTAN on Cityscapes: 7 classes and disparity (or inverse depth) at 128x256 (https://arxiv.org/abs/1803.10704).

Command:
    python -m mtan_jax.main --config=configs/cityscapes.py

Data: leftImg8bit, gtFine and disparity (and camera for depth="inverse_depth") as folders or downloaded zips, or the
authors' preprocessed folders train and val. They are read from DATA_DIR/downloads/manual/cityscapes, or from DIR with
--config.data.raw_dir=DIR. The run is written to runs/cityscapes, or to another folder with --workdir.

Protocol: "paper" (default) is SegNet, Adam at 1e-4 halved after epoch 100 of 200, batch size 8, no augmentation.
"benchmark" adds random scale, crop and flip and reports the mean over the last 10 epochs, as later papers do. Select it
with configs/cityscapes.py:protocol=benchmark. Other arguments after ':' are smoke, arch=, backbone= and width=.

Hardware: one GPU with 12 GB, or a TPU. Time: not run here.

Expected, not run here, with equal weights:
- protocol=paper: mIoU 53.04 %, pixel accuracy 91.11 %, absolute error 0.0144, relative error 33.63 (table 2 of the
  paper, with a per-image mIoU that the authors later replaced).
- protocol=benchmark: mIoU 75.18 %, pixel accuracy 93.49 %, absolute error 0.0155, relative error 46.77 (SegNet-MTAN
  with linear scalarization, as published by Nash-MTL and later papers).
Published tables average over batches. To compare with them, add --config.eval.protocol=authors.
"""

from ml_collections import ConfigDict

from mtan_jax.config import Argument, default_config


def get_config(arg: str | None = None) -> ConfigDict:
    """Returns the config; `arg` is the text after ':'."""
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
