import pathlib

import numpy as np
import pytest

from mtan_jax.data.batches import augment

REFERENCE = pathlib.Path(__file__).parents[2] / "reference" / "augment.npz"  # made by make_augment.py next to it
TOP, LEFT = 2, 3


@pytest.fixture(scope="module")
def stored():
    with np.load(REFERENCE) as arrays:
        return dict(arrays)


def make_example(stored):
    return {
        "image": stored["image"],
        "targets": {name: stored[name] for name in ("semantic", "depth", "normal")},
        "labelled": {"semantic": True},
    }


@pytest.mark.parametrize("scale", [1.2, 1.5])
def test_zoom_equals_pytorch(stored, scale):
    zoomed = augment.zoom(make_example(stored), scale, TOP, LEFT, inverse_depth=False)
    targets = zoomed["targets"]
    np.testing.assert_array_equal(targets["semantic"], stored[f"semantic {scale}"])
    np.testing.assert_allclose(targets["depth"], stored[f"depth {scale}"], rtol=2e-7)  # one rounding of a division
    # PyTorch's positions are float32: off by up to 30 * 6e-8 pixels, times differences of up to 2.
    np.testing.assert_allclose(zoomed["image"], stored[f"image {scale}"], atol=4e-6, rtol=0)
    np.testing.assert_allclose(targets["normal"], stored[f"normal {scale}"], atol=4e-6, rtol=0)
    assert {name: array.dtype for name, array in targets.items()} == {name: stored[name].dtype for name in targets}
    assert zoomed["image"].dtype == np.float32
    assert zoomed["labelled"] == {"semantic": True}


@pytest.mark.parametrize("scale", [1.2, 1.5])
@pytest.mark.parametrize("length", [64, 128, 256, 288, 384, 480, 640, 1024])
def test_nearest_pixels_of_real_sizes_equal_pytorchs(stored, scale, length):
    line = np.arange(int(length / scale))[:, None]
    resized = augment.resize_nearest(line, (length, 1))
    np.testing.assert_array_equal(resized[:, 0], stored[f"nearest {length} {scale}"])


def test_inverse_depth_grows_with_the_zoom(stored):
    example = make_example(stored)
    depth, inverse = (
        augment.zoom(example, 1.5, 0, 0, inverse_depth=inverse)["targets"]["depth"] for inverse in (False, True)
    )
    np.testing.assert_allclose(inverse, depth * 1.5**2, rtol=5e-7)
    assert inverse[0, 0, 0] == np.float32(1.5) * example["targets"]["depth"][0, 0, 0]


def test_undefined_normals_stay_exactly_undefined_and_spread_to_what_touches_them():
    normals = np.zeros((4, 6, 3), np.float32)
    normals[..., 2] = 1
    normals[1, 1] = 0
    example = {"image": np.zeros((4, 6, 3), np.float32), "targets": {"normal": normals}}
    # A crop of 2 x 4 pixels, to 4 x 6: row i maps to row i / 3 of the crop, column j to j * 3 / 5.
    zoomed = augment.zoom(example, 1.5, 0, 0, inverse_depth=False)["targets"]["normal"]
    # Row 0 maps to the crop's row 0, so the undefined pixel has no weight there, nor in columns from 2 * 5 / 3 on.
    touched = np.zeros((4, 6), bool)
    touched[1:, 1:4] = True
    np.testing.assert_array_equal((zoomed == 0).all(axis=-1), touched)
    np.testing.assert_array_equal(zoomed[~touched], np.broadcast_to(np.float32([0, 0, 1]), ((~touched).sum(), 3)))


def test_flip_mirrors_the_scene():
    image = np.arange(6, dtype=np.float32).reshape(1, 2, 3)
    targets = {
        "semantic": np.array([[4, -1]], np.int32),
        "depth": np.array([[[2.0], [0.0]]], np.float32),
        "normal": np.array([[[0.6, 0, 0.8], [0, 0, 0]]], np.float32),
        "edges": np.array([[7, 8]], np.int32),
    }
    flipped = augment.flip({"image": image, "targets": targets})
    np.testing.assert_array_equal(flipped["image"], [[[3, 4, 5], [0, 1, 2]]])
    np.testing.assert_array_equal(flipped["targets"]["semantic"], [[-1, 4]])
    np.testing.assert_array_equal(flipped["targets"]["depth"], [[[0], [2]]])
    np.testing.assert_array_equal(flipped["targets"]["normal"], np.float32([[[0, 0, 0], [-0.6, 0, 0.8]]]))
    np.testing.assert_array_equal(flipped["targets"]["edges"], [[8, 7]])


def coded_example(height=12, width=18):
    """An example whose pixels encode their row and column in every array."""
    rows, columns = np.indices((height, width))
    code = rows * 100 + columns
    return {
        "image": np.stack([rows, columns, code], axis=-1).astype(np.float32),
        "targets": {
            "semantic": code.astype(np.int32),
            "depth": (code[..., None] + 1).astype(np.float32),
            "labels_of_my_own": code.astype(np.int32),
        },
    }


def test_draws_have_the_published_distribution():
    example, draws = coded_example(), []
    for seed in range(600):
        targets = augment.augment(example, np.random.default_rng(seed), inverse_depth=False)["targets"]
        np.testing.assert_array_equal(targets["labels_of_my_own"], targets["semantic"])
        semantic = targets["semantic"]
        flipped = semantic[0, 0] > semantic[0, -1]
        if flipped:
            semantic = semantic[:, ::-1]
        scale = round(float((semantic + 1)[0, 0] / targets["depth"][0, -1 if flipped else 0, 0]), 3)
        draws.append((scale, semantic[0, 0] // 100, semantic[0, 0] % 100, flipped))
    scales, tops, lefts, flips = (np.array(draw) for draw in zip(*draws, strict=True))
    # 600 draws: standard deviations 0.019 (scale) and 0.020 (flip); 4 of them allowed.
    for scale in (1.0, 1.2, 1.5):
        assert abs((scales == scale).mean() - 1 / 3) < 0.08
    assert abs(flips.mean() - 0.5) < 0.08
    # 12 x 18 pixels: crops of 10 x 15 and 8 x 12; the last possible position must occur too.
    for scale, last_top, last_left in ((1.0, 0, 0), (1.2, 2, 3), (1.5, 4, 6)):
        assert set(tops[scales == scale]) == set(range(last_top + 1))
        assert set(lefts[scales == scale]) == set(range(last_left + 1))


def test_same_generator_state_same_result_and_the_example_stays():
    example = coded_example()
    before = coded_example()
    first, second = (augment.augment(example, np.random.default_rng(5), inverse_depth=True) for _ in range(2))
    np.testing.assert_array_equal(first["image"], second["image"])
    np.testing.assert_array_equal(example["image"], before["image"])
    for name, target in before["targets"].items():
        np.testing.assert_array_equal(example["targets"][name], target)
        np.testing.assert_array_equal(first["targets"][name], second["targets"][name])


def test_image_and_targets_stay_together():
    """Checks that labels agree with the interpolated image to less than one pixel."""
    for seed in range(20):
        result = augment.augment(coded_example(), np.random.default_rng(seed), inverse_depth=False)
        semantic = result["targets"]["semantic"]
        assert np.abs(result["image"][..., 0] - semantic // 100).max() < 1
        assert np.abs(result["image"][..., 1] - semantic % 100).max() < 1
