import re

import pytest

from mtan_jax.sweep import GridError, SweepRun, load_grid, product
from mtan_jax.sweep.grid import name_runs, shorten


def names(*runs):
    return [run.name for run in name_runs(runs)]


def test_product_varies_the_last_field_fastest():
    runs = product("streets", {"weighting": ["equal", "dwa"], "seed": range(2)})
    assert [(run.config, run.overrides["weighting"], run.overrides["seed"]) for run in runs] == [
        ("streets", "equal", 0),
        ("streets", "equal", 1),
        ("streets", "dwa", 0),
        ("streets", "dwa", 1),
    ]


@pytest.mark.parametrize("values", ["dwa", [], ()])
def test_product_rejects_values_that_are_no_list(values):
    with pytest.raises(GridError, match=r"the values of 'weighting' are .*; expected a list"):
        product("streets", {"weighting": values})


def test_runs_are_named_after_the_fields_that_differ():
    runs = product("streets", {"model.arch": ["mtan", "split"], "batch_size": [4], "seed": [0, 1]})
    assert names(*runs) == ["arch=mtan,seed=0", "arch=mtan,seed=1", "arch=split,seed=0", "arch=split,seed=1"]


def test_a_field_that_only_some_runs_set_is_in_their_names():
    assert names(SweepRun("streets"), SweepRun("streets", {"weighting": "dwa"})) == ["streets", "weighting=dwa"]


def test_configurations_are_in_the_names_if_they_differ():
    assert names(SweepRun("a/x.py:smoke"), SweepRun("y")) == ["config=x", "config=y"]


def test_names_of_lists_are_joined_and_characters_that_folders_lack_are_replaced():
    runs = product("streets", {"weighting": [["dwa", "pcgrad"], "a/b c[0]"]})
    assert names(*runs) == ["weighting=dwa+pcgrad", "weighting=a-b-c-0"]


def test_nested_mappings_set_the_fields_below():
    run = SweepRun("streets", {"weighting_options": {"dwa": {"temperature": 1.0}}, "tasks": ["depth"]})
    assert run.fields == {"weighting_options.dwa.temperature": 1.0, "tasks": ("depth",)}


def test_short_names_are_distinct():
    assert shorten(["a.weights.depth", "b.weights.depth", "seed"]) == ["a.weights.depth", "b.weights.depth", "seed"]
    assert shorten(["model.arch", "arch"]) == ["model.arch", "arch"]


@pytest.mark.parametrize(
    ("runs", "message"),
    [
        ([], "found an empty list"),
        (None, "found NoneType"),
        ([{"seed": 1}], "found a list that contains dict"),
        ([SweepRun("streets", {"seed": 0}), SweepRun("streets", {"seed": 0})], "several runs are named 'streets'"),
        ([SweepRun("streets", {}, "a b"), SweepRun("streets", {}, "a/b")], "several runs are named 'a-b'"),
        ([SweepRun("streets", {}, "..")], "a run has an empty name"),
        ([SweepRun("streets", {}, "x" * 201)], "is too long for a folder; set `name`"),
    ],
)
def test_grids_that_cannot_be_named(runs, message):
    with pytest.raises(GridError, match=re.escape(message)):
        name_runs(runs)


def test_a_grid_file_gets_the_text_after_the_colon(tmp_path):
    path = tmp_path / "grid.py"
    path.write_text(
        "from mtan_jax.sweep import product\n"
        "def get_runs(arg='none'):\n    return product('streets', {'seed': [0, 1], 'x': [arg]})\n"
    )
    assert [run.overrides["x"] for run in load_grid(str(path))] == ["none", "none"]
    assert [run.overrides["x"] for run in load_grid(f"{path}:some")] == ["some", "some"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x = 1\n", "defines no function get_runs"),
        ("\ndef get_runs():\n    return 1 / 0\n", "grid.py, line 3: ZeroDivisionError: division by zero"),
        ("def get_runs():\n    return 5\n", "grid.py: expected a list of mtan_jax.sweep.SweepRun, found int"),
        ("def get_runs(:\n", "SyntaxError"),
    ],
)
def test_bad_grid_files(tmp_path, text, message):
    path = tmp_path / "grid.py"
    path.write_text(text)
    with pytest.raises(GridError, match=re.escape(message)):
        load_grid(str(path))


def test_a_missing_grid_file(tmp_path):
    with pytest.raises(GridError, match=r"there is no file .*; a grid is a Python file that defines get_runs\(\)"):
        load_grid(str(tmp_path / "grid.py"))
