"""Predictions of a trained toy network: what lies in the folder, for a split and for a folder of images."""

import os

import numpy as np
import pytest
from helpers import toy_config
from PIL import Image

from mtan_jax.commands import predict_dense
from mtan_jax.experiment import Experiment
from mtan_jax.runtime import parallel
from mtan_jax.training import loop


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    config = toy_config.get_config()
    config.data.data_dir = str(folder / "data")
    experiment = Experiment.from_config(config)
    experiment.data.prepare()
    loop.train(experiment, folder)
    return experiment, folder


def test_a_split_has_every_example_once_with_its_labels(run):
    experiment, folder = run
    output = predict_dense.predict_split(experiment, folder, "best", "val", 0)
    names = sorted(path.stem for path in output.glob("*.npz"))
    assert names == sorted(path.stem for path in output.glob("*.png")) == [f"toy_val_{i}" for i in range(7)]
    batch = next(experiment.data.whole_split("val"))
    for i in range(4):
        with np.load(output / f"toy_val_{i}.npz", allow_pickle=False) as arrays:
            np.testing.assert_array_equal(arrays["image"], batch["image"][i])
            np.testing.assert_array_equal(arrays["target/semantic"], batch["targets"]["semantic"][i])
            assert ("target/depth" in arrays) == (i % 2 == 0)
            # Each pixel is its own function of its colour, so rows that were mixed up would show.
            colour, probability = arrays["image"].reshape(-1, 3), arrays["prediction/semantic"].reshape(-1, 2)
            odds = probability[:, 0] - probability[:, 1]
            design = np.concatenate([colour, np.ones_like(colour[:, :1])], 1)
            fit = np.linalg.lstsq(design, odds, rcond=None)[0]
            np.testing.assert_allclose(design @ fit, odds, atol=1e-4)


def test_shard_map_predicts_the_same(run, tmp_path, monkeypatch):
    # In runs of several processes, rows were assigned to examples by the height of the images.
    experiment, folder = run
    found = []
    for method in ("pmap", "shard_map"):
        monkeypatch.setattr(parallel, "_method", method)
        again = Experiment.from_config(experiment.config)
        output = predict_dense.predict_split(again, folder, "newest", "val", 6)
        found.append({path.stem: dict(np.load(path)) for path in sorted(output.glob("*.npz"))})
    assert found[0].keys() == found[1].keys()
    for name, arrays in found[0].items():
        for key, array in arrays.items():
            np.testing.assert_allclose(found[1][name][key], array, atol=1e-5)


def test_a_folder_of_images_of_any_size(run, tmp_path):
    experiment, folder = run
    rng = np.random.default_rng(0)
    for name, shape in (("a.png", (30, 50, 3)), ("b.jpg", (8, 12, 3)), ("c.png", (20, 20))):
        Image.fromarray(rng.integers(0, 256, shape).astype(np.uint8)).save(tmp_path / name)
    (tmp_path / "notes.txt").write_text("not an image")
    output = predict_dense.predict_folder(experiment, folder, "newest", tmp_path)
    assert sorted(path.name for path in output.iterdir()) == sorted(
        f"{name}.{suffix}" for name in "abc" for suffix in ("npz", "png")
    )
    with np.load(output / "a.npz", allow_pickle=False) as arrays:
        assert arrays["prediction/normal"].shape == (8, 12, 3)
        assert not [name for name in arrays if name.startswith("target")]


def test_awkward_pictures_are_predicted_as_they_are_meant(run, tmp_path):
    experiment, folder = run
    stored = np.zeros((8, 12, 3), np.uint8)  # on its side: the sky is on the left
    stored[:, :4], stored[:, 4:] = (120, 180, 255), (90, 90, 90)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(stored).save(tmp_path / "phone.png", exif=exif)
    ramp = np.tile(np.linspace(0, 65535, 12).astype(np.uint16), (8, 1))
    Image.fromarray(ramp).save(tmp_path / "grey16.png")
    clear = np.zeros((8, 12, 4), np.uint8)
    Image.fromarray(clear).save(tmp_path / "clear.webp", lossless=True)
    Image.fromarray(clear[..., :3]).save(tmp_path / "clear.tif")
    (tmp_path / "._phone.png").write_bytes(b"no picture")
    (tmp_path / "broken.png").write_bytes(b"no picture")
    name = os.fsdecode(b"caf\xe9")
    Image.fromarray(stored).save(tmp_path / f"{name}.png")
    output = predict_dense.predict_folder(experiment, folder, "newest", tmp_path, skip_unreadable=True)
    names = {"phone", "grey16", "clear.webp", "clear.tif", name}
    assert {path.name for path in output.iterdir()} == {f"{each}.{end}" for each in names for end in ("npz", "png")}
    images = {}
    for each in names:
        with np.load(output / f"{each}.npz", allow_pickle=False) as arrays:
            images[each] = arrays["image"]
    # Upright it is 8 wide and 12 high; resized to 12 wide and 8 high, its upper third is sky.
    np.testing.assert_allclose(images["phone"][0], np.tile(np.array([120, 180, 255]) / 255, (12, 1)), atol=0.01)
    np.testing.assert_allclose(images["phone"][-1], np.full((12, 3), 90 / 255), atol=0.01)
    np.testing.assert_allclose(images["grey16"][3, :, 1], (ramp[3] // 256) / 255, atol=1e-6)
    assert images["clear.webp"].min() == 1  # transparent: white
    assert images["clear.tif"].max() == 0


def test_one_picture_is_predicted(run, tmp_path):
    experiment, folder = run
    for name in "ab":
        Image.new("RGB", (9, 9), "red").save(tmp_path / f"{name}.png")
    output = predict_dense.predict_folder(experiment, folder, "newest", tmp_path / "a.png")
    assert output == folder / "figures" / tmp_path.name
    assert {path.name for path in output.iterdir()} == {"a.npz", "a.png"}


def test_pictures_are_not_overwritten_by_their_results(run):
    experiment, folder = run
    images = folder / "figures" / "own"
    images.mkdir(parents=True)
    Image.new("RGB", (9, 9), "red").save(images / "a.png")
    before = (images / "a.png").read_bytes()
    with pytest.raises(ValueError, match=r"--images=.*own: the results would overwrite these images; rename"):
        predict_dense.predict_folder(experiment, folder, "newest", images)
    assert (images / "a.png").read_bytes() == before


def test_what_cannot_be_predicted(run, tmp_path):
    experiment, folder = run
    with pytest.raises(ValueError, match=r"--images=.*a folder with images"):
        predict_dense.predict_folder(experiment, folder, "newest", tmp_path)
    (tmp_path / "broken.png").write_bytes(b"\x89PNG but no more")
    with pytest.raises(ValueError, match=r"broken.png: cannot be read as a picture"):
        predict_dense.predict_folder(experiment, folder, "newest", tmp_path)
    (tmp_path / "broken.png").unlink()
    for suffix in ("bmp", "png"):
        Image.new("RGB", (9, 9), "red").save(tmp_path / f"{250 * 'x'}.{suffix}")
    with pytest.raises(ValueError, match=r"x.bmp: the name is too long for its results; shorten it by 3 bytes"):
        predict_dense.predict_folder(experiment, folder, "newest", tmp_path)
    with pytest.raises(ValueError, match=r"checkpoint 'last'; expected newest, best, initial or a step"):
        predict_dense.predict_split(experiment, folder, "last", "val", 1)
