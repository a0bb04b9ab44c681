"""The code in docs/datasets.md runs as written."""

import pathlib
import re

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image

PAGE = pathlib.Path(__file__).parents[2] / "docs" / "datasets.md"


def blocks():
    return re.findall(r"```python\n(.*?)```", PAGE.read_text(), flags=re.DOTALL)


def test_own_dataset_and_reading_it_with_plain_tfds(tmp_path, monkeypatch):
    for split, size in {"train": 3, "val": 2}.items():
        for kind, dtype in {"image": np.uint8, "depth": np.uint16}.items():
            (tmp_path / "raw" / split / kind).mkdir(parents=True)
            for index in range(size):
                array = np.full((120, 160, 3) if kind == "image" else (120, 160), 100 + index, dtype)
                Image.fromarray(array).save(tmp_path / "raw" / split / kind / f"{index}.png")
    reading, own = blocks()
    names = {}
    exec(compile(own, str(PAGE), "exec"), names)
    monkeypatch.setattr(names["Rooms"], "split_sizes", lambda self: {"train": 3, "val": 2})
    builder = names["DATASETS"]["rooms"](data_dir=str(tmp_path / "prepared"), raw_dir=str(tmp_path / "raw"))
    builder.prepare()
    example = tfds.builder_from_directory(builder.data_dir).as_data_source("train")[2]
    assert (example["image"] == 102).all()
    np.testing.assert_array_equal(example["depth"], np.full((96, 128, 1), 0.102, np.float32))
    # The code on the page, with the folder of this dataset.
    reading = reading.replace('"~/tensorflow_datasets/nyuv2/13-288x384-release/1.1.0"', repr(builder.data_dir))
    reading = reading.replace('"nyuv2/13-288x384-release:1.1.0"', '"rooms/96x128:1.0.0"')
    reading = reading.replace('"~/tensorflow_datasets"', repr(str(tmp_path / "prepared")))
    reading = reading.replace('train[0]["semantic"], ', "").replace('train[0]["normal"], ', "")
    read = {}
    exec(compile(reading, str(PAGE), "exec"), read)
    assert len(read["train"]) == 3
    assert read["val"][1]["id"] == b"val/1"
