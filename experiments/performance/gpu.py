"""Measures everything that needs a GPU, in at most ten minutes.

    python experiments/performance/gpu.py --mtan=<checkout of github.com/lorenmt/mtan, commit c36c30b> \
        --torch=<a Python with PyTorch for CUDA>

The parts, the most important first: steps at NYUv2's size against PyTorch in channels_last, eager and compiled;
configs/streets.py from start to end, twice, the second time with deterministic kernels; steps at Cityscapes' size;
steps at NYUv2's size against PyTorch in its default layout. A part that does not end in time is stopped, and what it
has measured so far is kept. Writes results_gpu.json and results_gpu_streets.json.
"""

import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time
from typing import Any

from mtan_jax.runtime import paths

FOLDER = pathlib.Path(__file__).parent
ROOT = FOLDER.parent.parent
DETERMINISTIC = "--xla_gpu_deterministic_ops=true"


def main() -> None:
    """Runs the parts until the time is over."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mtan", required=True, type=paths.expanded, help="checkout of the authors' code")
    parser.add_argument("--torch", required=True, type=os.path.expanduser, help="a Python with PyTorch")
    parser.add_argument("--minutes", type=float, default=10.0, help="time for everything")
    parser.add_argument("--out", type=paths.expanded, default=FOLDER, help="folder of the results")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    end = time.monotonic() + 60 * arguments.minutes
    steps = [sys.executable, str(FOLDER / "run.py"), "--device=cuda", f"--mtan={arguments.mtan}"]
    steps += [f"--torch={arguments.torch}", f"--out={arguments.out}", "--networks", "MTAN, SegNet", "--rows", "8"]
    fast_layout = ["--layouts", "channels_last", "--programs", "eager", "compiled"]
    run(end, [*steps, *fast_layout])
    with tempfile.TemporaryDirectory() as folder:
        found: dict[str, Any] = {}
        for name, flags in (("fastest", ""), ("deterministic", DETERMINISTIC)):
            found[name] = train_streets(end, pathlib.Path(folder), name, flags)
            (arguments.out / "results_gpu_streets.json").write_text(json.dumps(found, indent=1) + "\n")
    run(end, [*steps, *fast_layout, "--size", "128", "256"])
    run(end, [*steps, "--layouts", "contiguous_format"])


def run(end: float, command: list[str], **environment: str) -> float | None:
    """Runs a command, at most until `end`; returns the seconds it took, None if it was stopped or failed."""
    start = time.monotonic()
    try:
        subprocess.run(command, cwd=ROOT, env=os.environ | environment, check=True, timeout=max(end - start, 0.1))
    except (subprocess.TimeoutExpired, subprocess.CalledProcessError) as error:
        sys.stderr.write(f"not measured completely: {error}\n")
        return None
    return round(time.monotonic() - start, 1)


def train_streets(end: float, folder: pathlib.Path, name: str, flags: str) -> dict[str, Any]:
    """Trains configs/streets.py; the first run also renders the scenes."""
    command = [sys.executable, "-m", "mtan_jax.main", "--config=configs/streets.py", f"--workdir={folder / name}"]
    command += [f"--config.data.data_dir={folder / 'data'}", f"--config.compilation_cache={folder / name}-cache"]
    seconds = run(end, command, XLA_FLAGS=f"{os.environ.get('XLA_FLAGS', '')} {flags}".strip())
    metrics = folder / name / "metrics.jsonl"
    rows = [json.loads(line) for line in metrics.read_text().splitlines()] if metrics.exists() else []
    speeds = [row["steps_per_second"] for row in rows if row.get("steps_per_second")][1:]  # the first compiles
    evaluations = [row for row in rows if row["split"] == "val"]
    return {
        "seconds": seconds,
        "steps_per_second": round(statistics.median(speeds), 2) if speeds else None,
        "last_evaluation": evaluations[-1] if evaluations else None,
    }


if __name__ == "__main__":
    main()
