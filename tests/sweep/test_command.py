import pathlib
import re
import shlex

import pytest

from mtan_jax.commands.config_file import load_config
from mtan_jax.sweep import GridError, SweepRun
from mtan_jax.sweep.command import make_commands
from mtan_jax.training.config_record import flatten_config

pytestmark = pytest.mark.filterwarnings(r"ignore:the load_module\(\) method:DeprecationWarning")  # ml_collections' own

FOLDER = pathlib.Path("runs/sweep")


def make(overrides, config="streets:smoke", common=()):
    (command,) = make_commands([SweepRun(config, overrides, "a run")], FOLDER, common)
    return command


def test_every_kind_of_value_reaches_the_configuration():
    overrides = {
        "seed": 3,
        "model": {"arch": "split", "width": 0.5},
        "data.augment": True,
        "tasks": ["depth", "normal"],
        "weighting": [("dwa", {"temperature": 1.0}), "pcgrad"],
        "weighting_options.static.weights": {"depth": 2.5},
        "optimizer.clip_norm": 1.5,
    }
    config = make(overrides).config
    assert (config.seed, config.model.arch, config.model.width, config.data.augment) == (3, "split", 0.5, True)
    assert config.tasks == ("depth", "normal")
    assert config.weighting == (("dwa", {"temperature": 1.0}), "pcgrad")
    assert config.weighting_options.static.weights.to_dict() == {"semantic": 1.0, "depth": 2.5, "normal": 20.0}
    assert config.optimizer.clip_norm == 1.5
    before, after = flatten_config(load_config("streets:smoke")), flatten_config(config)
    assert {name.partition("[")[0] for name in before.keys() | after.keys() if before.get(name) != after.get(name)} == {
        *("seed", "model.arch", "model.width", "data.augment", "tasks", "weighting", "optimizer.clip_norm"),
        "weighting_options.static.weights.depth",
    }


def test_the_command_is_one_line_for_a_shell():
    command = make({"tasks": ("depth",)}, common=["--config.data.raw_dir=/a b"])
    assert shlex.split(str(command)) == [
        *("python", "-m", "mtan_jax.main", "--config=streets:smoke", "--config.tasks=('depth',)"),
        *("--config.data.raw_dir=/a b", "--workdir=runs/sweep/a run"),
    ]
    assert command.config.data.raw_dir == "/a b"


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            {"model.arc": "mtan"},
            "run a run: --config.model.arc=mtan: config.model has no field 'arc'; known",
        ),
        ({"seed.x": 1}, "config.seed is a value and has no fields"),
        ({"seed": "x"}, "flag --config.seed=x: invalid literal for int()"),
        ({"batch_size": 0}, "config.batch_size = 0: expected at least 1"),
        (
            {"model.init_from": None},
            "model.init_from = None cannot be set on a command line; set it in",
        ),
        ({"weighting": len}, "cannot be set on a command line"),
    ],
)
def test_values_that_cannot_be_set(overrides, message):
    with pytest.raises(GridError, match=re.escape(message)):
        make(overrides)


def test_an_unknown_configuration():
    with pytest.raises(GridError, match=r"run a run: .*did you mean streets?"):
        make({}, config="stree")


def test_a_configuration_file_that_fails(tmp_path):
    path = tmp_path / "broken.py"
    path.write_text("def get_config(arg=None):\n    return 1 / 0\n")
    with pytest.raises(GridError, match="run a run: ZeroDivisionError: division by zero"):
        make({}, config=str(path))
