"""Compiles the training step for a TPU that need not be present, and reports its memory use and speed limits."""

import importlib.util
import json
import logging
import math
import os
import pathlib
import re
import time
from collections.abc import Mapping, Sequence
from typing import cast

import jax

from mtan_jax.commands.plan_measurements import CHIPS, GIB, Chip, measure
from mtan_jax.commands.plan_report import Settings, format_report
from mtan_jax.commands.request import Request
from mtan_jax.experiment import Experiment, checks
from mtan_jax.experiment.lengths import Lengths
from mtan_jax.runtime import parallel
from mtan_jax.steps.state import TrainState
from mtan_jax.training.open_run import open_run
from mtan_jax.types import AbstractBatch

log = logging.getLogger(__name__)

PLAN_FILE = "plan.json"
FUSION_MEMORY = range(2048, 16385)  # KiB; libtpu aborts far below this, and nothing is gained above


class PlanError(ValueError):
    """The step cannot be planned, or does not fit in memory; the message says what to change."""


def use_no_devices() -> None:
    """Configures JAX to compile for TPUs without looking for any. Call it before JAX initializes its devices."""
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_enable_compilation_cache", False)  # cached TPU programs cannot be loaded without a TPU
    # Otherwise libtpu asks Google Cloud's metadata server for the machine type, and waits minutes if there is none.
    os.environ["TPU_SKIP_MDS_QUERY"] = "1"
    os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")  # several plans may run at once: none uses a TPU
    os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")
    os.environ.setdefault("TPU_ACCELERATOR_TYPE", "v5litepod-8")


def planned_step(
    experiment: Experiment, devices: Sequence[jax.Device]
) -> tuple[jax.stages.Wrapped, TrainState, AbstractBatch]:
    """The training step for devices that need not be present, and the shapes of its state and batch.

    Needs no data: the placeholders for lengths in epochs only change constants of the program.

    Raises:
        ValueError: the devices cannot share a batch.
    """
    checks.check_train_batch_size(experiment.config, experiment.data, len(devices))
    rows = experiment.config.batch_size // len(devices)
    tx = experiment.make_tx(Lengths.placeholder())
    batch = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct((len(devices), rows, *leaf.shape[1:]), leaf.dtype),
        experiment.abstract_batch(),
    )
    step = cast(jax.stages.Wrapped, parallel.map_train_step(experiment.make_train_step(tx), devices))
    return step, experiment.abstract_state(tx), batch


def find_devices(topology: str | None) -> list[jax.Device]:
    """The devices of a topology such as "v5e:2x4".

    Raises:
        PlanError: the topology is missing or unknown, or libtpu is not installed.
    """
    topology = topology or ""
    kind, _, sides = topology.partition(":")
    if kind not in CHIPS or not re.fullmatch(r"\d+(x\d+){1,2}", sides):
        raise PlanError(
            f"config.plan.topology = {topology!r}: expected a kind of TPU and the sides of its slice, such as "
            + ", ".join(chip.example for chip in CHIPS.values())
        )
    if importlib.util.find_spec("libtpu") is None and "TPU_LIBRARY_PATH" not in os.environ:
        raise PlanError("--mode=plan needs libtpu to compile: pip install -e '.[tpu]' (no TPU is needed)")
    from jax.experimental import topologies

    try:
        return list(topologies.get_topology_desc(platform="tpu", topology_name=topology).devices)
    except Exception as error:  # of various types outside JAX
        reason = str(error).strip().splitlines()[0]
        raise PlanError(
            f"config.plan.topology = {topology!r} is unknown to libtpu ({reason}); use one such as "
            f"{CHIPS[kind].example}"
        ) from error


