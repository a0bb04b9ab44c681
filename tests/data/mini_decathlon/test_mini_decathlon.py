import io

import numpy as np
import pytest
from PIL import Image

from mtan_jax.data.mini_decathlon import SETS, DrawnSet, MiniDecathlon
from mtan_jax.data.mini_decathlon.builder import SPLITS
from mtan_jax.data.mini_decathlon.canvas import Canvas
from mtan_jax.data.mini_decathlon.glyphs import alphabet
from mtan_jax.data.mini_decathlon.outlines import arc, placed
from mtan_jax.data.mini_decathlon.patterns import PATTERNS
from mtan_jax.data.raw.image_files import read_rgb

each_set = pytest.mark.parametrize("name", SETS)


def _examples(name, split, count, **options):
    drawn = DrawnSet(set_name=name, data_dir="/nowhere", **{f"{split}_examples": count}, **options)
    return [drawn.example(split, index) for index in range(count)]


def _pixels(examples):
    return np.stack([read_rgb(example["image"], example["id"]) for example in examples])


@each_set
def test_an_example_depends_on_seed_split_and_index_alone(name):
    few, more = _examples(name, "train", 3), _examples(name, "train", 6, val_examples=1)
    assert more[:3] == few
    assert [example["id"] for example in more[3:]] == [f"{name}/train/{index:06d}" for index in (3, 4, 5)]
    images = [
        example["image"]
        for others in (more, _examples(name, "val", 6), _examples(name, "train", 6, seed=1))
        for example in others
    ]
    assert len(set(images)) == 18


@each_set
def test_sets_share_no_randomness_and_labels_take_turns(name):
    place, classes = list(SETS).index(name), len(SETS[name].classes)
    examples = _examples(name, "val", classes + 2)
    assert [example["label"] for example in examples] == [*range(classes), 0, 1]
    for index in (0, classes + 1):
        rng = np.random.default_rng([0, place, SPLITS["val"], index])
        expected = SETS[name].draw(Canvas(32, 32), index % classes, rng)
        np.testing.assert_array_equal(_pixels(examples[index : index + 1])[0], expected)


@each_set
def test_another_size_shows_the_same_scenes(name):
    def coarse(size):
        images = [Image.open(io.BytesIO(example["image"])) for example in _examples(name, "val", 10, image_size=size)]
        assert {image.size for image in images} == {size[::-1]}
        maps = np.stack([np.asarray(image.resize((8, 8), Image.Resampling.BOX), float).ravel() for image in images])
        maps -= maps.mean(1, keepdims=True)
        return maps / np.linalg.norm(maps, axis=1, keepdims=True)

    correlation = coarse((32, 32)) @ coarse((48, 48)).T
    assert (correlation.argmax(1) == np.arange(10)).all()
    # Noise is drawn anew for each size; it is as strong as the scene in the pictures of the least contrast.
    assert np.median(np.diag(correlation)) > 0.9


@each_set
def test_wide_pictures_are_square_ones_with_more_at_the_sides(name):
    square = _pixels(_examples(name, "val", 20, image_size=(32, 32))).astype(float)
    wide = _pixels(_examples(name, "val", 20, image_size=(32, 48)))[:, :, 8:40].astype(float)
    centred = [maps - maps.mean((1, 2, 3), keepdims=True) for maps in (square, wide)]
    correlation = (centred[0] * centred[1]).sum((1, 2, 3))
    correlation /= np.sqrt(np.square(centred[0]).sum((1, 2, 3)) * np.square(centred[1]).sum((1, 2, 3)))
    # Of single pixels, with noise drawn anew in each; a stretched or moved scene has hardly any.
    assert np.median(correlation) > 0.6


def test_prepared_sets_keep_pictures_labels_and_statistics(tmp_path):
    options = {"data_dir": str(tmp_path), "train_examples": 7, "val_examples": 4, "datasets": ("signs", "glyphs")}
    MiniDecathlon(**options).prepare()
    prepared = MiniDecathlon(**options)
    assert prepared.targets == ("signs", "glyphs")
    assert prepared.data_info.image_size == (32, 32)
    for name, builder in prepared.builders.items():
        train, val = (list(builder.as_data_source(split)) for split in SPLITS)
        assert (len(train), len(val)) == (7, 4)
        images = np.stack([example["image"] for example in train])
        np.testing.assert_array_equal(images, _pixels(_examples(name, "train", 7)))
        assert [int(example["label"]) for example in train] == list(range(7))
        found = prepared.data_info.sets[name]
        # Sums of 7168 numbers in another order.
        np.testing.assert_allclose(found.mean, (images / 255).mean((0, 1, 2)), rtol=1e-9)
        np.testing.assert_allclose(found.std, (images / 255).std((0, 1, 2)), rtol=1e-9)
        assert found.classes == SETS[name].classes


def test_folders_tell_apart_what_differs(tmp_path):
    variants = [{}, {"seed": 1}, {"image_size": (48, 48)}, {"train_examples": 9}, {"val_examples": 9}]
    folders = {
        str(builder.data_path)
        for options in variants
        for builder in MiniDecathlon(data_dir=str(tmp_path), **options).builders.values()
    }
    assert len(folders) == len(variants) * len(SETS)


