"""The run of toy_config on data that are prepared from a raw file."""

import pathlib

from helpers import toy_config
from helpers.toy_data import ToyBuilder

from mtan_jax.data import DATASETS
from mtan_jax.data.errors import RawDataError


class RawBuilder(ToyBuilder):
    """Noise that needs a raw file all the same."""

    def check_raw(self):
        if not list(self.raw_files()):
            raise RawDataError(f"toy: no file in {self.raw_dir}")

    def raw_files(self):
        return [str(path) for path in pathlib.Path(self.raw_dir).glob("file")]


DATASETS["toy_raw"] = RawBuilder


def get_config(arg=None):
    config = toy_config.get_config(arg)
    config.data.name = "toy_raw"
    return config
