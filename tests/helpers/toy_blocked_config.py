"""The run of toy_config, in which process 1 blocks while it reads a batch, as in a dead network file system.

Reports of waits and limits of activities are 30 and 200 times shorter.
"""

import time

import jax
from helpers.toy_config import get_config

from mtan_jax.experiment.dense_data import DenseData
from mtan_jax.runtime import activity

__all__ = ["get_config"]

BLOCKS_AFTER = 5  # batches


def original(function):
    """The function that was replaced, since configurations are loaded more than once."""
    return getattr(function, "original", function)


train_batches, current = original(DenseData.train_batches), original(activity.current)


def blocking_batches(self, *args, **options):
    for i, batch in enumerate(train_batches(self, *args, **options)):
        if i == BLOCKS_AFTER and jax.process_index() == 1:
            time.sleep(300)
        yield batch


def impatient():
    found = current()
    return found._replace(limit=found.limit and found.limit / 200)


blocking_batches.original, impatient.original = train_batches, current
DenseData.train_batches, activity.current = blocking_batches, impatient
activity.SECONDS_BETWEEN_REPORTS = 2.0
