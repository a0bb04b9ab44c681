"""The challenge's results file."""

import json

import numpy as np
import pytest

from mtan_jax.data.decathlon.results import coco_results, image_id, write_results


def test_results_by_hand(tmp_path):
    ids = {"dtd": [31, 30, 35], "svhn": np.array([7, 8])}
    predictions = {"svhn": [(3001, 1)], "dtd": [(2001, 0), (np.int64(2002), np.int32(2)), (2003, 0)]}
    results = coco_results(predictions, ids)
    assert results == [
        {"image_id": 3001, "category_id": 8},
        {"image_id": 2001, "category_id": 31},
        {"image_id": 2002, "category_id": 35},
        {"image_id": 2003, "category_id": 31},
    ]
    write_results(tmp_path / "results.json", results)
    assert json.loads((tmp_path / "results.json").read_text()) == results


@pytest.mark.parametrize(
    ("predictions", "message"),
    [
        ({"svhn": [(1, 0)]}, "'svhn' has no category ids; got those of dtd"),
        ({"dtd": [(1, 2)]}, "dtd: image 1 has the label 2, but there are only category ids for labels 0 to 1"),
        ({"dtd": [(1, -1)]}, "dtd: image 1 has the label -1"),
        ({"dtd": [(1, 0), (1, 1)]}, "dtd: image 1 has two predictions"),
    ],
)
def test_results_are_checked(predictions, message):
    with pytest.raises(ValueError, match=message):
        coco_results(predictions, {"dtd": [30, 31]})


def test_image_ids():
    assert image_id("vgg-flowers/test/10000001") == 10000001
    for other in ("dtd/train/0001/000001.jpg", "dtd/test/000001.jpg", "dtd/val/12", ""):
        with pytest.raises(ValueError, match=f"The example '{other}' has no challenge id"):
            image_id(other)
