"""The console script, called as pip's launcher does, from a folder without a checkout."""

import os
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).parents[2]


def call(folder, *arguments, after="console()"):
    code = f"import sys; from mtan_jax.commands.console import console; {after}"
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def test_it_is_the_program(tmp_path):
    result = call(tmp_path, "--config=streets:smoke", "--mode=summary")
    assert result.returncode == 0, result.stderr
    assert "width 0.0625" in result.stdout
    result = call(tmp_path, "--config=kitti")
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr.startswith("error: --config=kitti: there is no configuration of this name; known names: city")


def test_ctrl_c_is_handled_before_the_slow_imports(tmp_path):
    # console() leaves all imports to main, which handles Ctrl-C before them.
    assert call(tmp_path, after="sys.exit('jax' in sys.modules)").returncode == 0
