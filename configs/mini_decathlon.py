r"""Six small drawn datasets, one task each, on a narrow Wide ResNet: the Visual Decathlon for a laptop's CPU.

Command:
    python -m mtan_jax.main --config=configs/mini_decathlon.py --workdir=runs/mini

Data: none needed; the images are drawn on the first run.

Hardware and time: 4 minutes on one CPU core for MTAN, 1 to 4 minutes for the other methods.

Expected mean accuracy on val (experiments/mini_decathlon, 3 seeds): from 58.8 % (feature extraction) to 85.7 ± 1.1 %
(MTAN) when starting from a trained network. MTAN from random weights, as above, may stay on a plateau of identical
predictions for a long time: 76.5, 35.1 and 75.3 % over three seeds.

Methods that adapt a trained network need init_from, for example a network trained on the largest dataset:

    python -m mtan_jax.main --config=configs/mini_decathlon.py:arch=split,sets=objects --workdir=runs/base
    python -m mtan_jax.main --config=configs/mini_decathlon.py:arch=series_adapters \
        --config.model.init_from=runs/base --workdir=runs/series

Arguments after ':' are smoke, backbone=, width=, sets=shapes+signs and arch=, one of mtan, split, single (fine-tuning
with init_from), feature_extraction, series_adapters, parallel_adapters, parallel_svd (with init_from of a run of
parallel_adapters), deep_adaptation and piggyback.
"""

from ml_collections import ConfigDict

from mtan_jax.config import Argument, default_config


def get_config(arg: str | None = None) -> ConfigDict:
    """Returns the config; `arg` is the text after ':'."""
    argument = Argument.parse(arg, keys=("arch", "backbone", "width", "sets"))
    config = default_config()
    config.tasks = argument.sets or ("objects", "shapes", "textures", "glyphs", "digits", "signs")
    config.data.name = "mini_decathlon"
    config.data.options = {"image_size": (32, 32), "seed": 0}
    config.data.augment = True
    config.mixing.order = "random"
    config.mixing.temperature = 2.0  # the largest dataset has about 10 times as many images as the smallest
    config.model.backbone = "wrn10_4"
    config.model.width = 0.25
    config.optimizer.name = "sgd"
    config.optimizer.options = {"momentum": 0.9, "nesterov": True}
    config.optimizer.weight_decay = 5e-4
    config.optimizer.learning_rate = 0.1
    config.optimizer.schedule = "cosine"
    config.optimizer.warmup = "50 steps"
    config.optimizer.absent_tasks = "rest"
    config.weighting_options.static.weights = dict.fromkeys(config.tasks, 1.0)
    config.batch_size = config.eval.batch_size = 32
    config.duration = "2400 steps"
    config.log_every = "200 steps"
    config.eval.every = config.checkpoint.every = "1200 steps"
    if argument.smoke:
        config.data.options = {"image_size": (32, 32), "seed": 0, "train_examples": 64, "val_examples": 32}
        config.model.width = 0.125
        config.batch_size = config.eval.batch_size = 8
        config.duration = "4 steps"
        config.log_every = config.eval.every = config.checkpoint.every = "2 steps"
    argument.apply(config)
    return config
