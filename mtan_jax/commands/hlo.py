"""Reads the text of an optimized HLO program: its instructions, and the bytes that each moves.

XLA's cost analysis (`compiled.cost_analysis()`) gives one number for a whole program, in which a byte that is copied
into on-chip memory and read there counts three times. Counting per instruction separates the two memories.
"""

import dataclasses
import math
import re
from collections.abc import Iterator

ITEM_BYTES = {
    **dict.fromkeys(("pred", "s8", "u8", "s4", "u4"), 1),
    **dict.fromkeys(("bf16", "f16", "s16", "u16"), 2),
    **dict.fromkeys(("f32", "s32", "u32"), 4),
    **dict.fromkeys(("f64", "s64", "u64"), 8),
}
COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")
# Instructions that only name existing bytes.
_NAMES = ("parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all", "partition-id", "replica-id")

_ARRAY = re.compile(r"(\w+)\[([\d,]*)\](?:\{([\d,]*)([^}]*)\})?")
_CALLED = re.compile(r"(?:body|to_apply|true_computation|false_computation)=%?([\w.-]+)")
_INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%?([\w.-]+) = (.*)$")
_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.-]+) \(.*\{$")


@dataclasses.dataclass(frozen=True)
class Buffer:
    """An array in memory.

    Attributes:
        size: bytes, including the padding of the layout's tiles.
        on_chip: whether it is in on-chip memory instead of main memory.
    """

    size: int
    on_chip: bool


@dataclasses.dataclass(frozen=True)
class Instruction:
    """One instruction of a program.

    Attributes:
        name: of the instruction.
        opcode: such as "fusion".
        outputs: buffers that it writes.
        inputs: buffers that it reads.
        op_name: JAX's name for its place in the source; "" if XLA added the instruction.
        cycles: XLA's estimate for TPUs, for all executions; 0 if there is none.
        times: number of executions per run of the program.
    """

    name: str
    opcode: str
    outputs: tuple[Buffer, ...]
    inputs: tuple[Buffer, ...]
    op_name: str
    cycles: int
    times: int

    @property
    def bytes_accessed(self) -> int:
        """Bytes read and written in any memory per run of the program."""
        return self.times * sum(buffer.size for buffer in self.inputs + self.outputs)

    @property
    def main_memory_bytes(self) -> int:
        """Bytes read from and written to main memory per run of the program."""
        return self.times * sum(buffer.size for buffer in self.inputs + self.outputs if not buffer.on_chip)


@dataclasses.dataclass(frozen=True)
class _Line:
    name: str
    type: str
    opcode: str
    operands: tuple[str, ...]
    attributes: str


def count_instructions(text: str) -> int:
    """Counts the instructions in all computations of a program."""
    return sum(bool(_INSTRUCTION.match(line)) for line in text.splitlines())


def executed(text: str) -> list[Instruction]:
    """Lists the executed instructions, with the number of executions of those in loops.

    Instructions inside a fusion move no bytes and are skipped, as are instructions that only name bytes. An
    asynchronous copy counts at its start.

    Args:
        text: `compiled.as_text()`.
    """
    computations, entry = _read(text)
    return list(_walk(computations, entry, 1))


def _walk(computations: dict[str, list[_Line]], name: str, times: int) -> Iterator[Instruction]:
    lines = computations[name]
    types = {line.name: line.type for line in lines}
    for line in lines:
        called = _CALLED.findall(line.attributes)
        if line.opcode == "while":
            trips = re.search(r'known_trip_count"?:\{"n":"(\d+)"', line.attributes)
            yield from _walk(computations, called[0], times * (int(trips.group(1)) if trips else 1))
            continue
        if line.opcode in ("call", "conditional"):
            for inner in called:
                yield from _walk(computations, inner, times)
            continue
        if line.opcode in _NAMES or line.opcode.endswith(("-done", "-update")) or '"ConcatBitcast"' in line.attributes:
            continue
        inputs = tuple(buffer for operand in line.operands for buffer in buffers(types.get(operand, "")))
        outputs = buffers(line.type)
        if line.opcode.endswith("-start"):
            inputs, outputs = _start_buffers(line.opcode, outputs)
        op_name = re.search(r'op_name="([^"]*)"', line.attributes)
        cycles = re.search(r'"estimated_cycles":"(\d+)"', line.attributes)
        yield Instruction(
            *(line.name, line.opcode, outputs, inputs),
            op_name=op_name.group(1) if op_name else "",
            cycles=times * int(cycles.group(1)) if cycles else 0,
            times=times,
        )


def _start_buffers(opcode: str, parts: tuple[Buffer, ...]) -> tuple[tuple[Buffer, ...], tuple[Buffer, ...]]:
    """The inputs and outputs of an asynchronous copy, slice or collective, both of which are in its type."""
    if opcode == "copy-start":
        return parts[1:2], parts[:1]
    if opcode == "slice-start":  # reads as much as it writes
        return (dataclasses.replace(parts[0], size=parts[1].size),), parts[1:2]
    half = len(parts) // 2
    return parts[:half] or parts, parts[half:]


def _read(text: str) -> tuple[dict[str, list[_Line]], str]:
    computations: dict[str, list[_Line]] = {}
    entry = current = ""
    for line in text.splitlines():
        if start := _COMPUTATION.match(line):
            current = start.group(2)
            computations[current] = []
            entry = current if start.group(1) else entry
        elif found := _INSTRUCTION.match(line):
            type_, rest = _split(found.group(2))
            opcode = rest[: rest.index("(")]
            end = _closing(rest, len(opcode))
            operands = tuple(re.findall(r"%([\w.-]+)", rest[:end]))
            computations[current].append(_Line(found.group(1), type_, opcode, operands, rest[end:]))
    return computations, entry


def _split(text: str) -> tuple[str, str]:
    """Splits an instruction into its type and the rest."""
    end = _closing(text, 0) + 1 if text.startswith("(") else text.index(" ")
    return text[:end], text[end:].lstrip()


def _closing(text: str, start: int) -> int:
    """The position of the bracket that closes the one at `start`."""
    depth = 0
    for i in range(start, len(text)):
        depth += (text[i] == "(") - (text[i] == ")")
        if depth == 0:
            return i
    raise ValueError(f"unclosed bracket in {text[start : start + 80]!r}")


def buffers(type_: str) -> tuple[Buffer, ...]:
    """The arrays of a type such as `(bf16[8,64]{1,0:T(8,128)(2,1)S(1)}, f32[])`."""
    found = []
    for item, sizes, order, layout in _ARRAY.findall(type_):
        if item not in ITEM_BYTES:
            continue
        shape = [int(size) for size in sizes.split(",")] if sizes else []
        tile = re.search(r"T\(([\d,]+)\)", layout)
        if tile and order:
            shape = [shape[int(i)] for i in reversed(order.split(","))]
            for i, side in enumerate(reversed([int(side) for side in tile.group(1).split(",")][-len(shape) :]), 1):
                shape[-i] = -(-shape[-i] // side) * side
        found.append(Buffer(math.prod(shape) * ITEM_BYTES[item], "S(" in layout))
    return tuple(found)
