"""A raw release in `<data_dir>/downloads/manual/NAME` is used as if `raw_dir` named it."""

import os
import shutil

import numpy as np
import pytest
import tensorflow_datasets as tfds
from helpers import npy_release
from helpers.cityscapes_release import write_release
from helpers.decathlon_release import TFDSCopy, write_folders, write_official
from helpers.nyuv2_release import frames, write_mat
from helpers.toy_data import ToyBuilder

from mtan_jax.data import Cityscapes, Decathlon, MiniDecathlon, NYUv2, Streets
from mtan_jax.data.errors import RawDataError

SIZE = (32, 64)


def manual(tmp_path, name):
    return tmp_path / "data" / "downloads" / "manual" / name


def make(cls, tmp_path, **options):
    return cls(**{"data_dir": str(tmp_path / "data"), "image_size": SIZE, **options})


def write_cityscapes(folder, zips=False):
    image = (npy_release.draw(SIZE, 0)["image"] * 255).astype(np.uint8)
    semantic = npy_release.draw(SIZE, 0, 7)["label"].astype(np.int8)
    inverse_depth = npy_release.draw(SIZE, 0)["depth"].astype(np.float32) / 100
    scene = {"image": image, "semantic": semantic, "inverse_depth": inverse_depth}
    scene |= {"city": "ulm", "camera": {"fx": 2000.0, "baseline": 0.2}}
    write_release(folder, [scene | {"split": split} for split in ("train", "val")], zips)


def write_nyuv2(folder):
    write_mat(folder, frames())


def write_authors(folder):
    npy_release.write(folder, SIZE, (1, 1))


DENSE = {
    "cityscapes": (Cityscapes, write_cityscapes, "7-32x64-disparity-release"),
    "cityscapes zips": (Cityscapes, lambda folder: write_cityscapes(folder, zips=True), "7-32x64-disparity-release"),
    "nyuv2": (NYUv2, write_nyuv2, "13-32x64-release"),
    "nyuv2 authors": (NYUv2, write_authors, "13-32x64-authors"),
}


@pytest.mark.parametrize("case", DENSE)
def test_a_dense_release_gives_the_same_as_with_raw_dir(tmp_path, case):
    cls, write, variant = DENSE[case]
    folder = manual(tmp_path, cls.name)
    write(folder)
    found = make(cls, tmp_path)
    assert found.raw_dir == str(folder)
    found.prepare()
    assert f"/{variant}/" in os.fspath(found.data_dir)
    shutil.copytree(folder, tmp_path / "raw")
    named = make(cls, tmp_path, data_dir=str(tmp_path / "other"), raw_dir=str(tmp_path / "raw"))
    named.prepare()
    for split in ("train", "val"):
        for here, there in zip(found.as_data_source(split), named.as_data_source(split), strict=True):
            assert here["id"] == there["id"]
            for name in ("image", *found.targets):
                np.testing.assert_array_equal(here[name], there[name])


def test_data_prepared_with_raw_dir_are_used_with_and_without_the_same_files(tmp_path):
    write_cityscapes(tmp_path / "raw")
    make(Cityscapes, tmp_path, raw_dir=str(tmp_path / "raw")).prepare()
    data = make(Cityscapes, tmp_path)
    assert data.raw_dir is None
    data.prepare()
    assert data.is_prepared()
    shutil.copytree(tmp_path / "raw", manual(tmp_path, "cityscapes"))  # with its times
    make(Cityscapes, tmp_path).prepare()
    shutil.rmtree(tmp_path / "raw")
    make(Cityscapes, tmp_path).prepare()


def test_a_release_that_differs_from_the_prepared_data_is_an_error(tmp_path):
    write_cityscapes(tmp_path / "raw")
    data = make(Cityscapes, tmp_path, raw_dir=str(tmp_path / "raw"))
    data.prepare()
    folder = manual(tmp_path, "cityscapes")
    shutil.copytree(tmp_path / "raw", folder)
    changed = folder / "gtFine" / "train" / "ulm" / "ulm_000000_000019_gtFine_labelIds.png"
    os.utime(changed, (0, 0))
    with pytest.raises(RawDataError, match=r"other files than those in .*manual/cityscapes \(1 changed") as error:
        make(Cityscapes, tmp_path).prepare()
    assert f"To use it as it is: move {folder} away." in str(error.value)
    with pytest.raises(RawDataError, match=r"move .*manual/cityscapes away"):  # leaving raw_dir out would not help
        make(Cityscapes, tmp_path, raw_dir=str(folder)).prepare()
    make(Cityscapes, tmp_path, raw_dir=str(tmp_path / "raw")).prepare()
    make(Cityscapes, tmp_path).prepare(again=True)
    make(Cityscapes, tmp_path).prepare()


def test_an_empty_folder_does_not_hide_prepared_data(tmp_path, caplog):
    write_cityscapes(tmp_path / "raw")
    make(Cityscapes, tmp_path, raw_dir=str(tmp_path / "raw")).prepare()
    manual(tmp_path, "cityscapes").mkdir(parents=True)
    make(Cityscapes, tmp_path).prepare()
    assert "manual/cityscapes holds no raw cityscapes; using the dataset already prepared in" in caplog.text


