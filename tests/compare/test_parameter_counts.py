"""Numbers of parameters from stored configurations; the expected numbers are the authors' (`test_summary.py`)."""

from helpers import stored_runs

import mtan_jax as mtan


def test_networks_of_nyuv2(tmp_path):
    schedule = {"weights": {"semantic": lambda step: step * 0.5, "depth": 1.0, "normal": 1.0}}
    stored_runs.write(tmp_path / "mtan", stored_runs.LS, weighting="schedule", weighting_options__schedule=schedule)
    for task in ("semantic", "depth", "normal"):
        values = stored_runs.of_task(stored_runs.STL, task)
        stored_runs.write(tmp_path / task, values, tasks=(task,), model__arch="single")
    found = mtan.compare_runs(tmp_path, baseline="arch=single", parameters=True, metrics="depth/abs_error")
    assert found.columns == ("depth/abs_error", "parameters")
    counts = found.means["parameters"]
    assert counts["arch=mtan weighting=schedule"] == 44_229_073
    # A head has 64 x 64 x 9 weights and 64 biases, and a last layer of 64 weights and one bias per channel.
    semantic = 24_981_069
    assert counts["arch=single weighting=equal"] == 3 * semantic - 65 * ((13 - 1) + (13 - 3))
    assert "| parameters (M) |" in found.to_text()
    assert "44.23 |" in found.to_text()


def test_networks_that_cannot_be_built(tmp_path):
    for seed, arch in enumerate(("mtan", "split")):
        stored_runs.write(tmp_path / arch, stored_runs.LS, model__arch=arch, model__backbone="mine", seed=seed)
    found = mtan.compare_runs(tmp_path, parameters=True)
    assert found.means["parameters"].isna().all()
    (line,) = (line for line in found.warnings if "parameters" in line)
    assert line.startswith("parameters are not counted: ")
    assert "mine" in line
    assert line.endswith("; in arch=mtan, arch=split")
