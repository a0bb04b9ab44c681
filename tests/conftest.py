"""Settings of every test: 4 virtual CPU devices, no silent rank promotion, parsed flags for grain's workers."""

import contextlib
import gc
import logging
import os
import signal
import sys
import warnings

from helpers.compiling import xla_flags

os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {xla_flags(devices=4)}"
os.environ["JAX_PLATFORMS"] = "cpu"

import jax
import pytest
from absl import flags
from absl import logging as absl_logging
from absl.testing import flagsaver

jax.config.update("jax_numpy_rank_promotion", "raise")
if (
    signal.getsignal(signal.SIGINT) is signal.SIG_IGN
):  # as in a shell's background; programs that tests start inherit it
    with contextlib.suppress(ValueError):  # not in the main thread
        signal.signal(signal.SIGINT, signal.default_int_handler)
if not flags.FLAGS.is_parsed():
    flags.FLAGS.mark_as_parsed()


MARKS = ("slow", "long")  # of tests that run only when asked for; see pyproject.toml


def pytest_addoption(parser):
    for name in MARKS:
        parser.addoption(f"--run{name}", action="store_true", help=f"run the tests marked {name} too")


def pytest_collection_modifyitems(config, items):
    # The longest first, or one process would be left with them at the end while the other has nothing to do.
    items.sort(key=lambda item: item.path.name != "test_whole_runs.py")
    for name in MARKS:
        if not config.getoption(f"--run{name}"):
            skip = pytest.mark.skip(reason=f"{name}: run with --run{name}")
            for item in items:
                if name in item.keywords:
                    item.add_marker(skip)


@pytest.fixture(autouse=True)
def registries():
    """Other tests see the library without the names that configurations loaded by a test add."""
    from mtan_jax.data import DATASETS  # after the settings above
    from mtan_jax.models import BACKBONES
    from mtan_jax.tasks import TASKS

    before = [(names, dict(names)) for names in (BACKBONES, DATASETS, TASKS)]
    yield
    for names, old in before:
        names.clear()
        names.update(old)


@pytest.fixture
def run_main(monkeypatch):
    """Calls the program in this process: `run_main("--config=...", "--mode=...")`."""
    from mtan_jax import main  # after the settings above
    from mtan_jax.commands import command_line  # after the settings above

    # What belongs to a process, and would stay for the tests that follow.
    monkeypatch.setattr(logging, "basicConfig", lambda **options: None)
    monkeypatch.setattr(absl_logging, "set_verbosity", lambda level: None)
    monkeypatch.setattr(gc, "set_threshold", lambda *thresholds: None)
    level = logging.getLogger("mtan_jax").level

    def run(*arguments):
        argv = ["main.py", *arguments]
        monkeypatch.setattr(sys, "argv", argv)  # where ml_collections looks for fields to set
        with flagsaver.flagsaver(), warnings.catch_warnings():
            warnings.filterwarnings("ignore", r"the load_module\(\) method", DeprecationWarning)  # ml_collections' own
            main.main(command_line.parse(argv))

    yield run
    logging.getLogger("mtan_jax").setLevel(level)
