"""The smoke run of a configuration, with a network of one layer that compiles in a second; for races.py.

Used as --config=experiments/life_size/race_config.py:nyuv2
"""

import pathlib
import runpy
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.append(str(ROOT / "tests"))  # toy_config registers the network "plain"

from helpers import toy_config  # noqa: E402, F401


def get_config(name):
    """Returns the configuration `configs/NAME.py:smoke` with that network."""
    config = runpy.run_path(str(ROOT / "configs" / f"{name}.py"))["get_config"]("smoke")
    config.model.arch = "plain"
    return config
