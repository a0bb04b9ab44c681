"""Prepares the dataset of a configuration and prints the seconds it took.

    python experiments/life_size/prepare.py configs/nyuv2.py --raw_dir=raw/nyuv2 --data_dir=prepared --workers=2

Also runs on older commits, which have no workers. SHARD_BYTES=1000000 in the environment makes shards smaller. It is
read on import, so that worker processes, which import this file too, see the same value.
"""

import argparse
import importlib
import json
import logging
import os
import runpy
import sys
import time

from mtan_jax.experiment import Experiment

if "SHARD_BYTES" in os.environ:
    importlib.import_module("mtan_jax.data.preparation.shards").SHARD_BYTES = int(os.environ["SHARD_BYTES"])  # type: ignore[attr-defined]


def main() -> None:
    """Prepares the dataset."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("config")
    parser.add_argument("--argument", help="the text after ':'")
    parser.add_argument("--raw_dir")
    parser.add_argument("--data_dir", required=True)
    parser.add_argument("--workers", type=int, help="number of processes; default: one per core")
    parser.add_argument("--options", type=json.loads, default={}, help="changes to config.data.options, as JSON")
    given = parser.parse_args()
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    logging.getLogger("mtan_jax").setLevel(logging.INFO)
    config = runpy.run_path(given.config)["get_config"](given.argument)
    config.data.raw_dir, config.data.data_dir = given.raw_dir, given.data_dir
    with config.unlocked():
        config.data.options.update({k: tuple(v) if isinstance(v, list) else v for k, v in given.options.items()})
    if "prepare_workers" in config.data:
        config.data.prepare_workers = given.workers
    experiment = Experiment.from_config(config)
    start = time.perf_counter()
    experiment.data.prepare()
    sys.stdout.write(json.dumps({"seconds": time.perf_counter() - start}) + "\n")


if __name__ == "__main__":
    main()
