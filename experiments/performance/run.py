"""Measures steps and input pipeline against the authors' PyTorch code, the loop, saves, and the start-up time.

    python experiments/performance/run.py --mtan=<checkout of github.com/lorenmt/mtan, commit c36c30b> \
        --torch=<a Python with PyTorch>

writes results.json beside this file and prints README.md's tables. --only=steps (or pipeline, loop, start, scaling)
measures one part and leaves the others in results.json unchanged.

    python experiments/performance/run.py --device=cuda --mtan=... --torch=...

measures only the steps, at NYUv2's size on one GPU, and writes results_gpu.json.
"""

import argparse
import functools
import importlib.metadata
import itertools
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from typing import Any

import jax
from loop import measure_loop
from pipeline import measure_pipeline
from scaling import measure_scaling
from start import measure_start
from steps import MULTIPLICATION, Ours

from mtan_jax.runtime import paths

FOLDER = pathlib.Path(__file__).parent
ROOT = FOLDER.parent.parent
PARTS = ["steps", "pipeline", "loop", "start", "scaling"]
# label -> ours (arch, backbone), theirs
NETWORKS = {
    "MTAN, SegNet": (("mtan", "segnet"), "mtan"),
    "split, SegNet": (("split", "segnet"), "split"),
    "MTAN, ResNet-50": (("mtan", "resnet50"), "resnet_mtan"),
}
# Defaults by device. A GPU runs several steps at a time, so that they outlast the launch.
DEFAULTS: dict[str, dict[str, Any]] = {
    "cpu": {"only": PARTS, "size": (128, 256), "rows": [2], "precisions": ["float32"], "rounds": 7, "times": 1}
    | {"channels": [1.0]},
    "cuda": {"only": ["steps"], "size": (288, 384), "rows": [8, 2], "precisions": ["tf32", "bfloat16"]}
    | {"rounds": 5, "times": 5, "channels": [1.0]},
}
RESULTS = {"cpu": "results.json", "cuda": "results_gpu.json"}


def main() -> None:
    """Runs the experiment."""
    arguments = parse()
    jax.config.update("jax_platforms", arguments.device)
    jax.config.update("jax_enable_compilation_cache", False)
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # PyTorch needs its part of the GPU's memory
    arguments.out.mkdir(parents=True, exist_ok=True)
    path = arguments.out / RESULTS[arguments.device]
    results = json.loads(path.read_text()) if path.exists() else {}
    results |= {"jax": jax.__version__, "python": sys.version.split()[0], "cores": os.cpu_count()}
    paths = ("mtan", "torch", "data_dir", "out")
    command = {name: value for name, value in vars(arguments).items() if name not in paths}
    results |= {"jaxlib": importlib.metadata.version("jaxlib")}
    parts = {
        "steps": lambda: measure_networks(arguments),
        "pipeline": lambda: [pipeline_beside_theirs(arguments)],
        "loop": lambda: [measure_loop(arguments.data_dir)],
        "start": lambda: [measure_start(arguments.data_dir)],
        "scaling": lambda: [measure_scaling(tuple(arguments.size), arguments.rows[0])],
    }
    for name in arguments.only:
        for found in parts[name]():
            results[name] = results.get(name, {}) | found | {"commit": commit(), "command": command}
            path.write_text(json.dumps(results, indent=1) + "\n")
            say(json.dumps(found, indent=1))
    say(table(results.get("steps", {})))


def parse() -> argparse.Namespace:
    """Parses the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--mtan", type=paths.expanded, help="checkout of the authors' code; for steps and pipeline")
    parser.add_argument("--torch", type=os.path.expanduser, default=sys.executable, help="a Python with PyTorch")
    parser.add_argument("--device", default="cpu", choices=list(DEFAULTS))
    parser.add_argument("--only", nargs="+", choices=PARTS, help="what to measure")
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS), choices=list(NETWORKS))
    parser.add_argument("--size", nargs=2, type=int, help="height and width of the images")
    parser.add_argument("--rows", nargs="+", type=int, help="images per step")
    parser.add_argument("--channels", nargs="+", type=float, help="factors on the channels of SegNet's layers")
    parser.add_argument("--precisions", nargs="+", choices=list(MULTIPLICATION))
    layouts = ["contiguous_format", "channels_last"]
    parser.add_argument(
        "--layouts", nargs="+", default=layouts[:1], choices=layouts, help="memory formats of PyTorch's arrays"
    )
    programs = ["eager", "compiled"]
    parser.add_argument(
        "--programs", nargs="+", default=programs[:1], choices=programs, help="how PyTorch runs its network"
    )
    parser.add_argument("--xla", nargs="+", default=[], help="XLA's options for our steps, name=value")
    parser.add_argument("--rounds", type=int, help="number of turns per side")
    parser.add_argument("--times", type=int, help="steps per turn")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="number of PyTorch's threads")
    parser.add_argument("--data_dir", help="folder of prepared datasets")
    parser.add_argument("--out", type=paths.expanded, default=FOLDER, help="folder of the results")
    arguments = parser.parse_args()
    for name, value in DEFAULTS[arguments.device].items():
        if getattr(arguments, name) is None:
            setattr(arguments, name, value)
    if arguments.mtan is None and {"steps", "pipeline"} & set(arguments.only):
        parser.error("--mtan is needed for steps and pipeline")
    return arguments


class Theirs:
    """A PyTorch process that runs one of the scripts in this folder.

    Attributes:
        built: its first answer, once it is ready.
    """

    def __init__(self, arguments: argparse.Namespace, script: str, **options: Any):
        command = [arguments.torch, str(FOLDER / script), f"--mtan={arguments.mtan.resolve()}"]
        command += [f"--{name}={value}" for name, value in options.items()]
        # Without this process' search path, which has JAX' packages.
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        self._process = subprocess.Popen(command, env=environment, **pipes)
        self.built = json.loads(self._answer())

    def run(self, what: str, times: int | None = None) -> float:
        """Sends a command; returns the seconds it took, per repetition if it has several."""
        what = what if times is None else f"{what} {times}"
        print(what, file=self._process.stdin, flush=True)
        return float(self._answer())

    def close(self) -> None:
        """Ends the process."""
        self._process.stdin.close()
        self._process.wait()

    def _answer(self) -> str:
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError("the process of PyTorch has ended; its message stands above")
        return line


def measure_networks(arguments: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Yields one record per network, by label. If one fails, such as out of memory, the next is still measured."""
    usual = DEFAULTS[arguments.device]
    asked = (arguments.networks, arguments.channels, arguments.rows)
    asked += (arguments.precisions, arguments.layouts, arguments.programs)
    for name, channels, rows, precision, layout, program in itertools.product(*asked):
        labels = [name]
        labels += [f"{'x'.join(map(str, arguments.size))}"] if usual["size"] != tuple(arguments.size) else []
        labels += [f"width {channels:g}"] if channels != 1 else []
        labels += [f"{rows} images"] if usual["rows"] != [rows] else []
        labels += [precision] if usual["precisions"] != [precision] else []
        labels += [layout] if layout == "channels_last" else []
        labels += [program] if program == "compiled" else []
        label = ", ".join(labels + arguments.xla)
        try:
            yield {
                label: measure_steps(arguments, name, channels, rows, precision, {"layout": layout, "program": program})
            }
        except RuntimeError as error:
            yield {label: {"error": str(error)}}


