"""Configurations by path and by name, from any folder, and the errors for those that do not exist."""

import pathlib

import pytest
from ml_collections import ConfigDict

from mtan_jax.commands import config_file
from mtan_jax.config import ArgumentError
from mtan_jax.runtime.paths import PathError

ROOT = pathlib.Path(__file__).parents[2]
NAMES = ["cityscapes", "decathlon", "mini_decathlon", "nyuv2", "own_network", "own_schedule", "streets"]
GOOD = "from mtan_jax.config import default_config\ndef get_config(arg=None):\n    return default_config()\n"


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """An empty current folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def message(text):
    with pytest.raises(config_file.ConfigFileError) as error:
        config_file.find_config(text, "--config")
    return str(error.value).removeprefix(f"--config={text}: ")


@pytest.mark.parametrize("name", NAMES)
def test_names(name):
    assert config_file.find_config(name) == config_file.ConfigFile(ROOT / "configs" / f"{name}.py")
    assert str(config_file.find_config(f"{name}:smoke,width=0.5")) == f"{ROOT}/configs/{name}.py:smoke,width=0.5"


def test_known_names():
    assert config_file.known_names() == NAMES


def test_an_installed_package_has_its_own_copy(folder, monkeypatch):
    package = folder / "site-packages" / "mtan_jax"
    for place in (package, package.parent):  # the second belongs to another distribution
        (place / "configs").mkdir(parents=True)
    (package / "configs" / "shipped.py").write_text(GOOD)
    (package.parent / "configs" / "other.py").write_text(GOOD)
    monkeypatch.setattr(config_file, "_PACKAGE", package)
    assert config_file.known_names() == ["shipped"]
    assert config_file.find_config("shipped").path == package / "configs" / "shipped.py"


def test_a_file_comes_before_a_name(folder):
    (folder / "streets").write_text(GOOD)
    assert config_file.find_config("streets:x") == config_file.ConfigFile(pathlib.Path("streets"), "x")


def test_a_folder_does_not_hide_a_name(folder):
    (folder / "streets").mkdir()
    assert config_file.find_config("streets").path == ROOT / "configs" / "streets.py"


def test_paths(folder, monkeypatch):
    (folder / "mine.py").write_text(GOOD)
    monkeypatch.setenv("HOME", str(folder))
    for text in ("mine.py", f"{folder}/mine.py", "~/mine.py"):
        assert config_file.find_config(text).path.samefile(folder / "mine.py")


def test_unknown_names():
    known = f"known names: {', '.join(NAMES)}"
    assert message("kitti") == f"there is no configuration of this name; {known}"
    assert message("street:smoke") == f"there is no configuration of this name; did you mean streets? {known}"


def test_wrong_paths(folder):
    known = f"known names: {', '.join(NAMES)}"
    use_name = "there is no such file; use the name nyuv2 for the configuration that ships with mtan_jax"
    assert message("configs/nyuv2.py") == message("nyuv2.py:smoke") == use_name
    assert message("configs/kitti.py") == f"there is no such file; {known}"
    (folder / "configs").mkdir()
    (folder / "configs" / "tool.py").write_text("")
    assert message("configs") == f"this is a folder; {known}"
    for name in ("b", "a"):
        (folder / "configs" / f"{name}.py").write_text(GOOD)
    assert message("configs/kitti.py") == "there is no such file; its folder has configs/a.py, configs/b.py"
    assert message("configs/") == "this is a folder; give one of its files: configs/a.py, configs/b.py"
    assert message("configs/a") == "there is no such file; use configs/a.py"


def test_unusable_paths():
    with pytest.raises(PathError, match="--config is empty"):
        config_file.find_config(":smoke", "--config")
    with pytest.raises(PathError, match=r"--config=gs://bucket/a\.py"):
        config_file.find_config("gs://bucket/a.py", "--config")


def test_load_config():
    whole, smoke = config_file.load_config("streets"), config_file.load_config("streets:smoke,width=0.5")
    assert (whole.duration, smoke.duration) == ("2400 steps", "4 steps")
    assert smoke.model.width == 0.5
    assert config_file.load_config(ROOT / "configs" / "streets.py").to_dict() == whole.to_dict()
    with pytest.raises(ArgumentError, match="with=2"):
        config_file.load_config("streets:with=2")


def test_files_that_are_no_configuration(folder):
    path = folder / "config.py"
    path.write_text("")
    with pytest.raises(config_file.ConfigFileError, match="defines no function get_config"):
        config_file.load_config(path)
    path.write_text("def get_config():\n    return {}\n")
    with pytest.raises(config_file.ConfigFileError, match="get_config returned dict, expected a ConfigDict"):
        config_file.load_config(path)
    path.write_text("def get_config():\n    return 1 / 0\n")
    with pytest.raises(ZeroDivisionError):  # from Python, with its traceback
        config_file.load_config(path)
    path.write_text("from ml_collections import ConfigDict\nget_config = ConfigDict\n")
    assert isinstance(config_file.load_config(path), ConfigDict)
