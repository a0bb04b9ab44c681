"""Compiles the step of training for a TPU that need not be there: does it fit, and how fast can it be at best?"""

import collections
import dataclasses
import importlib.util
import json
import logging
import math
import os
import pathlib
import re
import time
from collections.abc import Sequence
from typing import Any

import jax

from mtan_jax.commands import hlo
from mtan_jax.commands.request import Request
from mtan_jax.experiment import Experiment
from mtan_jax.experiment.lengths import Lengths
from mtan_jax.runtime import parallel
from mtan_jax.steps.state import TrainState
from mtan_jax.training.open_run import open_run
from mtan_jax.types import AbstractBatch

log = logging.getLogger(__name__)

PLAN_FILE = "plan.json"
GB, GIB = 1e9, 2**30
PARTS_SHOWN = 12
FUSION_MEMORY = range(2048, 16385)  # KiB; with far less libtpu ends the program, with more it gains nothing
BETWEEN = "between stages"  # what is of no stage: gates, pooling and doubling of attended features


class PlanError(ValueError):
    """A plan cannot be made, or what is planned does not fit; the message says what would do."""


@dataclasses.dataclass(frozen=True)
class Chip:
    """What one chip of a TPU can do at most, as Google Cloud publishes it (cloud.google.com/tpu/docs).

    Attributes:
        flops: floating-point operations a second, of products in bfloat16, which float32 with JAX's default precision
            is computed in too.
        bandwidth: of main memory, bytes a second.
        memory: main memory, bytes.
        example: a topology.
    """

    flops: float
    bandwidth: float
    memory: float
    example: str

    def shared_by(self, devices: int) -> "Chip":
        """The share of each of so many devices on a chip; a v4 shows two, others one."""
        return dataclasses.replace(
            self, flops=self.flops / devices, bandwidth=self.bandwidth / devices, memory=self.memory / devices
        )


CHIPS = {
    "v4": Chip(275e12, 1228e9, 32 * GIB, "v4:2x2x2"),
    "v5e": Chip(197e12, 819e9, 16 * GIB, "v5e:2x4"),
    "v5p": Chip(459e12, 2765e9, 95 * GIB, "v5p:2x2x2"),
    "v6e": Chip(918e12, 1640e9, 32 * GIB, "v6e:2x4"),
}


def use_no_devices() -> None:
    """Lets JAX compile for TPUs and look for none. To be called before JAX looks for devices."""
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_enable_compilation_cache", False)  # without a TPU, a program cannot be read from it again
    # Else libtpu asks Google Cloud's metadata server, for minutes where there is none, which machine it is on.
    os.environ["TPU_SKIP_MDS_QUERY"] = "1"
    os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")  # several plans at a time: none of them uses a TPU
    os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")
    os.environ.setdefault("TPU_ACCELERATOR_TYPE", "v5litepod-8")


def planned_step(experiment: Experiment, devices: Sequence[Any]) -> tuple[Any, TrainState, AbstractBatch]:
    """The training step for devices that need not be present, and the shapes of its state and batch.

    It needs no data: placeholders for lengths in epochs change nothing but constants of the program.

    Raises:
        ValueError: the devices cannot share a batch.
    """
    experiment.check_train_batch_size(len(devices))
    rows = experiment.config.batch_size // len(devices)
    tx = experiment.make_tx(Lengths.placeholder())
    batch = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct((len(devices), rows, *leaf.shape[1:]), leaf.dtype),
        experiment.abstract_batch(),
    )
    return parallel.map_train_step(experiment.make_train_step(tx), devices), experiment.abstract_state(tx), batch


def find_devices(topology: str | None) -> list[Any]:
    """The devices of a topology such as "v5e:2x4".

    Raises:
        PlanError: none is named, it is not known, or libtpu is not installed.
    """
    topology = topology or ""
    kind, _, sides = topology.partition(":")
    if kind not in CHIPS or not re.fullmatch(r"\d+(x\d+){1,2}", sides):
        raise PlanError(
            f"config.plan.topology = {topology!r}: a kind of TPU and the sides of its slice are needed, such as "
            + ", ".join(chip.example for chip in CHIPS.values())
        )
    if importlib.util.find_spec("libtpu") is None and "TPU_LIBRARY_PATH" not in os.environ:
        raise PlanError(
            "--mode=plan compiles with libtpu, which is not here: pip install -e '.[tpu]' (no TPU is needed)"
        )
    from jax.experimental import topologies

    try:
        return list(topologies.get_topology_desc(platform="tpu", topology_name=topology).devices)
    except Exception as error:  # of types that are not JAX' own
        reason = str(error).strip().splitlines()[0]
        raise PlanError(
            f"config.plan.topology = {topology!r} is none that libtpu knows ({reason}); one of this kind is "
            f"{CHIPS[kind].example}"
        ) from error


