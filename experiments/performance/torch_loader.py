"""Reads the authors' dataset, with their augmentation, through PyTorch's DataLoader, on command.

`run.py` starts it; it needs only PyTorch. Each line of stdin is a number of batches; the answer is the seconds it took.
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
    """Yields batches, epoch after epoch."""
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
    """Writes an answer."""
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()


batches = endless()
say({"torch": torch.__version__})
for order in sys.stdin:
    start = time.perf_counter()
    for _ in range(int(order)):
        next(batches)
    say(time.perf_counter() - start)
