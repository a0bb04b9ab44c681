"""Slots: the devices that the processes of a sweep use, one process per slot."""

import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Mapping

# Printed by a process of its own, because the first process that asks for a TPU or GPU keeps it.
_FIND_DEVICES = """
import json, jax
devices = jax.local_devices()
chips = {tuple(getattr(device, "coords", (device.id,))) for device in devices}
print(json.dumps([devices[0].platform, len(chips)]))
"""
_FIRST_PORT = 8476  # of libtpu's controllers


class SlotsError(ValueError):
    """The devices cannot be used as asked."""


@dataclasses.dataclass(frozen=True)
class Slot:
    """What one process uses.

    Attributes:
        name: for messages.
        environment: variables that show only this device to the process.
    """

    name: str
    environment: Mapping[str, str] = dataclasses.field(default_factory=dict)


def find_slots(jobs: int | None) -> list[Slot]:
    """Finds one slot per GPU or TPU chip of this machine, or makes `jobs` slots that share its CPU cores.

    Processes are not bound to cores, because the number of threads changes the last bits of XLA's results.

    Args:
        jobs: number of slots. None: one per GPU or TPU chip, or one on CPUs.

    Raises:
        SlotsError: JAX finds no devices, or fewer GPUs or TPU chips than `jobs`.
    """
    platform, count = _find_devices()
    if platform == "cpu":
        return [Slot(f"cpu{i}") for i in range(jobs or 1)]
    if jobs is not None and jobs > count:
        raise SlotsError(f"--jobs={jobs}: expected at most {count}, one process per {platform.upper()} device here")
    make = _tpu_slot if platform == "tpu" else _gpu_slot
    return [make(i) for i in range(jobs or count)]


def _find_devices() -> tuple[str, int]:
    result = subprocess.run([sys.executable, "-c", _FIND_DEVICES], capture_output=True, text=True, check=False)
    if result.returncode:
        lines = result.stderr.strip().splitlines() or ["(no output)"]
        raise SlotsError(f"JAX finds no devices: {lines[-1]}")
    platform, count = json.loads(result.stdout.splitlines()[-1])
    return platform, count


def _gpu_slot(i: int) -> Slot:
    visible = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
    return Slot(f"gpu{i}", {"CUDA_VISIBLE_DEVICES": visible[i] if visible else str(i)})


def _tpu_slot(i: int) -> Slot:
    """One chip as a topology of its own; see https://gist.github.com/skye/f82ba45d2445bb19d53545538754f9a3."""
    environment = {
        "TPU_CHIPS_PER_PROCESS_BOUNDS": "1,1,1",
        "TPU_PROCESS_BOUNDS": "1,1,1",
        "TPU_VISIBLE_DEVICES": str(i),
        "TPU_MESH_CONTROLLER_ADDRESS": f"localhost:{_FIRST_PORT + i}",
        "TPU_MESH_CONTROLLER_PORT": str(_FIRST_PORT + i),
    }
    return Slot(f"tpu{i}", environment)
