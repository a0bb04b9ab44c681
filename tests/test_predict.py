"""Predictions of a trained toy network: what lies in the folder, for a split and for a folder of images."""

import numpy as np
import pytest
import toy_config
from PIL import Image

from mtan_jax import predict, train
from mtan_jax.experiment import Experiment


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    config = toy_config.get_config()
    config.data.data_dir = str(folder / "data")
    experiment = Experiment.from_config(config)
    experiment.prepare_data()
    train.train(experiment, folder)
    return experiment, folder


def test_a_split_has_every_example_once_with_its_labels(run):
    experiment, folder = run
    output = predict.predict_split(experiment, folder, "best", "val", 0)
    names = sorted(path.stem for path in output.glob("*.npz"))
    assert names == sorted(path.stem for path in output.glob("*.png")) == [f"toy_val_{i}" for i in range(7)]
    batch = next(experiment.whole_split("val"))
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


def test_a_folder_of_images_of_any_size(run, tmp_path):
    experiment, folder = run
    rng = np.random.default_rng(0)
    for name, shape in (("a.png", (30, 50, 3)), ("b.jpg", (8, 12, 3)), ("c.png", (20, 20))):
        Image.fromarray(rng.integers(0, 256, shape).astype(np.uint8)).save(tmp_path / name)
    (tmp_path / "notes.txt").write_text("not an image")
    output = predict.predict_folder(experiment, folder, "newest", tmp_path)
    assert sorted(path.name for path in output.iterdir()) == sorted(
        f"{name}.{suffix}" for name in "abc" for suffix in ("npz", "png")
    )
    with np.load(output / "a.npz", allow_pickle=False) as arrays:
        assert arrays["prediction/normal"].shape == (8, 12, 3)
        assert not [name for name in arrays if name.startswith("target")]


def test_what_cannot_be_predicted(run, tmp_path):
    experiment, folder = run
    with pytest.raises(ValueError, match=r"--images=.*a folder with images"):
        predict.predict_folder(experiment, folder, "newest", tmp_path)
    (tmp_path / "broken.png").write_bytes(b"\x89PNG but no more")
    with pytest.raises(ValueError, match=r"broken.png cannot be read as an image"):
        predict.predict_folder(experiment, folder, "newest", tmp_path)
    with pytest.raises(ValueError, match=r"checkpoint 'last': newest, best, initial or a step"):
        predict.predict_split(experiment, folder, "last", "val", 1)