def test_numbers_of_examples_are_caps(tmp_path):
    builders = MiniDecathlon(data_dir=str(tmp_path), train_examples=500, val_examples=10**6).builders
    assert builders["glyphs"].split_sizes() == {"train": 360, "val": 360}
    assert builders["objects"].split_sizes() == {"train": 500, "val": 1000}
    assert {name: builder.flip for name, builder in builders.items()} == {
        **dict.fromkeys(("objects", "shapes", "textures"), True),
        **dict.fromkeys(("glyphs", "digits", "signs"), False),
    }


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"datasets": ()}, r"datasets is \(\); expected a sequence of different names from objects, shapes"),
        ({"datasets": "glyphs"}, r"datasets is 'glyphs'; expected a sequence"),
        ({"datasets": ("glyphs", "glyphs")}, r"datasets is \('glyphs', 'glyphs'\); expected a sequence of different"),
        ({"datasets": ("glyphs", "birds")}, r"there is no set 'birds'; choose from objects, shapes, textures"),
        ({"train_examples": 0}, r"train_examples is 0; it must be at least 1, or None"),
        ({"val_examples": -2}, r"val_examples is -2; it must be at least 1, or None"),
        ({"seed": -1}, r"seed is -1; it must be 0 or greater"),
        ({"image_size": (32, 0)}, r"image_size: got \(32, 0\); expected height and width"),
    ],
)
def test_wrong_arguments_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        MiniDecathlon(**options)


def test_glyphs_are_the_same_characters_for_all_seeds():
    def averages(seed):
        maps = _pixels(_examples("glyphs", "train", 360, seed=seed)).astype(float)[..., 0]
        maps = maps.reshape(10, 36, -1).mean(0)  # labels take turns
        maps -= maps.mean(1, keepdims=True)
        return maps / np.linalg.norm(maps, axis=1, keepdims=True)

    nearest = (averages(0) @ averages(1).T).argmax(1)
    # Averages of 10 unsteady hands; of other characters, 1 in 36 would fit by chance.
    assert (nearest == np.arange(36)).mean() > 0.7


def test_the_alphabet_is_that_of_version_1():
    points = np.concatenate([np.concatenate(strokes) for strokes in alphabet()])
    assert points.shape == (364, 2)
    # Of what `alphabet` gave when the version was made: another one is another data set, and needs another version.
    np.testing.assert_allclose(np.arange(364) @ points, [304.366667, -1147.546667], atol=1e-5)


def test_masks_have_the_areas_of_what_they_show():
    canvas = Canvas(40, 60)
    unit = 20**2  # pixels in an area of 1
    disc = arc((0.3, -0.1), (0.6, 0.6), 0, 355)
    hole = arc((0.3, -0.1), (0.3, 0.3), 0, 355)
    line = placed(np.array([(-0.5, 0), (0.5, 0)]), np.array([0.2, 0.1]), 1.2, 0.5)
    # Borders are found to a part of a pixel, of which there are some 80 along the disc.
    assert canvas.area(disc).sum() == pytest.approx(np.pi * 0.36 * unit, rel=0.02)
    assert canvas.area(disc, hole).sum() == pytest.approx(np.pi * (0.36 - 0.09) * unit, rel=0.02)
    assert canvas.strokes([line], 0.2).sum() == pytest.approx((1.2 * 0.2 + np.pi * 0.01) * unit, rel=0.03)
    rows, columns = np.indices((40, 60)) + 0.5
    for mask, (x, y) in ((canvas.area(disc), (0.3, -0.1)), (canvas.strokes([line], 0.2), (0.2, 0.1))):
        middle = [(mask * columns).sum() / mask.sum(), (mask * rows).sum() / mask.sum()]
        np.testing.assert_allclose(middle, [30 + 20 * x, 20 + 20 * y], atol=0.05)


def test_angles_turn_clockwise():
    points = placed(np.array([(1.0, 0.0), (0.0, 1.0)]), np.array([2.0, 3.0]), np.array([1.0, 0.5]), np.pi / 2)
    np.testing.assert_allclose(points, [(2, 4), (1.5, 3)], atol=1e-12)


@pytest.mark.parametrize("name", PATTERNS)
def test_patterns_are_within_0_and_1_and_use_much_of_it(name):
    x, y = Canvas(64, 64).grid()
    values = PATTERNS[name](3 * x + 5, 3 * y + 5, np.random.default_rng(0))
    assert values.shape == x.shape
    assert values.min() >= 0
    assert values.max() <= 1
    assert values.std() > 0.12
    assert 0.1 < values.mean() < 0.9


@pytest.mark.parametrize("name", ["stripes", "checks", "grid", "bricks", "weave"])
def test_patterns_come_again(name):
    x, y = Canvas(32, 32).grid()
    # Bricks are 1.25 long, and their rows 0.625 high; the others' period is 1 or 2.
    first, second = (PATTERNS[name](3 * x + shift, 3 * y + shift, np.random.default_rng(0)) for shift in (0, 10))
    assert (np.abs(first - second) > 0.01).mean() < 0.01
