"""Heavy packages are imported where they are used, because most commands need none of them."""

import os
import subprocess
import sys

import pytest

FOLDERS = ("runtime", "tasks", "interop.torch", "reporting.figures", "reporting.sinks", "steps")


@pytest.mark.parametrize("package", ["matplotlib", "torch", "safetensors", "pandas"])
def test_importing_the_lower_folders_does_not_import(package, imported):
    assert package not in imported


@pytest.fixture(scope="module")
def imported():
    code = f"import sys, {', '.join(f'mtan_jax.{name}' for name in FOLDERS)}; print(*sys.modules)"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", code]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout.split()
