"""A user id without an entry in /etc/passwd and without a home directory, as containers have it."""

import functools
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile

import pytest
from helpers.compiling import xla_flags

ROOT = pathlib.Path(__file__).parents[2]
USER = 12345
# Ways to run as that user and still read this Python and this code, wherever they lie.
CAPABILITY = "+dac_read_search"
WAYS = [
    ["setpriv", f"--reuid={USER}", f"--regid={USER}", "--clear-groups"],
    ["unshare", "--user", f"--map-user={USER}"],
]
WAYS[0] += [f"--inh-caps={CAPABILITY}", f"--ambient-caps={CAPABILITY}"]
CHECK = f"import os, pwd\nassert os.getuid() == {USER}\ntry: pwd.getpwuid({USER})\nexcept KeyError: print('nobody')"


@functools.cache
def way():
    for prefix in WAYS:
        if shutil.which(prefix[0]):
            tried = subprocess.run([*prefix, sys.executable, "-c", CHECK], capture_output=True, text=True, check=False)
            if tried.stdout == "nobody\n":
                return prefix
    return pytest.skip("no way to become a user without an entry in /etc/passwd")


@pytest.fixture
def place():
    """A folder that the user can write, with no closed folder above it; the temporary folder lies in it."""
    folder = pathlib.Path(tempfile.mkdtemp())
    (folder / "tmp").mkdir()
    for path in (folder, folder / "tmp"):
        path.chmod(0o777)
    yield folder
    shutil.rmtree(folder)


CASES = [
    pytest.param(None, ["--mode=train", "--config.data.workers=1"], id="HOME is not set"),
    pytest.param("/proc/nowhere", ["--mode=eval", "--checkpoint=initial"], id="HOME is closed", marks=pytest.mark.long),
]


@pytest.mark.parametrize(("home", "flags"), CASES)
@pytest.mark.slow
def test_a_user_without_a_home_trains_and_evaluates(home, flags, place):
    environment = {
        "PATH": os.environ["PATH"],
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": xla_flags(devices=1),
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")]),
        "PYTHONDONTWRITEBYTECODE": "1",
        "TMPDIR": str(place / "tmp"),
        **({} if home is None else {"HOME": home}),
    }
    config = ROOT / "tests" / "helpers" / "toy_config.py"
    command = [*way(), sys.executable, "-m", "mtan_jax.main", f"--config={config}"]
    command += [f"--workdir={place / 'run'}", "--config.duration=1 steps"]
    command += ["--config.compilation_cache=~/.cache/mtan_jax", *flags]
    caches = place / "tmp" / f"mtan_jax-{USER}"
    ended = subprocess.run(command, cwd=place, env=environment, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    assert "Traceback" not in ended.stderr
    assert "atplotlib" not in ended.stderr
    assert [line for line in ended.stderr.splitlines() if "is not writable" in line] == [
        f"the home directory is not writable, so prepared data are stored in {caches / 'tensorflow_datasets'}; "
        "set --config.data.data_dir=FOLDER to use another folder",
        f"~/.cache/mtan_jax is not writable, so compiled programs are stored in {caches / 'compiled'}; "
        "set --config.compilation_cache=FOLDER to use another folder",
    ]
    assert {path.name for path in caches.iterdir()} == {"compiled", "matplotlib", "tensorflow_datasets"}
    assert {path.name for path in place.iterdir()} <= {"run", "tmp"}  # and no folder named "~"
