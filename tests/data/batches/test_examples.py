import pathlib

import numpy as np
import pytest
from helpers.toy_data import ToyBuilder

from mtan_jax.data.batches.examples import Examples, PreparedDataError


def test_missing_target_is_named_beside_those_there(tmp_path):
    builder = ToyBuilder(data_dir=str(tmp_path))
    builder.prepare()
    with pytest.raises(ValueError, match=r"toy.* has no target 'edges'; it has depth, normal, semantic"):
        Examples(builder.as_data_source("train"), ("depth", "edges"))


def test_empty_source():
    with pytest.raises(ValueError, match="holds no examples"):
        Examples([], ("depth",))


def test_targets_of_ones_own_and_float_images_from_any_sequence():
    image = np.random.default_rng(0).random((2, 3, 3), dtype=np.float32)
    example = {"id": "a", "image": image, "edges": np.ones((2, 3), np.uint8), "labelled": {"edges": True}}
    read = Examples([example], ("edges",))[0]
    np.testing.assert_array_equal(read["image"], image)
    assert read["targets"]["edges"].dtype == np.int32


@pytest.mark.parametrize("damage", ["truncated", "overwritten", "deleted"])
def test_damaged_prepared_data_names_the_folder_and_the_way_out(tmp_path, damage):
    builder = ToyBuilder(data_dir=str(tmp_path))
    builder.prepare()
    (path,) = pathlib.Path(builder.data_dir).glob("toy*train*record*")
    content = path.read_bytes()
    if damage == "deleted":
        path.unlink()
    elif damage == "truncated":
        path.write_bytes(content[: len(content) // 2])
    else:
        middle = len(content) // 2
        path.write_bytes(content[:middle] + b"\x17" * 200 + content[middle + 200 :])
    with pytest.raises(
        PreparedDataError, match=r"(?s)toy.*example \d+ is damaged or missing.*Delete this folder"
    ) as error:
        list(map(Examples(builder.as_data_source("train"), ("depth",)).__getitem__, range(11)))
    assert str(builder.data_dir) in str(error.value)
