"""The drawn datasets: determinism, sizes, prepared data, and the drawing primitives."""

import io

import numpy as np
import pytest
from PIL import Image

from mtan_jax.data.mini_decathlon import SETS, DrawnSet, MiniDecathlon
from mtan_jax.data.mini_decathlon.builder import SPLITS
from mtan_jax.data.mini_decathlon.canvas import Canvas
from mtan_jax.data.mini_decathlon.glyphs import alphabet
from mtan_jax.data.mini_decathlon.outlines import arc, place
from mtan_jax.data.mini_decathlon.patterns import PATTERNS
from mtan_jax.data.raw.image_files import read_rgb

each_set = pytest.mark.parametrize("name", SETS)


def _examples(name, split, count, **options):
    drawn = DrawnSet(set_name=name, data_dir="/nowhere", **{f"{split}_examples": count}, **options)
    return [drawn.example(split, index) for index in range(count)]


def _pixels(examples):
    return np.stack([read_rgb(example["image"], example["id"]) for example in examples])


@each_set
def test_an_example_depends_only_on_seed_split_and_index(name):
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
def test_datasets_share_no_randomness_and_labels_cycle(name):
    place, classes = list(SETS).index(name), len(SETS[name].classes)
    examples = _examples(name, "val", classes + 2)
    assert [example["label"] for example in examples] == [*range(classes), 0, 1]
    for index in (0, classes + 1):
        rng = np.random.default_rng([0, place, SPLITS["val"], index])
        expected = SETS[name].draw(Canvas(32, 32), index % classes, rng)
        np.testing.assert_array_equal(_pixels(examples[index : index + 1])[0], expected)


@each_set
def test_scenes_do_not_depend_on_the_image_size(name):
    def coarse(size):
        images = [Image.open(io.BytesIO(example["image"])) for example in _examples(name, "val", 10, image_size=size)]
        assert {image.size for image in images} == {size[::-1]}
        maps = np.stack([np.asarray(image.resize((8, 8), Image.Resampling.BOX), float).ravel() for image in images])
        maps -= maps.mean(1, keepdims=True)
        return maps / np.linalg.norm(maps, axis=1, keepdims=True)

    correlation = coarse((32, 32)) @ coarse((48, 48)).T
    assert (correlation.argmax(1) == np.arange(10)).all()
    # Noise differs between sizes, and is as strong as the scene in the images of lowest contrast.
    assert np.median(np.diag(correlation)) > 0.9


@each_set
def test_wide_images_extend_square_ones_at_the_sides(name):
    square = _pixels(_examples(name, "val", 20, image_size=(32, 32))).astype(float)
    wide = _pixels(_examples(name, "val", 20, image_size=(32, 48)))[:, :, 8:40].astype(float)
    centred = [maps - maps.mean((1, 2, 3), keepdims=True) for maps in (square, wide)]
    correlation = (centred[0] * centred[1]).sum((1, 2, 3))
    correlation /= np.sqrt(np.square(centred[0]).sum((1, 2, 3)) * np.square(centred[1]).sum((1, 2, 3)))
    # Single pixels, each with independent noise; a stretched or shifted scene would hardly correlate.
    assert np.median(correlation) > 0.6


def test_prepared_datasets_have_images_labels_and_statistics(tmp_path):
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
        # The sums of 7168 numbers are in another order.
        np.testing.assert_allclose(found.mean, (images / 255).mean((0, 1, 2)), rtol=1e-9)
        np.testing.assert_allclose(found.std, (images / 255).std((0, 1, 2)), rtol=1e-9)
        assert found.classes == SETS[name].classes


def test_each_variant_has_its_own_folder(tmp_path):
    variants = [{}, {"seed": 1}, {"image_size": (48, 48)}, {"train_examples": 9}, {"val_examples": 9}]
    folders = {
        str(builder.data_path)
        for options in variants
        for builder in MiniDecathlon(data_dir=str(tmp_path), **options).builders.values()
    }
    assert len(folders) == len(variants) * len(SETS)


