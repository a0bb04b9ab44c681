"""Memory, arithmetic and traffic of a compiled training step, and the limits that a TPU chip puts on its speed."""

import collections
import dataclasses
import re
from typing import TypedDict

import jax

from mtan_jax.commands import hlo
from mtan_jax.experiment import Experiment

GIB = 2**30
BETWEEN = "between stages"  # gates, pooling and upsampling of attended features belong to no stage


@dataclasses.dataclass(frozen=True)
class Chip:
    """Peak performance of one TPU chip, as published by Google Cloud (cloud.google.com/tpu/docs).

    Attributes:
        flops: floating-point operations per second, of products in bfloat16. JAX computes float32 products in bfloat16
            too, at its default precision.
        bandwidth: of main memory, bytes per second.
        memory: main memory, bytes.
        example: a topology.
    """

    flops: float
    bandwidth: float
    memory: float
    example: str

    def shared_by(self, devices: int) -> "Chip":
        """The share of one of several devices on a chip. A v4 chip has two devices, later ones one."""
        return dataclasses.replace(
            self, flops=self.flops / devices, bandwidth=self.bandwidth / devices, memory=self.memory / devices
        )


CHIPS = {
    "v4": Chip(275e12, 1228e9, 32 * GIB, "v4:2x2x2"),
    "v5e": Chip(197e12, 819e9, 16 * GIB, "v5e:2x4"),
    "v5p": Chip(459e12, 2765e9, 95 * GIB, "v5p:2x2x2"),
    "v6e": Chip(918e12, 1640e9, 32 * GIB, "v6e:2x4"),
}


class Measurements(TypedDict):
    """Numbers of a compiled step, per device and step unless noted.

    Attributes:
        fits: whether the step fits in the device's memory.
        memory_bytes_per_chip: memory held during the step.
        temporary_bytes: the part of it that is temporary.
        flops_per_step: floating-point operations.
        bytes_per_step: bytes accessed as XLA counts them, which includes copies into on-chip memory.
        main_memory_bytes_per_step: bytes read from and written to main memory.
        compute_seconds: time of the operations at peak performance.
        memory_seconds: time of `bytes_per_step` at peak bandwidth.
        main_memory_seconds: time of `main_memory_bytes_per_step` at peak bandwidth.
        best_step_seconds: lower bound of the step's time.
        best_examples_per_second: upper bound of the throughput, on all devices.
        estimated_cycles: XLA's own estimate for TPUs.
        collectives: number of collective operations.
        collective_bytes: bytes that they write.
        instructions: size of the program.
        parts: main-memory bytes per part of the step, largest first.
    """

    fits: bool
    memory_bytes_per_chip: int
    temporary_bytes: int
    flops_per_step: float
    bytes_per_step: float
    main_memory_bytes_per_step: int
    compute_seconds: float
    memory_seconds: float
    main_memory_seconds: float
    best_step_seconds: float
    best_examples_per_second: float
    estimated_cycles: int
    collectives: int
    collective_bytes: int
    instructions: int
    parts: dict[str, int]


def measure(compiled: jax.stages.Compiled, chip: Chip, experiment: Experiment) -> Measurements:
    """Measures a compiled step.

    XLA's cost analysis counts the body of a loop once. Gradient accumulation is such a loop: its other iterations are
    added here from the text of the program.
    """
    cost, memory, text = compiled.cost_analysis(), compiled.memory_analysis(), compiled.as_text()
    if cost is None or memory is None or text is None:
        raise RuntimeError("this compiler does not report the cost, memory and text of a program")
    instructions = hlo.executed(text)
    loops = sum(i.bytes_accessed - i.bytes_accessed // i.times for i in instructions)
    flops = cost["flops"] * experiment.config.accumulate  # only the optimizer's are outside the loop
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
        "instructions": hlo.count_instructions(text),
        "parts": dict(parts.most_common()),
    }


def part_of(instruction: hlo.Instruction) -> str:
    """The part of the step that an instruction belongs to, such as "attention/encoder_0, backward"."""
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
    return f"losses, {direction}" if "jvp(" in name else "optimizer, and means over devices"
