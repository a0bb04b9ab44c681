import dataclasses

import matplotlib as mpl
import numpy as np
import pytest

from mtan_jax.data.builder import DataInfo
from mtan_jax.tasks import rendering

INFO = DataInfo(
    name="toy",
    image_size=(1, 4),
    classes=("ground", "sky"),
    palette=np.array([[128, 64, 128], [70, 130, 180]], np.uint8),
    inverse_depth=True,
    depth_unit="1/m",
)


def test_classes_have_their_colours_and_void_is_black():
    target = np.array([[0, 1, -1, 0]], np.int8)
    expected = [[[128, 64, 128], [70, 130, 180], [0, 0, 0], [128, 64, 128]]]
    np.testing.assert_array_equal(rendering.class_picture(target, INFO), expected)


def test_log_probabilities_show_the_likeliest_class():
    prediction = np.log([[[0.3, 0.7], [0.9, 0.1]]])
    np.testing.assert_array_equal(rendering.class_picture(prediction, INFO), [[[70, 130, 180], [128, 64, 128]]])


@pytest.mark.parametrize(("inverse_depth", "colour_map"), [(True, "magma"), (False, "magma_r")])
def test_depth_spans_the_targets_values(inverse_depth, colour_map):
    info = dataclasses.replace(INFO, inverse_depth=inverse_depth)
    target = np.array([[[2.0], [6.0], [0.0], [4.0]]], np.float32)
    ends = np.array(mpl.colormaps[colour_map]([0, 255]))[:, :3] * 255

    picture = rendering.depth_picture(target, info, target)
    np.testing.assert_allclose(picture[0, :2], ends, atol=1)
    np.testing.assert_array_equal(picture[0, 2], [128] * 3)

    prediction = np.array([[[-1.0], [60.0], [np.nan], [2.0]]], np.float32)
    picture = rendering.depth_picture(prediction, info, target)
    np.testing.assert_allclose(picture[0, [0, 1, 3]], ends[[0, 1, 0]], atol=1)
    np.testing.assert_array_equal(picture[0, 2], [128] * 3)


def test_depth_without_a_defined_pixel_is_grey():
    undefined = np.zeros((2, 2, 1), np.float32)
    for target in (None, undefined):
        np.testing.assert_array_equal(rendering.depth_picture(undefined, INFO, target), np.full((2, 2, 3), 128))


def test_normals_by_hand():
    normals = np.array([[[0, 0, 1], [-1, 0, 0], [0, 0, 0], [0.6, -0.8, 0]]], np.float32)
    expected = [[[128, 128, 255], [0, 128, 128], [128, 128, 128], [204, 26, 128]]]
    picture = rendering.normal_picture(normals, INFO)
    assert picture.dtype == np.uint8
    np.testing.assert_allclose(picture.astype(int), expected, atol=1)
