"""Whole sweeps as a user starts them."""

import os
import random
import signal
import subprocess
import sys
import time

import jax
import pytest
from helpers.compiling import xla_flags
from helpers.whole_run import ROOT, read_metrics

from mtan_jax.commands.config_file import load_config
from mtan_jax.commands.run import Run

TESTS = ROOT / "tests"
GRID = """
from mtan_jax.sweep import SweepRun, product

def get_runs(arg="with_failure"):
    runs = product(CONFIG, {"weighting": [WEIGHTINGS], "seed": [SEEDS]})
    return [*runs, SweepRun(CONFIG, {"weighting": "dwaa"})] if arg == "with_failure" else runs
"""


class Sweep:
    """A sweep of `python -m mtan_jax.sweep`; the last of its runs fails by design, unless the grid is "good"."""

    def __init__(self, folder, config, weightings, seeds):
        self.folder, self.config = folder, config
        text = GRID.replace("CONFIG", repr(config)).replace("[WEIGHTINGS]", repr(weightings))
        (folder / "grid.py").write_text(text.replace("[SEEDS]", repr(seeds)))
        settings = {"XLA_FLAGS": xla_flags(devices=1), "JAX_PLATFORMS": "cpu", "PYTHONPATH": f"{ROOT}:{TESTS}"}
        self.environment = {**os.environ, **settings}
        data, cache = folder / "data", folder / "cache"
        self.flags = [f"--config.data.data_dir={data}", f"--config.compilation_cache={cache}"]

    def start(self, argument=""):
        command = [sys.executable, "-m", "mtan_jax.sweep", f"--grid={self.folder / 'grid.py'}{argument}", "--jobs=2"]
        command += [f"--workdir={self.folder / 'runs'}", *self.flags]
        streams = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        return subprocess.Popen(command, cwd=ROOT, env=self.environment, text=True, **streams)

    def run_alone(self, name, *flags):
        """One of the runs, without a sweep."""
        command = [sys.executable, "-m", "mtan_jax.main", f"--config={self.config}", *self.flags, *flags]
        command += [f"--workdir={self.folder / 'alone' / name}"]
        subprocess.run(command, cwd=ROOT, env=self.environment, check=True, capture_output=True)

    def assert_same(self, name):
        """The same metrics, and the same newest checkpoint, bit for bit, as the run that was trained alone."""
        folders = [self.folder / kind / name for kind in ("runs", "alone")]
        one, other = map(read_metrics, folders)
        assert one == other
        assert len(one) > 2
        states = [jax.device_get(Run.open(self.load(name), folder).restore()) for folder in folders]
        for a, b in zip(*map(jax.tree.leaves, states), strict=True):
            assert (a.shape, a.dtype, a.tobytes()) == (b.shape, b.dtype, b.tobytes())

    def load(self, name):
        config = load_config(self.config)
        fields = dict(part.split("=") for part in name.split(","))
        config.weighting, config.seed = fields["weighting"], int(fields["seed"])
        config.data.data_dir = str(self.folder / "data")
        return config


def test_a_sweep_trains_its_runs_reports_the_failure_and_then_has_little_to_do(tmp_path):
    sweep = Sweep(tmp_path, "tests/helpers/toy_config.py", ["equal"], [0, 1])
    process = sweep.start()
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 1
    assert "3 runs: 2 complete, 1 failed in" in output
    assert "weighting=dwaa: failed: unknown weighting 'dwaa'" in output
    assert "Traceback" not in output
    sweep.run_alone("weighting=equal,seed=1", "--config.weighting=equal", "--config.seed=1")
    sweep.assert_same("weighting=equal,seed=1")


@pytest.mark.long
def test_a_sweep_of_twelve_runs_survives_five_kills(tmp_path):
    weightings, seeds = ["equal", "dwa", "uncertainty", "pcgrad"], [0, 1, 2]
    sweep = Sweep(tmp_path, "streets:smoke", weightings, seeds)
    moments = random.Random(0)
    for _ in range(5):
        process = sweep.start()
        with pytest.raises(subprocess.TimeoutExpired):
            process.communicate(timeout=moments.uniform(15, 60))
        process.send_signal(moments.choice([signal.SIGKILL, signal.SIGTERM, signal.SIGINT]))
        process.communicate(timeout=120)
    process = sweep.start()
    output, _ = process.communicate(timeout=3600)
    assert "13 runs: 12 complete, 1 failed in" in output
    assert process.returncode == 1
    names = [f"weighting={weighting},seed={seed}" for weighting in weightings for seed in seeds]
    for name in names:
        weighting, seed = (part.partition("=")[2] for part in name.split(","))
        sweep.run_alone(name, f"--config.weighting={weighting}", f"--config.seed={seed}")
        sweep.assert_same(name)
    start = time.monotonic()
    process = sweep.start(":good")
    output, _ = process.communicate(timeout=60)
    assert (process.returncode, "12 runs: 12 complete in" in output) == (0, True)
    assert time.monotonic() - start < 15  # about 4 on an idle machine
