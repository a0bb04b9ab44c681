"""Controls a PyTorch process that runs LibMTL's methods (libmtl_process.py)."""

import argparse
import json
import pathlib
import subprocess
from collections.abc import Sequence
from typing import Any

import numpy as np
from check import PARTS
from program import Maker, Program

FOLDER = pathlib.Path(__file__).parent

# Our name -> LibMTL's name.
LIBMTL = {
    "aligned_mtl": "Aligned_MTL",
    "cagrad": "CAGrad",
    "db_mtl": "DB_MTL",
    "dwa": "DWA",
    "equal": "EW",
    "excess_mtl": "ExcessMTL",
    "fairgrad": "FairGrad",
    "famo": "FAMO",
    "geometric": "GLS",
    "graddrop": "GradDrop",
    "gradnorm": "GradNorm",
    "gradvac": "GradVac",
    "imtl_g": "IMTL",
    "mgda": "MGDA",
    "moco": "MoCo",
    "nash_mtl": "Nash_MTL",
    "pcgrad": "PCGrad",
    "rlw": "RLW",
    "sdmgrad": "SDMGrad",
    "stch": "STCH",
    "uncertainty": "UW",
    "upgrad": "UPGrad",
}
LARGEST_DIFFERENCE = 1e-3  # relative, for float32 losses of the same network; rounding gave 1e-6


class LibMTL:
    """The process.

    Attributes:
        weights: file of the network's initial weights, which ours use too.
        ready: versions, and the losses of the first batch.
    """

    def __init__(self, arguments: argparse.Namespace, maker: Maker, folder: pathlib.Path):
        self.weights = str(folder / "weights.npz")
        np.savez(folder / "batches.npz", **_channels_first(maker.batches))
        options = {
            "mtan": arguments.mtan,
            "libmtl": arguments.libmtl,
            "reference": FOLDER.parent.parent / "tests" / "reference",
            "batches": folder / "batches.npz",
            "weights": self.weights,
            "width": arguments.width,
            "classes": len(maker.experiment.data.info.classes),
            "threads": arguments.threads,
        }
        command = [arguments.torch, str(FOLDER / "libmtl_process.py"), *(f"--{key}={options[key]}" for key in options)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.ready = self.ask("ready")

    def difference(self, losses: Program) -> float:
        """Returns the largest relative difference of the losses of both networks before the first step.

        Raises:
            SystemExit: the difference is too large for equal networks.
        """
        losses.run(0)
        ours, theirs = np.asarray(losses.found[0]), np.asarray(self.ready["losses"])
        found = float(np.max(np.abs(ours / theirs - 1)))
        if not found <= LARGEST_DIFFERENCE:
            raise SystemExit(f"losses of ours {ours}, of the authors' network {theirs}: not the same network")
        return found

    def make(self, methods: Sequence[str]) -> dict[str, "LibMTLProgram"]:
        """Makes `PARTS`, for equal weighting, and those of our methods that LibMTL has."""
        found = {}
        for name in (*PARTS, *methods):
            if name in LIBMTL or name in PARTS:
                kind = LIBMTL.get(name, "EW")
                built = {"method": kind, **self.ask("memory", kind)}
                self.ask("make", name, kind)
                found[name] = LibMTLProgram(self, name, built)
        return found

    def ask(self, *order: str) -> dict[str, Any]:
        """Sends a command; returns the answer."""
        print(*order, file=self._process.stdin, flush=True)
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit("the process of LibMTL has ended; its message stands above")
        answer = json.loads(line)
        if "error" in answer:
            raise SystemExit(f"LibMTL, {' '.join(order)}: {answer['error']}")
        return answer


class LibMTLProgram:
    """Runs steps of a method, or only the part "losses" or "optimizer".

    Attributes:
        built: name of the method in LibMTL and the peak bytes of its steps.
        seen: empty.
    """

    def __init__(self, process: LibMTL, name: str, built: dict[str, Any]):
        self.built, self.seen, self._process, self._name = built, {}, process, name
        self._order = name if name in ("losses", "optimizer") else "step"

    def run(self, turn: int) -> dict[str, float]:
        """Runs once; returns milliseconds of wall time and of CPU time of all threads."""
        return self._process.ask(self._order, self._name, str(turn))


def _channels_first(batches: Sequence[Any]) -> dict[str, np.ndarray]:
    arrays = {}
    for i, batch in enumerate(batches):
        for name, array in {"image": batch["image"], **batch["targets"]}.items():
            moved = array.astype(np.int64) if array.ndim == 3 else np.moveaxis(array, -1, 1)
            arrays[f"{i}/{name}"] = np.ascontiguousarray(moved)
    return arrays
