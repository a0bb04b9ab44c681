"""Datasets in a bucket: prepared once, and read on every machine."""

import numpy as np
import pytest
from helpers import bucket_server
from helpers.cityscapes_release import SIZE, random_scene, write_release

import mtan_jax
from mtan_jax.data.errors import RawDataError
from mtan_jax.experiment import Experiment
from mtan_jax.runtime import bucket, mirror


@pytest.fixture(scope="module")
def shared_server():
    with bucket_server.serving() as server:
        yield server


@pytest.fixture
def machine(shared_server, tmp_path, monkeypatch):
    """Makes this process run on a machine of that name, whose disk holds nothing of the others."""
    yield lambda name: bucket_server.enter_machine(monkeypatch, tmp_path / name)
    shared_server.reset()


def upload_release(tmp_path, seed, folder):
    scenes = [random_scene(split, "aachen", 10 * seed + i) for i, split in enumerate(("train", "train", "val"))]
    write_release(tmp_path / f"raw{seed}", scenes, zips=True)
    bucket.upload({f"bucket/{folder}/{path.name}": path for path in (tmp_path / f"raw{seed}").iterdir()})


def make_experiment(**data):
    config = mtan_jax.load_config("cityscapes:smoke")
    config.data.update({"data_dir": "gs://bucket/data", "prepare_workers": 1, **data})
    config.data.options.image_size = SIZE
    return Experiment.from_config(config)


def images(experiment):
    experiment.data.prepare()
    return np.stack([example["image"] for example in experiment.data.builder.as_data_source("train")])


def test_a_dataset_is_prepared_once_for_all_machines(machine, shared_server, tmp_path):
    machine("first")
    upload_release(tmp_path, 0, "raw")
    expected = images(make_experiment(raw_dir="gs://bucket/raw"))
    assert any(name.endswith("dataset_info.json") for name in shared_server.objects("data"))
    machine("second")
    np.testing.assert_array_equal(images(make_experiment(raw_dir="gs://bucket/raw")), expected)
    assert not list((tmp_path / "second").rglob("*.zip"))  # the raw data were not needed
    bucket.delete([f"bucket/{name}" for name in shared_server.objects("raw")])
    machine("third")
    np.testing.assert_array_equal(images(make_experiment()), expected)
    np.testing.assert_array_equal(images(make_experiment()), expected)  # from its own disk


def test_a_dataset_that_was_prepared_again_replaces_copies(machine, shared_server, tmp_path):
    machine("first")
    upload_release(tmp_path, 0, "raw")
    old = images(make_experiment(raw_dir="gs://bucket/raw"))
    machine("second")
    upload_release(tmp_path, 1, "raw")
    new = images(make_experiment(raw_dir="gs://bucket/raw", prepare="again"))
    assert (new != old).any()
    machine("first")
    np.testing.assert_array_equal(images(make_experiment()), new)


def test_raw_data_in_the_folder_of_manual_downloads(machine, tmp_path):
    machine("first")
    upload_release(tmp_path, 0, "data/downloads/manual/cityscapes")
    assert len(images(make_experiment())) > 0


def test_missing_raw_data_are_named_as_in_the_bucket(machine, shared_server):
    machine("first")
    with pytest.raises(RawDataError) as error:
        make_experiment(raw_dir="gs://bucket/nothing").data.prepare()
    assert "gs://bucket/nothing" in mirror.renamed(str(error.value))
    assert shared_server.objects() == []
