"""Measures programs: build time, size, and step time."""

import gc
import os
import re
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax


class Program:
    """A compiled `(state, argument) -> state` with donated state, and a state to run it on.

    Attributes:
        built: seconds and sizes, see `build`.
        turns: wall and CPU seconds of the steps timed so far.
    """

    def __init__(self, function: Callable[[Any, Any], Any], state: Any, argument: Any):
        self.state, self.argument = state, argument
        self.turns: list[tuple[float, float]] = []
        self._compiled, self.built = build(function, state, argument)

    def step(self) -> Any:
        """Runs one step and keeps the new state."""
        self.state = jax.block_until_ready(self._compiled(self.state, self.argument))
        return self.state

    def timed_step(self) -> None:
        """Runs one step and records its time."""
        start = _clocks()
        self.step()
        self.turns.append(_since(start))

    def timings(self) -> dict[str, Any]:
        """Returns the medians over the timed steps, and the times themselves, in milliseconds."""
        wall, cpu = ([round(1e3 * t, 2) for t in times] for times in zip(*self.turns, strict=True))
        return {
            "step_wall_ms": round(statistics.median(wall), 2),
            "step_cpu_ms": round(statistics.median(cpu), 2),
            "step_wall_ms_all": wall,
            "step_cpu_ms_all": cpu,
        }


def build(function: Callable[[Any, Any], Any], state: Any, argument: Any) -> tuple[Any, dict[str, Any]]:
    """Compiles with empty caches.

    Returns:
        The executable, and: seconds (wall, and CPU of this process) of tracing and lowering and of compiling;
        instructions of the optimized HLO, in all computations and in the entry computation alone, which runs
        sequentially; XLA's own count of floating-point operations and bytes accessed; bytes of temporary
        memory.
    """
    jax.clear_caches()
    gc.collect()
    start = _clocks()
    lowered = jax.jit(function, donate_argnums=0).lower(state, argument)
    lower_wall, lower_cpu = _since(start)
    start = _clocks()
    compiled = lowered.compile()
    compile_wall, compile_cpu = _since(start)
    hlo, cost = compiled.as_text(), compiled.cost_analysis()
    return compiled, {
        "lower_wall_s": round(lower_wall, 2),
        "lower_cpu_s": round(lower_cpu, 2),
        "compile_wall_s": round(compile_wall, 2),
        "compile_cpu_s": round(compile_cpu, 2),
        "instructions": _count_instructions(hlo),
        "entry_instructions": _count_instructions(hlo[re.search("^ENTRY", hlo, re.MULTILINE).start() :]),
        "flops": cost["flops"],
        "bytes_accessed": cost["bytes accessed"],
        "temp_bytes": compiled.memory_analysis().temp_size_in_bytes,
        "load_average": round(os.getloadavg()[0], 1),
    }


def alternate(programs: Sequence[Program], rounds: int) -> None:
    """Times one step of each program in turns, `rounds` times, so that other load on the machine affects all alike."""
    for _ in range(rounds):
        for program in programs:
            program.timed_step()


def _count_instructions(hlo: str) -> int:
    return len(re.findall(r"^\s+(?:ROOT )?%?[\w.-]+ = ", hlo, re.MULTILINE))


def _clocks() -> tuple[float, float]:
    return time.perf_counter(), time.process_time()


def _since(start: tuple[float, float]) -> tuple[float, float]:
    return time.perf_counter() - start[0], time.process_time() - start[1]
