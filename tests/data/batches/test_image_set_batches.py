"""Content of the batches of several sets, and their dependence on data, seed and step only."""

import itertools

import numpy as np
import pytest
from helpers.toy_sets import CLASSES, EXAMPLES, SIZE, ToySets, draw
from PIL import Image

from mtan_jax.data.batches import image_set_batches
from mtan_jax.data.batches.set_order import SetOrder
from mtan_jax.data.image_sets import ImageSet, ImageSetsInfo

SIZES = EXAMPLES["train"]


@pytest.fixture(scope="module")
def toy_sets(tmp_path_factory):
    sets = ToySets(data_dir=str(tmp_path_factory.mktemp("toy_sets")))
    sets.prepare()
    return sets


def sources(toy_sets, split):
    return {name: builder.as_data_source(split) for name, builder in toy_sets.builders.items()}


def train(toy_sets, order="random", groups=1, batch_size=4, **changes):
    options = {"seed": 7, "steps": 40, "start_step": 0, "process_index": 0, "process_count": 1}
    options |= {"augment": True, "workers": 0} | changes
    set_order = SetOrder(order, SIZES, batch_size, groups=groups, seed=7)
    return image_set_batches.train_batches(sources(toy_sets, "train"), toy_sets.data_info, set_order, **options)


def assert_equal(a, b):
    assert a["id"].tolist() == b["id"].tolist()
    np.testing.assert_array_equal(a["image"], b["image"])
    for name in CLASSES:
        np.testing.assert_array_equal(a["targets"][name], b["targets"][name])