def plan(experiment: Experiment, folder: pathlib.Path | None) -> str:
    """Compiles the step of training for `config.plan.topology`, and says what can be expected of it.

    Args:
        experiment: its data need not be prepared.
        folder: where plan.json is written; None: nowhere.

    Returns:
        A report.

    Raises:
        PlanError: see `find_devices`; `config.plan.fusion_memory` is out of range; or the step needs more memory than a
            chip has, which plan.json says too.
    """
    config, topology = experiment.config, experiment.config.plan.topology
    fusion_memory = config.plan.fusion_memory
    if fusion_memory and fusion_memory not in FUSION_MEMORY:
        raise PlanError(
            f"config.plan.fusion_memory = {fusion_memory}: {FUSION_MEMORY[0]} to {FUSION_MEMORY[-1]} KiB would do, 0 "
            "is as much as in training"
        )
    devices = find_devices(topology)
    kind, _, sides = topology.partition(":")
    chips = math.prod(int(side) for side in sides.split("x"))
    chip = CHIPS[kind].shared_by(len(devices) // chips)
    step, state, batch = planned_step(experiment, devices)
    found: dict[str, Any] = {
        "topology": topology,
        "chips": chips,
        "devices": len(devices),
        "examples_per_device": config.batch_size // len(devices),
        "jax": jax.__version__,
        "optimization_level": _optimization_level(),
        "libtpu_init_args": os.environ.get("LIBTPU_INIT_ARGS"),
        "fusion_memory_kib": fusion_memory or None,
    }
    log.info("compiling the step for %s, which can take minutes", topology)
    start = time.perf_counter()
    lowered = step.lower(state, batch)
    found["lower_seconds"] = round(time.perf_counter() - start, 1)
    start = time.perf_counter()
    try:
        compiled = _compile(lowered, found)
    except Exception as error:  # of a type that is not JAX' own
        needed = _needed_bytes(str(error))
        if needed is None:
            raise
        write(found | {"fits": False, "memory_bytes_per_chip": needed}, folder)
        raise PlanError(
            f"the step does not fit: it needs {needed / GIB:.1f} GiB, and a device of {topology} has "
            f"{chip.memory / GIB:.0f}. A smaller config.batch_size ({found['examples_per_device']} examples a device "
            "now), more chips, config.model.dtype=bfloat16 or config.accumulate=2 would need less"
        ) from error
    found["compile_seconds"] = round(time.perf_counter() - start, 1)
    found |= measure(compiled, chip, experiment)
    write(found, folder)
    return report(found, chip, experiment)


def _compile(lowered: Any, found: dict[str, Any]) -> Any:
    """Compiles with `found["fusion_memory_kib"]` on chip a fusion; where that is too little, as in training: with None.

    The time to compile grows with it, the numbers of a plan hardly change (docs/performance.md).
    """
    kib = found["fusion_memory_kib"]
    if kib is not None:
        try:
            return lowered.compile({"xla_tpu_scoped_vmem_limit_kib": str(kib)})
        except Exception as error:  # of a type that is not JAX' own
            if "ScopedVmemOom" not in str(error):
                raise
        log.info("config.plan.fusion_memory = %d is too little for this step; it is compiled as in training", kib)
        found["fusion_memory_kib"] = None
    return lowered.compile()


def measure(compiled: Any, chip: Chip, experiment: Experiment) -> dict[str, Any]:
    """The numbers of plan.json that come from a compiled step, each of one device and step.

    In XLA's own counts the body of a loop, which accumulation has, is run once; what its other runs add is added here
    from the program's text.
    """
    cost, memory = compiled.cost_analysis(), compiled.memory_analysis()
    instructions = hlo.executed(compiled.as_text())
    loops = sum(i.bytes_accessed - i.bytes_accessed // i.times for i in instructions)
    flops = cost["flops"] * experiment.config.accumulate  # but for the optimiser's, all are in loops of so many runs
    traffic = cost["bytes accessed"] + loops
    main_memory = sum(i.main_memory_bytes for i in instructions)
    collectives = [i for i in instructions if i.opcode.removesuffix("-start") in hlo.COLLECTIVES]
    parts: collections.Counter[str] = collections.Counter()
    for instruction in instructions:
        parts[part_of(instruction)] += instruction.main_memory_bytes
    held = memory.argument_size_in_bytes + memory.output_size_in_bytes - memory.alias_size_in_bytes
    held += memory.temp_size_in_bytes + memory.generated_code_size_in_bytes
    compute_seconds, main_memory_seconds = flops / chip.flops, main_memory / chip.bandwidth
    best = max(compute_seconds, main_memory_seconds)
    return {
        "fits": held <= chip.memory,
        "memory_bytes_per_chip": held,
        "temporary_bytes": memory.temp_size_in_bytes,
        "flops_per_step": flops,
        "bytes_per_step": traffic,
        "main_memory_bytes_per_step": main_memory,
        "compute_seconds": compute_seconds,
        "memory_seconds": traffic / chip.bandwidth,
        "main_memory_seconds": main_memory_seconds,
        "best_step_seconds": best,
        "best_examples_per_second": experiment.config.batch_size / best,
        "estimated_cycles": sum(i.cycles for i in instructions),
        "collectives": sum(i.times for i in collectives),
        "collective_bytes": sum(i.times * sum(b.size for b in i.outputs) for i in collectives),
        "instructions": hlo.count_instructions(compiled.as_text()),
        "parts": dict(parts.most_common()),
    }


def part_of(instruction: hlo.Instruction) -> str:
    """Which part of the step an instruction is of, such as "attention/encoder_0, backward"."""
    name = instruction.op_name
    if not name:
        return "copies made by XLA"
    direction = "backward" if "transpose(" in name else "forward"
    found = re.search(
        r"\b(backbone\w*|attention|head_\w+)/(?:[\w.]*block/)?(?:attention_\w+/)?(?:(?!cond/)(\w+)/)?", name
    )
    if found:
        part, stage = found.groups()
        return f"{part if part.startswith('head_') else f'{part}/{stage or BETWEEN}'}, {direction}"
    return f"losses, {direction}" if "jvp(" in name else "optimiser, and means over devices"


def report(found: dict[str, Any], chip: Chip, experiment: Experiment) -> str:
    """plan.json as text for people."""
    config = experiment.config
    height, width = experiment.data.info.image_size

    devices = found["devices"] // found["chips"]

    def line(name: str, text: str) -> str:
        return f"{name:<22}{text}"

    bound = "arithmetic" if found["compute_seconds"] >= found["main_memory_seconds"] else "memory"
    shares = list(found["parts"].items())[:PARTS_SHOWN]
    settings = {"JAX_OPTIMIZATION_LEVEL": "optimization_level", "LIBTPU_INIT_ARGS": "libtpu_init_args"}
    asked = "".join(f", {variable}={found[name]}" for variable, name in settings.items() if found[name])
    if found["fusion_memory_kib"]:
        asked += f", {found['fusion_memory_kib']} KiB on chip a fusion (config.plan.fusion_memory=0: as in training)"
    return "\n".join(
        [
            f"{config.model.arch} on {config.model.backbone}, width {config.model.width:g}, {config.model.dtype}, "
            f"image {height}x{width}, {len(experiment.tasks)} tasks, for {found['topology']}: {found['chips']} chips "
            f"with {devices} device{'s' if devices > 1 else ''} each, {found['examples_per_device']} examples a device "
            "and step",
            "",
            line("fits", f"{'yes' if found['fits'] else 'no'}: {found['memory_bytes_per_chip'] / GIB:.2f} of "
                 f"{chip.memory / GIB:.0f} GiB a device, {found['temporary_bytes'] / GIB:.2f} of them temporary"),
            line("arithmetic", f"{found['flops_per_step'] / 1e12:.3g} TFLOP a device, at best "
                 f"{1e3 * found['compute_seconds']:.1f} ms at {chip.flops / 1e12:.0f} TFLOP/s"),
            line("main memory", f"{found['main_memory_bytes_per_step'] / GB:.1f} GB read and written, at best "
                 f"{1e3 * found['main_memory_seconds']:.1f} ms at {chip.bandwidth / GB:.0f} GB/s"),
            line("all memory", f"{found['bytes_per_step'] / GB:.1f} GB as XLA counts, copies into on-chip memory "
                 f"included: {1e3 * found['memory_seconds']:.1f} ms at that rate"),
            line("collectives", f"{found['collectives']}, {found['collective_bytes'] / GB:.2f} GB"),
            line("a step, at best", f"{1e3 * found['best_step_seconds']:.1f} ms, "
                 f"{found['best_examples_per_second']:.0f} examples/s on all chips; bound by {bound}"),
            line("XLA's estimate", f"{found['estimated_cycles'] / 1e6:.1f} million cycles, to compare programs by"),
            line("compiled in", f"{found['compile_seconds']:.0f} s, {found['instructions']:,} instructions{asked}"),
            "",
            f"{'part':<44}{'main memory, GB':>16}{'share':>8}",
            *(
                f"{name:<44}{size / GB:>16.2f}{size / found['main_memory_bytes_per_step']:>8.1%}"
                for name, size in shares
            ),
        ]
    )  # fmt: skip


def write(found: dict[str, Any], folder: pathlib.Path | None) -> None:
    """Writes plan.json."""
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / PLAN_FILE).write_text(json.dumps(found, indent=1) + "\n")


def _optimization_level() -> str | None:
    """What JAX_OPTIMIZATION_LEVEL asks of XLA, such as "O1"; None: nothing."""
    level = str(jax.config.jax_optimization_level)  # type: ignore[attr-defined]
    return None if level == "UNKNOWN" else level


def _needed_bytes(message: str) -> float | None:
    """What a program would need that XLA refuses for want of memory; None where the message is of something else."""
    found = re.search(r"Used ([\d.]+)([KMG]) of [\d.]+[KMG] hbm", message)
    return float(found.group(1)) * 1024 ** (" KMG".index(found.group(2))) if found else None


def run(request: Request) -> None:
    """`--mode=plan`: prints the plan of the training step."""
    experiment = open_run(request.config, request.workdir)
    print(plan(experiment, request.workdir))