def test_another_layout_is_another_variant(tmp_path):
    npy_release.write(tmp_path / "raw", SIZE, (1, 1))
    make(NYUv2, tmp_path, raw_dir=str(tmp_path / "raw")).prepare()
    assert "authors" in os.fspath(make(NYUv2, tmp_path).data_dir)
    write_nyuv2(manual(tmp_path, "nyuv2"))
    assert "release" in os.fspath(make(NYUv2, tmp_path).data_dir)
    assert "authors" in os.fspath(make(NYUv2, tmp_path, layout="authors").data_dir)


@pytest.mark.parametrize("layout", ["official", "folders"])
def test_image_sets(tmp_path, layout):
    folder = manual(tmp_path, "decathlon")
    folder.mkdir(parents=True)
    if layout == "official":
        write_official(folder, "svhn", 10)
    else:
        write_folders(folder, "svhn", {"train": {"a": 2, "b": 1}, "val": {"a": 1, "b": 1}})
    data = make(Decathlon, tmp_path, datasets=("svhn",))
    data.prepare()
    (builder,) = data.builders.values()
    assert f"/svhn-{layout}/" in os.fspath(builder.data_dir)
    assert builder.raw_dir == str(folder)
    assert len(builder.as_data_source("train")) == (20 if layout == "official" else 3)


def test_a_copy_of_tfds(tmp_path):
    folder = manual(tmp_path, "decathlon")
    TFDSCopy("svhn", 10, data_dir=str(folder), file_format="array_record").download_and_prepare()
    data = make(Decathlon, tmp_path, datasets=("svhn",))
    data.prepare()
    assert "/svhn-tfds/" in os.fspath(data.builders["svhn"].data_dir)


# Errors


@pytest.mark.parametrize("cls", [Cityscapes, NYUv2])
def test_the_error_names_both_places(tmp_path, cls):
    with pytest.raises(RawDataError) as error:
        make(cls, tmp_path).prepare()
    start, rest = str(error.value).split("\n", 1)
    assert start == (
        f"{make(cls, tmp_path).raw_layout.dataset} is not prepared in {tmp_path}/data, and its raw release is neither "
        f"in config.data.raw_dir (not set) nor in {manual(tmp_path, cls.name)}. Put it there or name its folder with "
        "--config.data.raw_dir=FOLDER."
    )
    assert rest.startswith("  Expected there (layout 'release'):\n    ")
    assert "None" not in rest
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize("layout", ["auto", "official", "folders", "tfds"])
def test_the_error_names_the_sets(tmp_path, layout):
    data = make(Decathlon, tmp_path, datasets=("dtd", "svhn"), layout=layout)
    with pytest.raises(RawDataError) as error:
        data.prepare()
    assert f"neither in config.data.raw_dir (not set) nor in {manual(tmp_path, 'decathlon')}." in str(error.value)
    assert str(error.value).startswith("Visual Decathlon: the dataset 'dtd' is not prepared in ")
    assert str(error.value).endswith("Sets that are not prepared yet: dtd, svhn.")
    if layout in ("folders", "tfds"):
        with pytest.raises(RawDataError, match=r"neither in config.data.raw_dir \(not set\) nor in"):
            assert data.data_info


def test_data_that_cannot_be_prepared_again_say_so(tmp_path):
    write_nyuv2(tmp_path / "raw")
    make(NYUv2, tmp_path, raw_dir=str(tmp_path / "raw")).prepare()
    with pytest.raises(RawDataError, match=r"^NYUv2 cannot be prepared again in .*: its raw release is neither in"):
        make(NYUv2, tmp_path).prepare(again=True)
    assert make(NYUv2, tmp_path).is_prepared()


class Own(ToyBuilder):
    """A user's dataset with raw files, without a layout."""

    name = "own"

    def raw_files(self):
        return [f"{self.raw_dir}/file"]


def test_a_dataset_of_ones_own(tmp_path):
    with pytest.raises(RawDataError, match=r"^own is not prepared in .*nor in .*/downloads/manual/own\. Put it there"):
        Own(data_dir=str(tmp_path / "data")).prepare()
    manual(tmp_path, "own").mkdir(parents=True)
    (manual(tmp_path, "own") / "file").write_text("1")
    data = Own(data_dir=str(tmp_path / "data"))
    data.prepare()
    assert data.is_prepared()


@pytest.mark.parametrize(("cls", "name"), [(Streets, "streets"), (MiniDecathlon, "mini_decathlon")])
def test_datasets_without_a_raw_release_ignore_the_folder(tmp_path, cls, name):
    manual(tmp_path, name).mkdir(parents=True)
    data = make(cls, tmp_path, train_examples=1)
    builders = data.builders.values() if name == "mini_decathlon" else [data]
    assert all(builder.raw_dir is None for builder in builders)


def test_the_default_data_dir_is_that_of_tfds(tmp_path, monkeypatch):
    monkeypatch.setattr(tfds.core.constants, "DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "data"))
    manual(tmp_path, "nyuv2").mkdir(parents=True)
    assert NYUv2().raw_dir == str(manual(tmp_path, "nyuv2"))