def plan(experiment: Experiment, folder: pathlib.Path | None) -> str:
    """Compiles the training step for `config.plan.topology`, writes `plan.json` and returns a report.

    Args:
        experiment: its dataset need not be prepared.
        folder: for `plan.json`; None: it is not written.

    Raises:
        PlanError: the topology or `config.plan.fusion_memory` is invalid, or the step needs more memory than a device
            has, in which case `plan.json` is written too.
    """
    fusion_memory = experiment.config.plan.fusion_memory
    if fusion_memory and fusion_memory not in FUSION_MEMORY:
        raise PlanError(
            f"config.plan.fusion_memory = {fusion_memory}: expected {FUSION_MEMORY[0]} to {FUSION_MEMORY[-1]} KiB, or "
            "0 to compile as in training"
        )
    topology = experiment.config.plan.topology
    devices = find_devices(topology)
    kind, _, sides = topology.partition(":")
    chips = math.prod(int(side) for side in sides.split("x"))
    chip = CHIPS[kind].shared_by(len(devices) // chips)
    step, state, batch = planned_step(experiment, devices)
    settings: Settings = {
        "topology": topology,
        "chips": chips,
        "devices": len(devices),
        "examples_per_device": experiment.config.batch_size // len(devices),
        "jax": jax.__version__,
        "optimization_level": _optimization_level(),
        "libtpu_init_args": os.environ.get("LIBTPU_INIT_ARGS"),
        "fusion_memory_kib": fusion_memory or None,
    }
    log.info("compiling the step for %s, which can take minutes", topology)
    start = time.perf_counter()
    lowered = step.lower(state, batch)
    settings["lower_seconds"] = round(time.perf_counter() - start, 1)
    start = time.perf_counter()
    try:
        compiled, settings["fusion_memory_kib"] = compile_step(lowered, settings["fusion_memory_kib"])
    except Exception as error:  # of a type outside JAX
        needed = _needed_bytes(str(error))
        if needed is None:
            raise
        _write({**settings, "fits": False, "memory_bytes_per_chip": needed}, folder)
        raise PlanError(_does_not_fit(needed, chip, settings)) from error
    settings["compile_seconds"] = round(time.perf_counter() - start, 1)
    measurements = measure(compiled, chip, experiment)
    _write({**settings, **measurements}, folder)
    return format_report(settings, measurements, chip, experiment)


def compile_step(lowered: jax.stages.Lowered, fusion_memory: int | None) -> tuple[jax.stages.Compiled, int | None]:
    """Compiles a step with a limit on each fusion's on-chip memory, or with the default if the limit is too low.

    A lower limit compiles faster and hardly changes the numbers of a plan (docs/performance.md).

    Args:
        lowered: the step.
        fusion_memory: the limit in KiB; None: the default, as in training.

    Returns:
        The compiled step, and the limit that it was compiled with.
    """
    if fusion_memory is not None:
        try:
            return lowered.compile({"xla_tpu_scoped_vmem_limit_kib": str(fusion_memory)}), fusion_memory
        except Exception as error:  # of a type outside JAX
            if "ScopedVmemOom" not in str(error):
                raise
        log.info("config.plan.fusion_memory = %d is too low for this step; compiling as in training", fusion_memory)
    return lowered.compile(), None


def _does_not_fit(needed: float, chip: Chip, settings: Settings) -> str:
    return (
        f"the step does not fit: it needs {needed / GIB:.1f} GiB, and a device of {settings['topology']} has "
        f"{chip.memory / GIB:.0f}. Use a smaller config.batch_size ({settings['examples_per_device']} examples per "
        "device now), more chips, config.model.dtype=bfloat16 or config.accumulate=2"
    )


def _write(plan: Mapping[str, object], folder: pathlib.Path | None) -> None:
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / PLAN_FILE).write_text(json.dumps(plan, indent=1) + "\n")


def _optimization_level() -> str | None:
    """The value of JAX_OPTIMIZATION_LEVEL, such as "O1"; None if it is not set."""
    level = str(jax.config.jax_optimization_level)  # type: ignore[attr-defined]
    return None if level == "UNKNOWN" else level


def _needed_bytes(message: str) -> float | None:
    """The memory that a program needs, from XLA's out-of-memory message; None if the message is a different one."""
    found = re.search(r"Used ([\d.]+)([KMG]) of [\d.]+[KMG] hbm", message)
    return float(found.group(1)) * 1024 ** (" KMG".index(found.group(2))) if found else None


def run(request: Request) -> None:
    """`--mode=plan`: prints the plan of the training step."""
    experiment = open_run(request.config, request.workdir)
    print(plan(experiment, request.workdir))