@pytest.mark.parametrize("groups", [1, 2])
def test_rows_take_turns_among_the_sets_of_a_step(toy_sets, groups):
    plan = SetOrder("random", SIZES, 4, groups=groups, seed=7).plan(40)
    batches = list(train(toy_sets, groups=groups))
    assert len(batches) == 40
    for batch, sets in zip(batches, plan.sets, strict=True):
        names = [list(CLASSES)[i] for i in np.tile(sets, 4 // groups)]
        assert batch["task"].tolist() == np.tile(sets, 4 // groups).tolist()
        assert [name.split("/")[0] for name in batch["id"]] == names
        for name in CLASSES:
            own = np.array(names) == name
            assert batch["labelled"][name].tolist() == own.tolist()
            labels = [int(identity.split("/")[2]) % CLASSES[name] for identity in batch["id"][own]]
            assert batch["targets"][name][own].tolist() == labels
            assert (batch["targets"][name][~own] == -1).all()
        assert batch["weight"].tolist() == [1] * 4
        assert batch["image"].dtype == np.float32


def test_each_set_is_seen_whole_before_any_image_comes_again(toy_sets):
    seen = {name: [] for name in CLASSES}
    for batch in train(toy_sets, order="in_turn", batch_size=2, steps=60):
        for identity in batch["id"]:
            seen[identity.split("/")[0]].append(identity)
    for name, size in SIZES.items():
        first, second = seen[name][:size], seen[name][size : 2 * size]
        assert len(set(first)) == size
        if len(second) == size:
            assert set(second) == set(first)
            assert second != first  # reshuffled


def test_order_of_a_set_does_not_depend_on_the_others(toy_sets):
    alone = ToySets(data_dir=toy_sets.builders["bars"].data_dir, datasets=("bars",))
    alone.builders = {"bars": toy_sets.builders["bars"]}
    set_order = SetOrder("in_turn", {"bars": SIZES["bars"]}, 2)
    options = {"seed": 7, "steps": 5, "start_step": 0, "process_index": 0, "process_count": 1, "augment": True}
    batches = image_set_batches.train_batches(sources(alone, "train"), alone.data_info, set_order, workers=0, **options)
    found = [identity for batch in batches for identity in batch["id"]]
    among = [i for b in train(toy_sets, order="in_turn", batch_size=2, steps=15) for i in b["id"] if "bars" in i]
    assert found == among


@pytest.mark.parametrize("changes", [{"start_step": 13}, {"workers": 2}, {"steps": 60}])
def test_batches_are_the_same_however_they_are_read(toy_sets, changes):
    straight = list(train(toy_sets, groups=2))
    again = list(itertools.islice(train(toy_sets, groups=2, **changes), 40))
    for a, b in zip(straight[changes.get("start_step", 0) :], again, strict=True):
        assert_equal(a, b)


def test_processes_share_the_rows_of_each_set(toy_sets):
    whole = next(train(toy_sets, groups=2, batch_size=8))
    parts = [next(train(toy_sets, groups=2, batch_size=8, process_index=i, process_count=2)) for i in (0, 1)]
    assert all((part["task"] == whole["task"][:4]).all() for part in parts)  # two rows of each set on both
    assert sorted(np.concatenate([part["id"] for part in parts])) == sorted(whole["id"])


def test_another_seed_is_another_order(toy_sets):
    assert next(train(toy_sets, seed=8))["id"].tolist() != next(train(toy_sets))["id"].tolist()


def test_evaluation_passes_every_set_once_and_fills_its_last_batch_up(toy_sets):
    options = {"batch_size": 4, "process_index": 0, "process_count": 1}
    batches = list(image_set_batches.eval_batches(sources(toy_sets, "val"), toy_sets.data_info, **options))
    assert [len(set(batch["task"])) for batch in batches] == [1] * 7  # 5, 6 and 9 images in batches of 4: 2, 2 and 3
    ids = np.concatenate([batch["id"] for batch in batches])
    weights = np.concatenate([batch["weight"] for batch in batches])
    assert ids[weights == 1].tolist() == [f"{n}/val/{i}" for n, size in EXAMPLES["val"].items() for i in range(size)]
    filling = batches[1]
    assert filling["weight"].tolist() == [1, 0, 0, 0]
    assert filling["task"].tolist() == [0, 0, 0, 0]
    assert not filling["image"][1:].any()
    assert not filling["labelled"]["hues"][1:].any()


def test_images_are_normalised_by_their_own_set(toy_sets):
    info = toy_sets.data_info
    images = {name: np.stack([draw(name, "train", i)[0] for i in range(size)]) / 255.0 for name, size in SIZES.items()}
    for name, pixels in images.items():
        np.testing.assert_allclose(info.sets[name].mean, pixels.mean((0, 1, 2)), atol=1e-6)
        np.testing.assert_allclose(info.sets[name].std, pixels.std((0, 1, 2)), atol=1e-6)
    batch = next(train(toy_sets, augment=False))
    name, _, index = batch["id"][0].split("/")
    expected = (images[name][int(index)] - images[name].mean((0, 1, 2))) / images[name].std((0, 1, 2))
    np.testing.assert_allclose(batch["image"][0], expected, atol=1e-5)
    back = image_set_batches.denormalise(batch["image"][0], info.sets[name])
    np.testing.assert_allclose(back, images[name][int(index)], atol=1e-6)


def test_only_sets_that_allow_it_are_mirrored(toy_sets):
    mirrored = dict.fromkeys(CLASSES, 0)
    seen = dict.fromkeys(CLASSES, 0)
    for batch in train(toy_sets, order="in_turn"):
        for identity, image in zip(batch["id"], batch["image"], strict=True):
            name, _, index = identity.split("/")
            stored = draw(name, "train", int(index))[0] / 255.0
            found = image_set_batches.denormalise(image, toy_sets.data_info.sets[name])
            is_mirrored = np.abs(found - stored[:, ::-1]).max() < 1e-5
            assert is_mirrored or np.abs(found - stored).max() < 1e-5
            mirrored[name] += is_mirrored
            seen[name] += 1
    assert mirrored["corners"] == 0
    for name in ("hues", "bars"):  # half of about 52 images, within 4 standard deviations
        assert abs(mirrored[name] / seen[name] - 0.5) < 0.28


class Wide:
    """An undecoded source of images with another aspect ratio."""

    def __init__(self, pictures):
        self._pictures = pictures

    def __len__(self):
        return len(self._pictures)

    def __getitem__(self, index):
        return {"id": str(index), "image": self._pictures[index], "label": 0}


def test_larger_images_are_shrunk_and_cut_out(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 255, (40, 64, 3)).astype(np.uint8)
    path = tmp_path / "wide.png"
    Image.fromarray(pixels).save(path)
    image_set = ImageSet("wide", ("a",), (0.0,) * 3, (1.0,) * 3, flip=True)
    images = image_set_batches.LabelledImages(
        Wide([path.read_bytes()]), ImageSetsInfo("x", SIZE, {"wide": image_set}), "wide"
    )
    # The shorter side becomes 16 and the aspect ratio is kept, as torchvision's Resize(16) does with a Pillow image.
    resized = np.asarray(Image.fromarray(pixels).resize((26, 16), Image.Resampling.BILINEAR))
    np.testing.assert_array_equal(images[0]["image"], resized)
    middle = images.centre_crop(images[0])["image"]
    np.testing.assert_allclose(middle, resized[:, 5:21] / 255.0, atol=1e-6)
    places = set()
    for seed in range(60):
        varied = images.augment(images[0], np.random.default_rng(seed))["image"]
        fits = [
            (left, mirrored)
            for left in range(11)
            for mirrored in (False, True)
            if np.allclose(varied[:, ::-1] if mirrored else varied, resized[:, left : left + 16] / 255.0, atol=1e-6)
        ]
        places.update(fits)
        assert len(fits) == 1
    assert {left for left, _ in places} == set(range(11))  # every position, including the last
    assert {mirrored for _, mirrored in places} == {False, True}


def test_rows_that_cannot_be_shared_are_named(toy_sets):
    with pytest.raises(ValueError, match="batch size 2 is not divisible by 3 processes"):
        train(toy_sets, groups=2, process_count=3)
