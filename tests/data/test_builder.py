"""Declared targets, and errors for examples that do not match them."""

import tempfile

import numpy as np
import pytest
from helpers.toy_data import SIZE, ToyBuilder

from mtan_jax.data.batches.examples import Examples, blank
from mtan_jax.data.builder import TARGETS, Target


class Changed(ToyBuilder):
    """Toy examples with two more targets, transformed by `change`."""

    targets = ToyBuilder.targets | {"edges": Target(None, np.int8), "flow": Target(2, np.float16)}
    change = dict

    def example(self, split, index):
        example = super().example(split, index)
        edges = np.where(example["semantic"] < 0, -1, example["semantic"] == 1).astype(np.int8)
        more = {"edges": edges, "flow": np.full((*SIZE, 2), 0.5, np.float16)}
        labelled = example["labelled"] | {"edges": True, "flow": False}
        return type(self).change(example | more | {"labelled": labelled})


def test_targets_of_other_names_are_stored_and_read(tmp_path):
    builder = Changed(data_dir=str(tmp_path))
    builder.prepare()
    examples = Examples(builder.as_data_source("val"), ("semantic", "edges", "flow"))
    example = examples[2]
    np.testing.assert_array_equal(example["targets"]["edges"], example["targets"]["semantic"])  # classes -1, 0, 1
    np.testing.assert_array_equal(example["targets"]["flow"], np.full((*SIZE, 2), 0.5))
    assert {name: array.dtype for name, array in example["targets"].items()} == {
        "semantic": np.int32,
        "edges": np.int32,
        "flow": np.float32,
    }
    assert example["labelled"] == {"semantic": True, "edges": True, "flow": False}
    undefined = blank(example)["targets"]
    assert (undefined["edges"] == -1).all()
    assert (undefined["flow"] == 0).all()


def test_nothing_is_left_in_the_folder_for_temporary_files(tmp_path, monkeypatch):
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    builder = Changed(data_dir=str(tmp_path / "data"))
    builder.prepare(workers=1)
    builder.as_data_source("val")
    assert list(temporary.iterdir()) == []


def without(example, name):
    return {key: value for key, value in example.items() if key != name}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda example: without(example, "edges"),
            r"has the arrays depth, flow, image, normal, semantic and `labelled` for depth, edges, flow, normal, "
            r"semantic; Changed\.targets declares semantic, depth, normal, edges, flow for both, besides the image",
        ),
        (lambda example: example | {"masks": 1}, r"has the arrays depth, edges, flow, image, masks, normal, semantic"),
        (
            lambda example: example | {"labelled": without(example["labelled"], "flow")},
            r"`labelled` for depth, edges, normal, semantic; Changed\.targets declares",
        ),
        (
            lambda example: example | {"edges": example["edges"].astype(int)},
            r"edges is int64 \(8, 12\); declared as int8 \(8, 12\)",
        ),
        (
            lambda example: example | {"flow": example["flow"][:4]},
            r"flow is float16 \(4, 12, 2\); declared as float16 \(8, 12, 2\)",
        ),
        (
            lambda example: example | {"image": example["image"] / 255},
            r"image is float64 \(8, 12, 3\); declared as uint8 \(8, 12, 3\)",
        ),
    ],
)
def test_examples_that_are_not_what_is_declared(tmp_path, monkeypatch, change, message):
    monkeypatch.setattr(Changed, "change", staticmethod(change))
    builder = Changed(data_dir=str(tmp_path))
    with pytest.raises(ValueError, match=rf"^changed: the example 'toy/train/0'.*{message}"):
        builder.prepare()
    assert not Changed(data_dir=str(tmp_path)).is_prepared()


@pytest.mark.parametrize(
    ("channels", "dtype"), [(None, np.float32), (1, np.int8), (0, np.float32), (None, np.uint8), (None, np.bool_)]
)
def test_targets_that_cannot_show_what_is_undefined(channels, dtype):
    name = np.dtype(dtype).name
    message = rf"Target\(channels={channels}, dtype={name}\): class maps are signed integers with channels=None"
    with pytest.raises(ValueError, match=message):
        Target(channels, dtype)


def test_a_class_can_be_defined_twice_as_configuration_files_are_read_twice():
    for _ in range(2):

        class Again(ToyBuilder):
            """Noise."""

    assert Again.name == "again"
    assert TARGETS["normal"] == Target(3, np.float32)  # unchanged by the targets of ToyBuilder
