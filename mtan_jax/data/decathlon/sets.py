"""What is known of the ten sets of Visual Decathlon."""

import functools
import json
from importlib import resources

from mtan_jax.data.image_sets import Colour

# In the order of the tasks: that of the published tables begins with ImageNet, the others follow by name.
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

# Digits, letters and signs that change their meaning in a mirror; the exceptions of the MTAN authors.
UNFLIPPED = ("gtsrb", "omniglot", "svhn")


@functools.cache
def statistics() -> dict[str, tuple[Colour, Colour]]:
    """Mean and standard deviation of each channel in 0..1, by set.

    Source: `decathlon_mean_std` of Rebuffi et al., which the MTAN authors use too. How they were computed (over pixels
    of which splits) is not known.
    """
    stored = json.loads((resources.files(__package__) / "statistics.json").read_text())
    return {name: (tuple(entry["mean"]), tuple(entry["std"])) for name, entry in stored.items()}
