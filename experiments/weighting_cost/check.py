"""Reports which methods in results.json exceed their cost bars.

    python experiments/weighting_cost/check.py

prints one line per method and quantity, and exits with 1 if a method is above its bar. With F a forward pass, U the
optimizer, B a backward pass (the step of equal weighting minus F and U) and K tasks:

- a loss balancer: 1.03 (F + B + U);
- a method that combines gradients: 1.1 (F + K B + U);
- others: 1.1 times the passes that they need by definition (`PASSES`), and U.

A time is above its bar if the lower quartile of its ratio to the bar, over rounds, is above 1. If only the median is,
it is reported as unclear. Floating-point operations and bytes are XLA's count, which includes the body of a loop once,
so programs that loop over tasks are excluded. Memory has a bar for loss balancers only.
"""

import json
import pathlib
import statistics
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from mtan_jax.weighting import BALANCERS, GRADIENT_METHODS

# Method -> forward passes, backward passes, reason.
PASSES = {
    "famo": (2, 1, "the losses of the same batch after the step"),
    "auto_lambda": (
        *(4, 3),
        "a virtual step first, then forward and backward of a second batch there, and two forward passes around the "
        "parameters for the difference quotient",
    ),
    "modo": (
        *(4, 3),
        "forward and two backward passes of the second batch, and the derivative of the first batch's backward pass, "
        "about two forward passes",
    ),
}
PARTS = ("base", "losses", "optimizer")
BALANCER, OTHER = 1.03, 1.10
TIMES = {"wall_ms": "wall time", "cpu_ms": "CPU time"}
COUNTS = {"flops": "FLOP", "bytes_accessed": "bytes accessed"}
MEMORY = {"temp_bytes": "temporary memory", "held_bytes": "memory held", "opt_state_bytes": "state of the optimiser"}


def passes(name: str, tasks: int) -> tuple[int, int, float]:
    """Returns the forward and backward passes that a method may take, and the factor on them.

    Args:
        name: name of a record, such as "mgda" or "mgda, one by one".
        tasks: number of tasks.

    Raises:
        ValueError: the passes of the method are unknown.
    """
    method = name.split(",")[0]
    if method in PASSES:
        return (*PASSES[method][:2], OTHER)
    if method in BALANCERS:
        return 1, 1, BALANCER
    if method in GRADIENT_METHODS:
        return 1, tasks, OTHER
    raise ValueError(f"{method} is no balancer and no gradient method: PASSES in {__file__} must say what it needs")


def bar(name: str, tasks: int, losses: float, optimizer: float) -> float:
    """Returns the bar of a step, in steps of equal weighting.

    Args:
        name: name of a record.
        tasks: number of tasks.
        losses: F, in steps of equal weighting.
        optimizer: U, in steps of equal weighting.
    """
    forward, backward, factor = passes(name, tasks)
    return factor * (forward * losses + backward * (1 - losses - optimizer) + optimizer)


def records_of(results: Mapping[str, Any], library: str) -> dict[str, dict[str, Any]]:
    """Returns the records of a library, by name."""
    return {record["name"]: record for record in results["records"] if record["library"] == library}


def methods_of(records: Mapping[str, Any]) -> list[str]:
    """Returns the records that are steps under a method."""
    return [name for name in records if name not in PARTS]


def ratios(record: Mapping[str, Any], key: str) -> list[float]:
    """Returns the ratios of a method's times to those of equal weighting beside it, one per round."""
    return [a / b for a, b in zip(record[key], record[f"base_{key}"], strict=True)]


def shares_of_bar(records: Mapping[str, Any], name: str, key: str, tasks: int) -> list[float]:
    """Returns a method's times relative to its bar, one per round."""
    parts = (ratios(records[part], key) for part in (name, "losses", "optimizer"))
    return [ratio / bar(name, tasks, losses, optimizer) for ratio, losses, optimizer in zip(*parts, strict=True)]


def quartiles(values: Sequence[float]) -> tuple[float, float, float]:
    """Returns lower quartile, median and upper quartile."""
    low, middle, high = statistics.quantiles(values, n=4)
    return low, middle, high


def found(results: Mapping[str, Any]) -> Iterator[tuple[bool | None, str]]:
    """Yields, per method and quantity, whether it is above its bar (None: unclear), and a description."""
    records, tasks = records_of(results, "ours"), results["num_tasks"]
    base = records["base"]
    for name in methods_of(records):
        record = records[name]
        for key, words in TIMES.items():
            low, middle, high = quartiles(shares_of_bar(records, name, key, tasks))
            above = True if low > 1 else None if middle > 1 else False
            yield above, f"{name}: {words} {middle:.2f} ({low:.2f} to {high:.2f}) of its bar"
        if "one by one" not in name:
            for key, words in COUNTS.items():
                ratio = record[key] / base[key]
                share = ratio / bar(name, tasks, *(records[part][key] / base[key] for part in ("losses", "optimizer")))
                yield share > 1, f"{name}: {words} {share:.3f} of its bar, {ratio:.3f} of equal"
        if name in BALANCERS:
            for key, words in MEMORY.items():
                share = record[key] / base[key]
                yield share > BALANCER, f"{name}: {words} {share:.3f} of equal"


def broken(results: Mapping[str, Any]) -> list[str]:
    """Returns descriptions of the methods and quantities that are above their bars, or unclear."""
    return [f"{'above' if above else 'unclear'}: {text}" for above, text in found(results) if above is not False]


if __name__ == "__main__":
    path = pathlib.Path(__file__).parent / "results.json"
    if not path.exists():
        sys.exit(f"error: {path} is not there; run.py measures and writes it")
    stored = json.loads(path.read_text())
    for is_above, line in found(stored):
        sys.stdout.write(f"{'above  ' if is_above else 'unclear' if is_above is None else 'within '} {line}\n")
    sys.exit(any(is_above for is_above, _ in found(stored)))
