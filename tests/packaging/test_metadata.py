"""What an index and an installed package see: version, files, README, entry point, citation."""

import importlib
import pathlib
import re
import runpy
import sys
import types

import pytest
import yaml

import mtan_jax

ROOT = pathlib.Path(__file__).parents[2]


@pytest.fixture
def metadata(monkeypatch):
    """The arguments of `setup` in setup.py. A stand-in for setuptools, which Python 3.12 environments do not have."""
    found = {}
    fake = types.SimpleNamespace(setup=found.update, find_packages=lambda include: ["mtan_jax"])
    monkeypatch.setitem(sys.modules, "setuptools", fake)
    runpy.run_path(str(ROOT / "setup.py"))
    return found


def test_version(metadata):
    assert metadata["version"] == mtan_jax.__version__
    assert re.fullmatch(r"\d+\.\d+\.\d+(rc\d+|\.dev\d+)?", mtan_jax.__version__)


def test_every_data_file_is_packaged(metadata):
    package = ROOT / "mtan_jax"
    packaged = {path for pattern in metadata["package_data"]["mtan_jax"] for path in package.glob(pattern)}
    files = {path for path in package.rglob("*") if path.is_file() and "__pycache__" not in path.parts}
    assert {path for path in files if path.suffix != ".py"} == packaged


def test_configurations_are_a_package_of_plain_files(metadata):
    assert "mtan_jax.configs" in metadata["packages"]
    assert metadata["package_dir"]["mtan_jax.configs"] == "configs"
    assert {path.suffix for path in (ROOT / "configs").iterdir() if path.is_file()} == {
        ".py"
    }  # others need package_data
    assert not (ROOT / "mtan_jax" / "configs").exists()  # a checkout has one copy


def test_published_numbers_are_a_package_of_json_files(metadata):
    """CI compares the files of the wheel."""
    assert "mtan_jax.published" in metadata["packages"]
    assert set(metadata["package_dir"]) == {"mtan_jax.configs", "mtan_jax.published"}
    folder = ROOT / metadata["package_dir"]["mtan_jax.published"]
    packaged = {
        path.name for pattern in metadata["package_data"]["mtan_jax.published"] for path in folder.glob(pattern)
    }
    assert packaged == {path.name for path in folder.iterdir()}  # and no scripts
    assert "nyuv2.json" in packaged
    assert not (ROOT / "mtan_jax" / "published").exists()  # a checkout has one copy


def test_readme_has_absolute_links_to_files_that_exist(metadata):
    links = re.findall(r"(!?)\[[^]]*\]\(([^)]+)\)", metadata["long_description"])
    own = [(image, link) for image, link in links if link.startswith(metadata["project_urls"]["Source"])]
    assert own
    for image, link in own:
        kind, path = link.removeprefix(metadata["project_urls"]["Source"]).split("/main/")
        assert kind == ("/raw" if image else "/blob")
        assert (ROOT / path.partition("#")[0]).exists(), link
    assert all(link.startswith(("https://", "#")) for _, link in links)


def test_console_script(metadata):
    (script,) = metadata["entry_points"]["console_scripts"]
    name, target = script.split(" = ")
    module, function = target.split(":")
    assert name == "mtan-jax"
    assert callable(getattr(importlib.import_module(module), function))


def test_python_versions(metadata):
    least = metadata["python_requires"].removeprefix(">=")
    versions = [c.rpartition(" ")[2] for c in metadata["classifiers"] if "Python :: 3." in c]
    assert versions[0] == least
    ci = (ROOT / ".ci" / "run").read_text()
    assert all(f"find_python {version}" in ci for version in versions)  # what is promised is tested


def test_citation():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert {"cff-version", "message", "title", "authors"} <= citation.keys()  # required by the format
    assert citation["license"] == "MIT"
    assert citation["preferred-citation"]["title"] == "End-to-End Multi-Task Learning with Attention"
