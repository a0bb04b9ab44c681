"""The dispatch of a step in a run of two processes."""

import json
import subprocess
import sys

import jax
import pytest
from helpers.whole_run import ROOT


@pytest.mark.long
def test_shard_map_takes_a_quarter_of_the_dispatch_of_pmap(tmp_path):
    # With pmap, every array of the state was converted at every call: 84 ms for the arrays of Cityscapes.
    script = ROOT / "experiments" / "performance" / "dispatch.py"
    subprocess.run([sys.executable, script, f"--out={tmp_path / 'found.json'}"], check=True, timeout=600)
    found = json.loads((tmp_path / "found.json").read_text())[jax.__version__]
    assert found["arrays"] > 1000
    assert found["ratio"] <= 0.25
