"""A dataset with raw files whose preparation is slow and may fail."""

import pathlib
import time

import numpy as np
from helpers.toy_data import SIZE, ToyBuilder

from mtan_jax.data.errors import RawDataError

SIZES = {"train": 53, "val": 17}


class Slow(ToyBuilder):
    """Toy data with one raw file per example; `trouble` is called for the examples with index 30."""

    name = "slow"

    def __init__(self, *, data_dir, raw_dir, trouble=None, seconds=0.0, strict=False):
        self.trouble, self.seconds, self.strict = trouble, seconds, strict
        super().__init__(data_dir=data_dir, raw_dir=raw_dir)

    def split_sizes(self):
        return SIZES

    def raw_files(self):
        return (str(path) for path in sorted(pathlib.Path(self.raw_dir).glob("*/*")))

    def example(self, split, index):
        time.sleep(self.seconds)
        if index == 30 and self.trouble is not None:
            self.trouble()
        example = super().example(split, index)
        path = pathlib.Path(self.raw_dir, split, f"{index}.txt")
        text = path.read_text()
        if self.strict and not text.strip().isdigit():
            raise RawDataError(f"{path}: {text}")
        return example | {"image": np.full((*SIZE, 3), int(text), np.uint8)}
