"""Mistakes on the command line, and the fields that can be set there."""

import pathlib

import pytest
from helpers import toy_config

from mtan_jax import main
from mtan_jax.commands import command_line
from mtan_jax.runtime import parallel

ROOT = pathlib.Path(__file__).parents[2]
CONFIG = f"--config={toy_config.__file__}"


@pytest.fixture
def message(run_main):
    """Runs a command that fails; returns its only message."""

    def get(*arguments):
        with pytest.raises(SystemExit) as error:
            run_main(*arguments)
        assert str(error.value).startswith("error: ")
        return str(error.value).removeprefix("error: ")

    return get


def test_mistyped_flags(message):
    streets = f"--config={ROOT}/configs/streets.py"
    assert message() == "--config is required, for example --config=streets or --config=configs/streets.py"
    assert message(CONFIG, "--wrokdir=a") == "Unknown command line flag 'wrokdir'. Did you mean: workdir ?"
    assert "<train|eval|predict|export|summary|plan|config>" in message(CONFIG, "--mode=test")
    assert message(CONFIG, "run") == "unknown arguments: run; flags look like --workdir=runs/streets"
    assert message(f"{streets}:smoke,with=2").startswith(
        "config argument 'with=2' is not known; known: smoke, arch=, backbone=, width=, protocol= "
    )
    assert message("--config=kitti").startswith("--config=kitti: there is no configuration of this name; known names: ")
    assert message("--config=~nobody_here/a.py").startswith(
        "--config=~nobody_here/a.py: the home directory ~nobody_here is unknown"
    )
    assert message("--config").startswith("--config is empty")


def test_unknown_fields(message):
    found = message(CONFIG, "--config.lr=1")
    assert found.startswith(
        "--config.lr=1: config has no field 'lr'; known fields: accumulate, batch_size, checkpoint, "
    )
    found = message(CONFIG, "--config.model.widht=1")
    assert found.endswith(
        "config.model has no field 'widht'; "
        "known fields: adapter_rank, arch, backbone, dtype, init_from, param_dtype, sync_batch_norm, width"
    )
    found = message(CONFIG, "--config.weighting_options.dwa.temp=1")
    assert found.endswith("config.weighting_options.dwa has no field 'temp'; known fields: temperature, variant")
    found = message(CONFIG, "--config.weighting.dwa=1")
    assert found == "--config.weighting.dwa=1: config.weighting is a value and has no fields"
    found = message(CONFIG, "--noconfig.data.agument")
    assert "config.data has no field 'agument'; known fields: augment, " in found
    assert "--config.batch_size=many: " in message(CONFIG, "--config.batch_size=many")


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("config.modle.width = 0.5", "line 4: AttributeError: 'modle'\nDid you mean \"model\""),
        ("config.batch_size = 'many'", "line 4: TypeError: Could not override field 'batch_size'"),
        ("config.seed = 1 / 0", "line 4: ZeroDivisionError: division by zero"),
        ("return None", ": get_config returned NoneType, expected a ConfigDict"),
        ("config.seed = (", "SyntaxError: '(' was never closed (config.py, line 4)"),
    ],
)
def test_mistakes_in_a_configuration_file_are_reported_with_their_line(message, tmp_path, line, expected):
    path = tmp_path / "config.py"
    path.write_text(
        f"from helpers import toy_config\ndef get_config():\n    config = toy_config.get_config()\n    {line}\n"
    )
    found = message(f"--config={path}")
    assert found.startswith(str(path))
    assert expected in found


@pytest.mark.parametrize("form", [["--config=streets:smoke"], ["--config", "streets:smoke"], ["-config=streets:smoke"]])
def test_a_configuration_by_name_from_any_folder(run_main, monkeypatch, tmp_path, capsys, form):
    monkeypatch.chdir(tmp_path)
    run_main(*form, "--mode=summary", "--config.model.width=0.03")
    assert "width 0.03" in capsys.readouterr().out


def test_values_on_the_command_line(run_main, monkeypatch):
    seen = []
    monkeypatch.setattr(main, "run_command", lambda: seen.append(main.CONFIG.value))
    run_main(
        f"--config={ROOT}/configs/streets.py:smoke",
        "--workdir=unused",
        "--config.weighting=static",
        "--config.weighting_options.static.weights.depth=10",
        "--config.tasks=('semantic','depth')",
        "--config.data.options.image_size=64,192",
        "--config.data.options.seed=3",
        "--config.optimizer.clip_norm=1.0",
        "--config.optimizer.warmup=2 steps",
        "--config.optimizer.options={'b1': 0.8}",
        "--config.eval.average_last=3",
        "--config.eval.single_task=(('semantic/miou', 0.4), ('normal/within_11.25', 0.3))",
        "--config.checkpoint.best_metric=depth/abs_error",
        "--noconfig.model.sync_batch_norm",
    )
    (config,) = seen
    assert config.weighting == "static"
    assert config.weighting_options.static.weights.to_dict() == {"semantic": 1.0, "depth": 10.0, "normal": 20.0}
    assert config.tasks == ("semantic", "depth")
    assert config.data.options.image_size == (64, 192)
    assert config.data.options.seed == 3
    assert (config.optimizer.clip_norm, config.optimizer.warmup) == (1.0, "2 steps")
    assert config.optimizer.options.to_dict() == {"b1": 0.8}
    assert config.eval.average_last == 3
    assert dict(config.eval.single_task) == {"semantic/miou": 0.4, "normal/within_11.25": 0.3}
    assert config.checkpoint.best_metric == "depth/abs_error"
    assert config.model.sync_batch_norm is False
    run_main(
        CONFIG,
        "--workdir=unused",
        "--config.data.options={'image_size': (64, 128)}",
        "--config.weighting_options.static.weights={'depth': 2.0}",
    )
    assert seen[1].data.options.image_size == (64, 128)
    assert seen[1].weighting_options.static.weights.to_dict() == {"depth": 2.0}


def test_errors_in_user_code_keep_their_traceback():
    def raised(function):
        try:
            function()
        except Exception as error:
            return error

    assert not command_line.is_readable(raised(lambda: int("x")))
    assert not command_line.is_readable(raised(lambda: {}["x"]))
    assert command_line.is_readable(raised(lambda: pathlib.Path("/no/such/file").read_text()))
    assert command_line.is_readable(raised(lambda: parallel.check_batch_size(3, "config.batch_size")))
