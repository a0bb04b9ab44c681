"""Paths that users give: ~ is expanded in each, and what cannot be used is refused before anything is written."""

import argparse
import importlib.util
import json
import os
import pathlib
import pwd
import shutil

import numpy as np
import pytest
from helpers import toy_config
from PIL import Image

from mtan_jax.experiment import Experiment
from mtan_jax.runtime import paths


@pytest.fixture
def at_home(tmp_path, monkeypatch):
    """An empty home directory, which is also the current one."""
    folder = tmp_path / "home"
    folder.mkdir()
    monkeypatch.setenv("HOME", str(folder))
    monkeypatch.setenv("MPLCONFIGDIR", str(tmp_path / "matplotlib"))
    monkeypatch.chdir(folder)
    return folder


def files_below(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def test_home_directories_are_filled_in(monkeypatch):
    monkeypatch.setenv("HOME", "/somewhere")
    user = pwd.getpwuid(os.getuid())
    assert paths.local("~", "--workdir") == pathlib.Path("/somewhere")
    assert paths.local("~/a", "--workdir") == pathlib.Path("/somewhere/a")
    assert paths.local(f"~{user.pw_name}/a", "--workdir") == pathlib.Path(user.pw_dir, "a")
    for text in ("a", "/a/~", "a/~/b", "run:1", "C:/runs", "runs/a:/b"):
        assert paths.local(text, "--workdir") == pathlib.Path(text)


def test_home_is_filled_in_in_the_arguments_of_a_script(monkeypatch):
    # Named after a fault: --out=~/x of the experiments made a folder called "~".
    monkeypatch.setenv("HOME", "/somewhere")
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=paths.expanded)
    assert parser.parse_args(["--out=~/x"]).out == pathlib.Path("/somewhere/x")
    assert parser.parse_args(["--out=~nobody-here/x"]).out == pathlib.Path("~nobody-here/x")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "--workdir is empty; set a path or omit --workdir"),
        (
            "~nobody-here/a",
            "--workdir=~nobody-here/a: the home directory ~nobody-here is unknown; use an absolute path",
        ),
        *(
            (text, f"--workdir={text}: expected a local path; use a local or mounted folder")
            for text in (
                *("gs://bucket/a", "gs:/bucket/a", "S3://bucket", "http://host/a", "any://thing", "a/gs://b"),
                *("dbfs:/x", "wasbs:/x", "s3n:/x", "git+ssh:/x"),  # made local folders of these names
            )
        ),
    ],
)
def test_paths_that_are_refused(text, message):
    with pytest.raises(paths.PathError) as error:
        paths.local(text, "--workdir")
    assert str(error.value) == message


FIELDS = ["workdir", "images", "output", "config"]
FIELDS += [f"config.{name}" for name in ("data.data_dir", "data.raw_dir", "model.init_from", "compilation_cache")]


@pytest.mark.parametrize("field", FIELDS)
@pytest.mark.parametrize("text", ["s3://bucket/x.npz", "s3:/bucket/x.npz"])
def test_an_unknown_scheme_is_refused_in_every_flag_before_anything_is_written(field, text, at_home, run_main):
    mode = {"images": "predict", "output": "export"}.get(field, "train")
    arguments = {"config": toy_config.__file__, "workdir": "run", "mode": mode, "config.data.data_dir": "data"}
    if field == "output":
        arguments["config"] = f"{pathlib.Path(__file__).parents[1] / 'helpers' / 'tiny_config.py'}"
    arguments[field] = text
    with pytest.raises(SystemExit) as error:
        run_main(*(f"--{name}={value}" for name, value in arguments.items()))
    assert str(error.value).startswith(f"error: --{field}={text}".replace("--config.", "config."))
    is_local = field in ("config", "config.compilation_cache")
    expected = "expected a local path; use a local or mounted folder"
    assert str(error.value).endswith(
        expected if is_local else "only gs:// is supported; use a local folder or gs://BUCKET/FOLDER"
    )
    assert files_below(at_home) == []


