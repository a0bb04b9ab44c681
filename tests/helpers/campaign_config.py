"""The campaign's run: the toy run with several shards, which reports its phases; see `campaign_trace`."""

from helpers import campaign_trace, toy_config
from helpers.toy_data import ShardedToyBuilder

from mtan_jax.config import Argument
from mtan_jax.data import DATASETS

DATASETS["toy"] = ShardedToyBuilder


def get_config(arg=None):
    config = toy_config.get_config()
    config.weighting = "dwa"
    config.data.augment = True
    config.duration = "13 steps"
    config.log_every = "3 steps"
    config.eval.every = "4 steps"
    config.checkpoint.every = "2 steps"
    config.checkpoint.best_metric = "normal/median"
    Argument.parse(arg).apply(config)
    return config


campaign_trace.install()
