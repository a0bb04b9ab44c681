"""Number of classes, flipping and published channel statistics of the ten Visual Decathlon datasets."""

import functools
import json
from importlib import resources

from mtan_jax.data.image_sets import Colour

# In task order: ImageNet first, as in the published tables, then by name.
NUM_CLASSES = {
    "imagenet12": 1000,
    "aircraft": 100,
    "cifar100": 100,
    "daimlerpedcls": 2,
    "dtd": 47,
    "gtsrb": 43,
    "omniglot": 1623,
    "svhn": 10,
    "ucf101": 101,
    "vgg-flowers": 102,
}

# Digits, characters and signs, which a flip would change. The MTAN authors make the same exceptions.
UNFLIPPED = ("gtsrb", "omniglot", "svhn")


@functools.cache
def statistics() -> dict[str, tuple[Colour, Colour]]:
    """Returns the mean and standard deviation of each channel in 0..1, by dataset.

    Source: `decathlon_mean_std` of Rebuffi et al., which the MTAN authors use too. How they were computed (over which
    splits' pixels) is unknown.
    """
    stored = json.loads((resources.files(__package__) / "statistics.json").read_text())
    return {name: (tuple(entry["mean"]), tuple(entry["std"])) for name, entry in stored.items()}
