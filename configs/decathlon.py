"""MTAN on the ten datasets of the Visual Decathlon, as the authors train it (https://arxiv.org/abs/1803.10704).

Command:
    python -m mtan_jax.main --config=configs/decathlon.py

Data: the release, that is decathlon-1.0-data and annotations (docs/decathlon.md). It is read from
DATA_DIR/downloads/manual/decathlon, or from FOLDER with --config.data.raw_dir=FOLDER. The run is written to
runs/decathlon, or to another folder with --workdir. For your own datasets, put them in FOLDER/mine/{train,val}/CLASS/
*.jpg and so on, and run configs/decathlon.py:sets=mine+yours.

Protocol: WRN-28-4, 72x72 pixels, batches of 128 images of one dataset, one dataset after another, 400 epochs. The last
100 omit ImageNet and restart the learning rate at 0.01. Differences from the authors' scripts (docs/design.md): no
extra pass with training steps before evaluation; one optimizer throughout; He initialization; no partial batches; no
updates for absent tasks.

Hardware: a GPU or TPU. Time: not run here.

Expected, not run here: mean accuracy 77.25 %, score 2941 on the test images (table 5 of the paper).

Arguments after ':' are smoke, arch=, backbone=, width= and sets=dtd+svhn.
"""

from ml_collections import ConfigDict

from mtan_jax.config import Argument, default_config
from mtan_jax.tasks.decathlon_score import FINETUNING_ERRORS

SETS = (
    *("imagenet12", "aircraft", "cifar100", "daimlerpedcls", "dtd"),
    *("gtsrb", "omniglot", "svhn", "ucf101", "vgg-flowers"),
)


def get_config(arg: str | None = None) -> ConfigDict:
    """Returns the config; `arg` is the text after ':'."""
    argument = Argument.parse(arg, keys=("arch", "backbone", "width", "sets"))
    config = default_config()
    config.tasks = argument.sets or SETS
    config.data.name = "decathlon"
    config.data.options = {"image_size": (72, 72), "layout": "auto", "unflipped": ()}
    config.data.augment = True
    config.data.workers = 8
    config.mixing.order = "whole_sets"
    if "imagenet12" in config.tasks and len(config.tasks) > 1:
        config.mixing.until = {"imagenet12": 300}
    config.model.backbone = "wrn28_4"
    config.optimizer.name = "sgd"
    config.optimizer.options = {"momentum": 0.9, "nesterov": True}
    config.optimizer.weight_decay = 5e-5
    config.optimizer.learning_rate = 0.1
    config.optimizer.absent_tasks = "rest"
    config.optimizer.schedule = "pieces"
    halved = tuple((f"{50 * i} epochs", 0.1 * 0.5**i) for i in range(1, 6))
    config.optimizer.pieces = (*halved, ("300 epochs", 0.01), ("350 epochs", 0.005))
    config.weighting_options.static.weights = dict.fromkeys(config.tasks, 1.0)
    config.batch_size = config.eval.batch_size = 128
    config.duration = "400 epochs"
    config.log_every = "100 steps"
    config.eval.every = config.checkpoint.every = "5 epochs"
    if all(name in FINETUNING_ERRORS for name in config.tasks):
        # Baselines of the challenge's score. They are for test images, so a score on "val" is only indicative.
        finetuned = ((f"{name}/accuracy", round(1 - FINETUNING_ERRORS[name], 4)) for name in config.tasks)
        config.eval.single_task = tuple(finetuned)
    if argument.smoke:
        config.data.workers = 0
        config.mixing.until = {}
        config.model.width = 0.0625
        config.data.options.image_size = (32, 32)
        config.optimizer.pieces = (("2 steps", 0.01),)
        config.batch_size = config.eval.batch_size = 8
        config.duration = "4 steps"
        config.log_every = config.eval.every = config.checkpoint.every = "2 steps"
    argument.apply(config)
    return config
