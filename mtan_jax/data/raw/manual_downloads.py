"""Finds a raw release in TFDS' folder for manual downloads, `<data_dir>/downloads/manual/NAME`."""

import os
from pathlib import Path

import tensorflow_datasets as tfds

from mtan_jax.runtime import home


def data_root(data_dir: str | None) -> Path:
    """The folder that holds all prepared datasets.

    Args:
        data_dir: `config.data.data_dir`. None: `$TFDS_DATA_DIR` or `~/tensorflow_datasets`, or a temporary folder if
            that is not writable.
    """
    return Path(data_dir or home.data_dir() or tfds.core.constants.DATA_DIR).expanduser()


def manual_folder(data_dir: str | None, name: str) -> Path:
    """The folder in which the raw release of the dataset `name` is looked up where `raw_dir` is None."""
    return data_root(data_dir) / "downloads" / "manual" / name


def find_raw(data_dir: str | None, raw_dir: str | None, name: str) -> Path | None:
    """The folder of the raw release: `raw_dir` if given, else the folder for manual downloads if it exists."""
    if raw_dir is not None:
        return Path(raw_dir)
    folder = manual_folder(data_dir, name)
    return folder if os.path.isdir(folder) else None
