"""Every code block of the users' pages runs under test, and every command that they show is accepted."""

import importlib
import pathlib
import re
import shlex
import sys

import pytest
from absl.testing import flagsaver

from mtan_jax import main
from mtan_jax.commands import command_line
from mtan_jax.compare.command import make_parser as compare_parser
from mtan_jax.config import check_fields
from mtan_jax.sweep.grid import load_grid

# ml_collections' own.
pytestmark = pytest.mark.filterwarnings(r"ignore:the load_module\(\) method:DeprecationWarning")

ROOT = pathlib.Path(__file__).parents[2]
PAGES = {
    str(page.relative_to(ROOT)): page.read_text()
    for page in sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md"), *(ROOT / "experiments").rglob("*.md")])
}
# The tests that run a page's Python blocks. Cells of notebooks run when the site is built, and in test_notebooks.py.
TESTS = {
    "README.md": "tests/commands/test_api.py",
    "docs/comparison.md": "tests/docs/test_comparison_page.py",
    "docs/configuration.md": "tests/docs/test_code_blocks.py",
    "docs/datasets.md": "tests/docs/test_datasets_page.py",
    "docs/logging.md": "tests/docs/test_logging_page.py",
    "docs/loops/equinox.md": "tests/docs/test_other_loops.py",
    "docs/loops/haiku.md": "tests/docs/test_other_loops.py",
    "docs/loops/linen.md": "tests/docs/test_other_loops.py",
    "docs/loops/nnx.md": "tests/docs/test_other_loops.py",
    "docs/other_loops.md": "tests/docs/test_other_loops.py",
    "docs/own_network.md": "tests/docs/test_own_network.py",
    "docs/own_study.md": "tests/docs/test_own_study.py",
    "docs/own_task.md": "tests/docs/test_own_task.py",
    "docs/schedules.md": "tests/docs/test_own_schedule.py",
    "docs/start.md": "tests/docs/test_code_blocks.py",
    "docs/sweeps.md": "tests/docs/test_code_blocks.py",
    "docs/weighting.md": "tests/docs/test_weighting_page.py",
}
COMMAND = re.compile(r"^ *(?:[A-Z_]+=\S+ )*python -m mtan_jax\.(main|sweep|compare) (.*)$", re.MULTILINE)
LEFT_OUT = {"...", "--config=discs.py", "--config=mine.py:smoke"}  # files of the pages, which their tests run


def commands():
    """(page, program, arguments) of every command."""
    for page, text in PAGES.items():
        for program, arguments in COMMAND.findall(re.sub(r"\\\n *", "", text)):
            words = shlex.split(arguments, comments=True)
            if not LEFT_OUT & set(words):
                yield page, program, words


def blocks(page):
    return re.findall(r"^```python\n(.*?)^```$", PAGES[page], re.MULTILINE | re.DOTALL)


def test_every_page_with_python_has_a_test_that_reads_it():
    with_python = {page for page in PAGES if page.startswith(("docs/", "README")) and blocks(page)}
    assert with_python == set(TESTS)
    for page, test in TESTS.items():
        folder, name = page.rsplit("/", 1) if "/" in page else ("", page)
        source = (ROOT / test).read_text()
        assert name in source or f'"{folder.rpartition("/")[2]}"' in source, f"{test} does not read {page}"


@pytest.mark.parametrize(("page", "program", "words"), list(commands()), ids=lambda value: str(value)[:60])
def test_the_command_is_accepted(page, program, words, monkeypatch):
    monkeypatch.chdir(ROOT)
    if program == "compare":
        compare_parser().parse_args(words)
    elif program == "sweep":
        parser = importlib.import_module("mtan_jax.sweep.__main__").make_parser()
        _, rest = parser.parse_known_args(words)
        assert all(word.startswith("--config.") for word in rest)
    else:
        argv = ["main.py", *words]
        monkeypatch.setattr(sys, "argv", argv)  # ml_collections looks for overrides there
        with flagsaver.flagsaver():
            assert command_line.parse(argv) == ["main.py"]
            check_fields(main.CONFIG.value)


def test_a_command_with_a_mistake_is_not():
    assert {program for _, program, _ in commands()} == {"main", "sweep", "compare"}
    with pytest.raises(SystemExit):
        compare_parser().parse_args(["runs", "--basline=x"])


def test_the_configuration_page_runs():
    names = {}
    first, second = blocks("docs/configuration.md")
    exec(first, names)
    assert (names["config"].weighting, names["config"].optimizer.learning_rate) == ("dwa", 1e-3)
    exec(second, names)
    assert (names["get_config"]("smoke").weighting, names["get_config"]("smoke").duration) == ("dwa", "4 steps")


def test_the_grids_of_the_page_about_sweeps_load(tmp_path):
    first, second, _ = blocks("docs/sweeps.md")
    for text, arg, count in ((first, "", 18), (second, ":quick", 2), (second, "", 4)):
        (tmp_path / "grid.py").write_text(text)
        assert len(load_grid(f"{tmp_path / 'grid.py'}{arg}")) == count


@pytest.mark.slow
@pytest.mark.parametrize("page", ["docs/start.md", "docs/sweeps.md"])
def test_the_last_block_trains(page, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "data"))
    exec(blocks(page)[-1], {})
    shown = capsys.readouterr().out
    assert {"docs/start.md": "semantic/miou", "docs/sweeps.md": "complete"}[page] in shown