def test_numbers_of_examples_are_limits(tmp_path):
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
        ({"datasets": ()}, r"got datasets=\(\); expected a sequence of distinct names among objects, shapes"),
        ({"datasets": "glyphs"}, r"got datasets='glyphs'; expected a sequence"),
        ({"datasets": ("glyphs", "glyphs")}, r"got datasets=\('glyphs', 'glyphs'\); expected a sequence of distinct"),
        ({"datasets": ("glyphs", "birds")}, r"unknown dataset 'birds'; expected one of objects, shapes, textures"),
        ({"train_examples": 0}, r"got train_examples=0; expected at least 1, or None"),
        ({"val_examples": -2}, r"got val_examples=-2; expected at least 1, or None"),
        ({"seed": -1}, r"got seed=-1; expected 0 or greater"),
        ({"image_size": (32, 0)}, r"image_size: got \(32, 0\); expected height and width"),
    ],
)
def test_arguments_are_checked(options, message):
    with pytest.raises(ValueError, match=message):
        MiniDecathlon(**options)


def test_glyphs_are_the_same_characters_for_all_seeds():
    def averages(seed):
        maps = _pixels(_examples("glyphs", "train", 360, seed=seed)).astype(float)[..., 0]
        maps = maps.reshape(10, 36, -1).mean(0)  # labels cycle
        maps -= maps.mean(1, keepdims=True)
        return maps / np.linalg.norm(maps, axis=1, keepdims=True)

    nearest = (averages(0) @ averages(1).T).argmax(1)
    # Averages over 10 handwritings. By chance, 1 in 36 characters would match.
    assert (nearest == np.arange(36)).mean() > 0.7


def test_the_alphabet_is_that_of_version_1():
    points = np.concatenate([np.concatenate(strokes) for strokes in alphabet()])
    assert points.shape == (364, 2)
    # Recorded for version 1.0.0. A different alphabet is a different dataset and needs a new version.
    np.testing.assert_allclose(np.arange(364) @ points, [304.366667, -1147.546667], atol=1e-5)


def test_masks_have_the_areas_of_their_shapes():
    canvas = Canvas(40, 60)
    unit = 20**2  # pixels in a unit area
    disc = arc((0.3, -0.1), (0.6, 0.6), 0, 355)
    hole = arc((0.3, -0.1), (0.3, 0.3), 0, 355)
    line = place(np.array([(-0.5, 0), (0.5, 0)]), np.array([0.2, 0.1]), 1.2, 0.5)
    # The border is accurate to a fraction of a pixel, and the disc has about 80 border pixels.
    assert canvas.area(disc).sum() == pytest.approx(np.pi * 0.36 * unit, rel=0.02)
    assert canvas.area(disc, hole).sum() == pytest.approx(np.pi * (0.36 - 0.09) * unit, rel=0.02)
    assert canvas.strokes([line], 0.2).sum() == pytest.approx((1.2 * 0.2 + np.pi * 0.01) * unit, rel=0.03)
    rows, columns = np.indices((40, 60)) + 0.5
    for mask, (x, y) in ((canvas.area(disc), (0.3, -0.1)), (canvas.strokes([line], 0.2), (0.2, 0.1))):
        middle = [(mask * columns).sum() / mask.sum(), (mask * rows).sum() / mask.sum()]
        np.testing.assert_allclose(middle, [30 + 20 * x, 20 + 20 * y], atol=0.05)


def test_rotation_is_clockwise():
    points = place(np.array([(1.0, 0.0), (0.0, 1.0)]), np.array([2.0, 3.0]), np.array([1.0, 0.5]), np.pi / 2)
    np.testing.assert_allclose(points, [(2, 4), (1.5, 3)], atol=1e-12)


@pytest.mark.parametrize("name", PATTERNS)
def test_patterns_stay_in_0_to_1_and_use_much_of_the_range(name):
    x, y = Canvas(64, 64).grid()
    values = PATTERNS[name](3 * x + 5, 3 * y + 5, np.random.default_rng(0))
    assert values.shape == x.shape
    assert values.min() >= 0
    assert values.max() <= 1
    assert values.std() > 0.12
    assert 0.1 < values.mean() < 0.9


@pytest.mark.parametrize("name", ["stripes", "checks", "grid", "bricks", "weave"])
def test_patterns_are_periodic(name):
    x, y = Canvas(32, 32).grid()
    # Bricks are 1.25 long with rows 0.625 high; the other patterns have a period of 1 or 2.
    first, second = (PATTERNS[name](3 * x + shift, 3 * y + shift, np.random.default_rng(0)) for shift in (0, 10))
    assert (np.abs(first - second) > 0.01).mean() < 0.01
