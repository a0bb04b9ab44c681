"""The authors' data set with their augmentation in PyTorch's DataLoader, in a process that reads batches when told to.

`run.py` starts it; it needs PyTorch alone. Orders are numbers of batches, a line each, answers the seconds they took.
"""

import argparse
import json
import pathlib
import sys
import time

import torch

parser = argparse.ArgumentParser()
parser.add_argument("--mtan", type=pathlib.Path)
parser.add_argument("--data", help="folder of the authors' layout")
parser.add_argument("--rows", type=int)
parser.add_argument("--workers", type=int)
arguments = parser.parse_args()
sys.path.insert(0, str(arguments.mtan / "im2im_pred"))

from create_dataset import NYUv2  # noqa: E402


def endless():
    """Batches of one epoch after the other."""
    dataset = NYUv2(arguments.data, train=True, augmentation=True)
    loader = torch.utils.data.DataLoader(
        dataset,
        arguments.rows,
        shuffle=True,
        drop_last=True,
        num_workers=arguments.workers,
        persistent_workers=arguments.workers > 0,
    )
    while True:
        yield from loader


def say(answer):
    """Gives an answer."""
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()


batches = endless()
say({"torch": torch.__version__})
for order in sys.stdin:
    start = time.perf_counter()
    for _ in range(int(order)):
        next(batches)
    say(time.perf_counter() - start)
