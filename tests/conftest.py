"""Settings of every test: 4 virtual CPU devices, no implicit rank promotion, parsed flags; kinds of tests; fixtures."""

import collections
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
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A shell's background job ignores Ctrl-C, and the programs that tests start and interrupt would inherit that.
    with contextlib.suppress(ValueError):  # not in the main thread
        signal.signal(signal.SIGINT, signal.default_int_handler)
if not flags.FLAGS.is_parsed():
    flags.FLAGS.mark_as_parsed()  # grain's workers read flags


finished = 0  # tests of this process


def mappings():
    """The number of memory mappings of this process, 0 where the system does not tell."""
    try:
        with open("/proc/self/maps", "rb") as lines:
            return sum(1 for _ in lines)
    except OSError:
        return 0


# Kinds of tests: fast ones always run, those marked slow or long on request. See pyproject.toml.
ON_REQUEST = ("long", "slow")
NOT_RUN = "not run: --run{}"


def kind_of(keywords):
    """The kind of a test. One with both marks is long."""
    return next((kind for kind in ON_REQUEST if kind in keywords), "fast")


def pytest_addoption(parser):
    for kind in ON_REQUEST:
        parser.addoption(f"--run{kind}", action="store_true", help=f"also run the tests marked {kind}")


def pytest_collection_modifyitems(config, items):
    # The longest file first: started last, it would keep one process busy while the other is idle.
    items.sort(key=lambda item: item.path.name != "test_whole_runs.py")
    for item in items:
        kind = kind_of(item.keywords)
        if kind != "fast" and not config.getoption(f"--run{kind}"):
            item.add_marker(pytest.mark.skip(reason=NOT_RUN.format(kind)))


def pytest_runtest_logfinish(nodeid, location):
    """Drops compiled programs before they are too many for this process.

    Every program that XLA compiles for CPUs takes a few memory mappings, of which Linux allows 65530 per process. LLVM
    ends the process when it gets no more.
    """
    global finished
    finished += 1
    if finished % 20 == 0 and mappings() > 30_000:
        jax.clear_caches()
        gc.collect()


def pytest_terminal_summary(terminalreporter):
    """Prints the outcomes by kind in one line, which CI collects."""
    counts = {kind: collections.Counter() for kind in ("fast", "slow", "long")}
    names = {"passed": "passed", "failed": "failed", "error": "failed", "skipped": "skipped"}
    for outcome, name in names.items():
        for report in terminalreporter.getreports(outcome):
            kind = kind_of(getattr(report, "keywords", {}))  # errors of collection have none
            left_out = outcome == "skipped" and NOT_RUN.format(kind) in str(report.longrepr)
            counts[kind]["not run" if left_out else name] += 1
    found = {kind: ", ".join(f"{n} {name}" for name, n in outcomes.items()) for kind, outcomes in counts.items()}
    terminalreporter.write_line(f"tests: {'; '.join(f'{kind} {text}' for kind, text in found.items() if text)}")


@pytest.fixture(autouse=True)
def registries():
    """Removes the names that configurations loaded by a test add to the registries."""
    from mtan_jax.data import DATASETS  # after the settings above
    from mtan_jax.models import BACKBONES
    from mtan_jax.tasks import TASKS
    from mtan_jax.weighting import METHODS

    before = [(names, dict(names)) for names in (BACKBONES, DATASETS, METHODS, TASKS)]
    yield
    for names, old in before:
        names.clear()
        names.update(old)


@pytest.fixture
def run_main(monkeypatch):
    """Calls the program in this process: `run_main("--config=...", "--mode=...")`."""
    from mtan_jax import main  # after the settings above
    from mtan_jax.commands import command_line

    # The program changes these for its whole process, which here runs other tests too.
    monkeypatch.setattr(logging, "basicConfig", lambda **options: None)
    monkeypatch.setattr(absl_logging, "set_verbosity", lambda level: None)
    monkeypatch.setattr(gc, "set_threshold", lambda *thresholds: None)
    level = logging.getLogger("mtan_jax").level

    def run(*arguments):
        argv = ["main.py", *arguments]
        monkeypatch.setattr(sys, "argv", argv)  # ml_collections looks for overrides there
        with flagsaver.flagsaver(), warnings.catch_warnings():
            warnings.filterwarnings("ignore", r"the load_module\(\) method", DeprecationWarning)  # ml_collections' own
            main.main(command_line.parse(argv))

    yield run
    logging.getLogger("mtan_jax").setLevel(level)