def measure_steps(
    arguments: argparse.Namespace, name: str, channels: float, rows: int, precision: str, of_theirs: dict[str, str]
) -> dict[str, Any]:
    """Measures both sides in turns, `rounds` times after two warm-up turns; some options are for PyTorch only."""
    (arch, backbone), theirs = NETWORKS[name]
    size, on_gpu = tuple(arguments.size), arguments.device != "cpu"
    mine = build_ours(arch, backbone, size, rows, precision, channels, tuple(arguments.xla))
    options = {"reference": ROOT / "tests" / "reference", "network": theirs, "rows": rows, "threads": arguments.threads}
    options |= {"height": size[0], "width": size[1], "channels": channels}
    options |= {"device": arguments.device, "precision": precision} | of_theirs
    other = Theirs(arguments, "torch_side.py", **options)
    sides: dict[str, Any] = {"ours": mine, "theirs": other}
    found: dict[str, Any] = {side: dict(process.built) for side, process in sides.items()}
    try:
        for what in ("train", "infer"):
            times: dict[str, list[float]] = {side: [] for side in sides}
            for turn in range(-2, arguments.rounds):
                for side, process in sides.items():
                    seconds = process.run(what, arguments.times if turn >= 0 else 1)
                    if turn >= 0:
                        times[side].append(round(seconds, 5))
                if on_gpu and turn < 0:
                    other.run("peak")  # the memory of cuDNN's trials
            if on_gpu and what == "train":
                found["theirs"]["peak_gigabytes"] = round(other.run("peak"), 2)
            for side, values in times.items():
                found[side][f"{what}_seconds"] = values
            ratios = sorted(a / b for a, b in zip(*times.values(), strict=True))
            found[f"{what}_ratio"] = round(statistics.median(ratios), 3)
            found[f"{what}_ratio_range"] = [round(ratios[0], 3), round(ratios[-1], 3)]
    finally:
        other.close()
    found |= {"device": jax.devices()[0].device_kind, "size": size, "rows": rows, "precision": precision}
    found |= {"channels": channels}
    return found | of_theirs | {"load": round(os.getloadavg()[0], 1)}


@functools.lru_cache(maxsize=1)
def build_ours(
    arch: str,
    backbone: str,
    size: tuple[int, int],
    rows: int,
    precision: str,
    channels: float,
    options: tuple[str, ...],
) -> Ours:
    """Builds our side; cached, because some options change PyTorch's side only.

    Args:
        arch: see `Ours`.
        backbone: see `Ours`.
        size: see `Ours`.
        rows: see `Ours`.
        precision: see `Ours`.
        channels: see `Ours`.
        options: XLA's options, "name=value" each, the value as JSON.
    """
    pairs = (option.split("=", 1) for option in options)
    return Ours(arch, backbone, size, rows, precision, channels, {name: json.loads(value) for name, value in pairs})


def pipeline_beside_theirs(arguments: argparse.Namespace) -> dict[str, Any]:
    """Measures the input pipeline against the authors' dataset in a DataLoader."""
    with tempfile.TemporaryDirectory() as folder:
        return measure_pipeline(pathlib.Path(folder), functools.partial(Theirs, arguments))


def table(found: dict[str, Any]) -> str:
    """Formats the table of steps."""
    head = "| network | step, ours, s | PyTorch, s | ratio | prediction, ours, s | PyTorch, s | ratio |"
    lines = [head, "|---" * 7 + "|"]
    for name, record in found.items():
        if "train_ratio" not in record:
            continue
        cells = []
        for what in ("train", "infer"):
            medians = [statistics.median(record[side][f"{what}_seconds"]) for side in ("ours", "theirs")]
            low, high = record[f"{what}_ratio_range"]
            cells += [
                *(f"{value:.3g}" for value in medians),
                f"{record[f'{what}_ratio']:.2f} ({low:.2f} to {high:.2f})",
            ]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def commit() -> str:
    """Returns the commit of this repository."""
    command = ["git", "describe", "--always", "--dirty", "--exclude=*"]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False).stdout.strip()


def say(text: str) -> None:
    """Prints a line and flushes."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