def test_home_is_filled_in_in_every_flag(at_home, run_main, capsys):
    # Named after a fault: --workdir=~/run made a folder called "~".
    shutil.copy(toy_config.__file__, at_home / "my_config.py")
    (at_home / "pictures").mkdir()
    Image.fromarray(np.zeros((8, 12, 3), np.uint8)).save(at_home / "pictures" / "a.png")
    (at_home / "raw").mkdir()
    arguments = ["--config=~/my_config.py", "--workdir=~/runs/a", "--config.data.data_dir=~/data"]
    arguments += ["--config.data.raw_dir=~/raw", "--config.compilation_cache=~/cache", "--config.duration=1 steps"]
    run_main(*arguments)
    run_main(*arguments, "--mode=predict", "--images=~/pictures")
    assert (at_home / "runs" / "a" / "figures" / "pictures" / "a.png").exists()
    assert sorted(path.name for path in at_home.iterdir()) == [
        "cache",
        "data",
        "my_config.py",
        "pictures",
        "raw",
        "runs",
    ]


def test_a_run_is_resumed_under_another_spelling(at_home, run_main):
    arguments = [f"--config={toy_config.__file__}", "--workdir=~/run", "--config.duration=1 steps"]
    run_main(*arguments, "--config.data.data_dir=~/data")
    assert json.loads((at_home / "run" / "config.json").read_text())["data.data_dir"] == "~/data"
    run_main(*arguments, f"--config.data.data_dir={at_home}/data")
    run_main(*arguments, "--config.data.data_dir=data", "--mode=eval")


def test_folders_that_cannot_be_used(at_home, run_main, monkeypatch):
    (at_home / "file").touch()
    (at_home / "link").symlink_to("nowhere")
    common = [f"--config={toy_config.__file__}", "--config.data.data_dir=data"]
    not_a_folder = {
        "--workdir=file": "--workdir=file: file is a file; expected a folder",
        "--workdir=file/run": "--workdir=file/run: .*file is a file; expected a folder",
        "--workdir=link/run": "--workdir=link/run: .*link is a broken link; expected a folder",
        "--workdir=": "--workdir is empty; set a path or omit --workdir",
        "--config.data.data_dir=file": "config.data.data_dir=file: file is a file; expected a folder",
        "--config.data.raw_dir=file": "config.data.raw_dir=file: file is a file; expected a folder",
        "--config.data.data_dir=": "config.data.data_dir is empty; set a path or omit config.data.data_dir",
        "--config.model.init_from=": "config.model.init_from is empty",
    }
    for flag, message in not_a_folder.items():
        arguments = [*common, flag] if "workdir" in flag else [*common, "--workdir=run", flag]
        with pytest.raises(SystemExit, match=f"^error: {message}"):
            run_main(*arguments)
    images = {
        "file": "--images=file: 1 of 1 images cannot be read; nothing was predicted",
        "nowhere": "--images=nowhere: not found; expected a folder of images, or one image",
        "": "--images is empty",
    }
    for text, message in images.items():
        with pytest.raises(SystemExit, match=f"^error: {message}"):
            run_main(*common, "--workdir=run", "--mode=predict", f"--images={text}")
    assert files_below(at_home) == ["file", "link"]


def test_a_working_directory_in_a_read_only_place(at_home, run_main, monkeypatch):
    # Root may write anywhere, so the answer of the system is a stand-in.
    (at_home / "closed").mkdir()
    access = os.access
    monkeypatch.setattr(
        os, "access", lambda path, mode: access(path, mode) and not (mode & os.W_OK and "closed" in str(path))
    )
    common = [f"--config={toy_config.__file__}", "--config.data.data_dir=data"]
    message = r"^error: --workdir=closed/run: .*closed is not writable for this user; use another folder or change"
    with pytest.raises(SystemExit, match=message):
        run_main(*common, "--workdir=closed/run")
    assert files_below(at_home) == ["closed"]


def test_an_output_that_cannot_be_written(at_home, run_main):
    (at_home / "folder.npz").mkdir()
    (at_home / "file").touch()
    config = pathlib.Path(__file__).parents[1] / "helpers" / "tiny_config.py"
    for text, message in {
        "folder.npz": "--output=folder.npz is a folder; expected the name of a file",
        "file/x.npz": "--output=file: file is a file; expected a folder",
    }.items():
        with pytest.raises(SystemExit, match=f"^error: {message}"):
            run_main(f"--config={config}", "--workdir=run", "--mode=export", f"--output={text}")


def test_weights_are_found_from_home(at_home):
    # In Python as on the command line: the configuration is read in one place.
    spec = importlib.util.spec_from_file_location(
        "tiny", pathlib.Path(__file__).parents[1] / "helpers" / "tiny_config.py"
    )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    config = module.get_config()
    config.model.init_from = "~/weights.npz"
    with pytest.raises(ValueError, match=f"{at_home}/weights.npz does not exist"):
        Experiment.from_config(config).load_weights()
