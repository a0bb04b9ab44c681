"""Rendered scenes: determinism, geometry, undefined pixels, diversity, and the prepared dataset."""

import numpy as np
import pytest

from mtan_jax.data.streets import Streets, render
from mtan_jax.data.streets.builder import CLASSES, labelled_targets
from mtan_jax.data.streets.render import ARRAYS
from mtan_jax.data.streets.scene import random_scene

SMALL = (64, 128)
FLAT, SKY = CLASSES.index("flat"), CLASSES.index("sky")


@pytest.fixture(scope="module")
def scenes():
    return [render(3, "train", index, SMALL) for index in range(24)]


def _points(scene) -> np.ndarray:
    """Returns camera coordinates (right, up, towards the viewer) from the scene's inverse depth and camera."""
    camera, (height, width) = scene["camera"], scene["semantic"].shape
    y, x = np.mgrid[0:height, 0:width]
    with np.errstate(divide="ignore"):
        depth = 1 / scene["depth"][..., 0].astype(float)
    ray = np.stack([(x - camera["cx"]) / camera["fx"], -(y - camera["cy"]) / camera["fy"], -np.ones(x.shape)], -1)
    return np.where(np.isfinite(depth)[..., None], ray * depth[..., None], np.nan)


def test_rendering_is_deterministic_and_independent_of_other_scenes(scenes):
    again = render(3, "train", 5, SMALL)
    for name, (dtype, channels) in ARRAYS.items():
        assert again[name].dtype == dtype
        assert again[name].shape == (*SMALL, *channels)
        np.testing.assert_array_equal(again[name], scenes[5][name])
    assert again["camera"] == scenes[5]["camera"]


def test_seeds_splits_and_indices_share_no_layout(scenes):
    others = [render(3, "val", 0, SMALL), render(4, "train", 0, SMALL), render(3, "train", 1, SMALL)]
    for other in others:
        assert other["camera"] != scenes[0]["camera"]
        assert (other["semantic"] != scenes[0]["semantic"]).mean() > 0.05
        assert np.abs(other["depth"] - scenes[0]["depth"]).mean() > 0.002


def test_unknown_splits_are_an_error():
    with pytest.raises(ValueError, match=r"split: got 'test'; expected one of train, val"):
        render(0, "test", 0, SMALL)


def test_ground_points_are_on_the_ground_of_the_layout():
    checked = 0
    for index in range(8):
        scene = render(3, "train", index, SMALL)
        layout = random_scene(np.random.default_rng([3, 0, index, 0]), SMALL)
        right, up, forward = layout.camera.rotation
        points = _points(scene) @ np.stack([right, up, -forward]) + layout.camera.eye
        x, y, z = np.moveaxis(points, -1, 0)
        normal = scene["normal"] @ np.stack([right, up, -forward])
        level = (scene["semantic"] == FLAT) & (scene["depth"][..., 0] > 0) & (normal[..., 1] > 0.5)
        street = layout.street
        rise = y[level] - 0.5 * street.profile * z[level] ** 2
        on_road = street.road(x[level], z[level]) > 0.02
        off_road = street.road(x[level], z[level]) < -0.02
        tolerance = 1e-4 * np.maximum(z[level], 10)  # float32 rounding errors grow with distance
        assert (np.abs(rise[on_road]) < tolerance[on_road]).all()
        assert (np.abs(rise[off_road] - street.kerb) < tolerance[off_road]).all()
        expected = np.stack([0 * z[level], np.ones(level.sum()), -street.profile * z[level]], -1)
        expected /= np.linalg.norm(expected, axis=1, keepdims=True)
        np.testing.assert_allclose(normal[level], expected, atol=1e-3)
        checked += level.sum()
    assert checked > 8000


def test_normals_agree_with_differences_of_the_points(scenes):
    errors = []
    for scene in scenes[:8]:
        points, normal = _points(scene), scene["normal"].astype(float)
        across, down = points[1:-1, 2:] - points[1:-1, :-2], points[2:, 1:-1] - points[:-2, 1:-1]
        estimate = np.cross(down, across)
        estimate /= np.linalg.norm(estimate, axis=-1, keepdims=True)
        inner = normal[1:-1, 1:-1]
        # The surface is flat where a window has a single normal and a single class.
        same = np.linalg.norm(inner, axis=-1) > 0.5
        for shift in ((0, 1), (2, 1), (1, 0), (1, 2)):
            rows, columns = (slice(s, s + n) for s, n in zip(shift, inner.shape[:2], strict=True))
            same &= np.abs(normal[rows, columns] - inner).max(-1) < 1e-4
            same &= scene["semantic"][rows, columns] == scene["semantic"][1:-1, 1:-1]
        same &= np.isfinite(estimate).all(-1)
        cosine = (estimate * inner).sum(-1)[same]
        errors.append(np.degrees(np.arccos(np.clip(cosine, -1, 1))))
    error = np.concatenate(errors)
    assert error.size > 10000
    assert np.quantile(error, 0.95) < 0.5  # the rest are windows over two parallel surfaces


def test_normals_are_unit_vectors_that_face_the_camera(scenes):
    for scene in scenes:
        length = np.linalg.norm(scene["normal"], axis=-1)
        defined = length > 0
        np.testing.assert_allclose(length[defined], 1, atol=1e-4)
        both = defined & (scene["depth"][..., 0] > 0)
        assert ((scene["normal"] * _points(scene))[both].sum(-1) < 1e-3).all()


def test_undefined_pixels_follow_the_contract(scenes):
    void, holes = 0, 0
    for scene in scenes:
        sky = scene["semantic"] == SKY
        assert (scene["depth"][sky] == 0).all()
        assert (scene["normal"][sky] == 0).all()
        assert scene["depth"].min() >= 0
        assert scene["depth"].max() < 0.5  # nothing is nearer than two metres
        assert scene["semantic"].min() >= -1
        assert scene["semantic"].max() < len(CLASSES)
        void += (scene["semantic"] == -1).sum()
        classed = (scene["semantic"] >= 0) & ~sky
        assert (np.abs(scene["normal"][classed]).max(-1) > 0).all()
        holes += (scene["depth"][classed] == 0).sum()
    assert 0.01 < void / (len(scenes) * SMALL[0] * SMALL[1]) < 0.1
    assert holes > 50


def test_every_class_appears_and_none_dominates(scenes):
    maps = np.stack([scene["semantic"] for scene in scenes])
    share = dict(zip(CLASSES, [(maps == i).mean() for i in range(len(CLASSES))], strict=True))
    assert 0.25 < share["flat"] < 0.5
    assert 0.15 < share["construction"] < 0.4
    assert min(share["nature"], share["sky"], share["vehicle"]) > 0.03
    assert min(share["human"], share["object"]) > 0.003
    for name in ("human", "object", "vehicle"):
        present = (maps == CLASSES.index(name)).sum((1, 2)) > 10
        assert present.mean() > 0.5


def test_no_constant_normal_or_depth_comes_close(scenes):
    normal = np.concatenate([s["normal"].reshape(-1, 3) for s in scenes]).astype(float)
    normal = normal[np.abs(normal).sum(1) > 0]
    constants = np.random.default_rng(0).normal(size=(300, 3))
    constants /= np.linalg.norm(constants, axis=1, keepdims=True)
    angles = np.degrees(np.arccos(np.clip(normal[::9] @ constants.T, -1, 1)))
    assert angles.mean(0).min() > 40
    depth = np.concatenate([s["depth"].ravel() for s in scenes])
    depth = depth[depth > 0]
    assert np.abs(depth - np.median(depth)).mean() > 0.5 * np.median(depth)


def test_the_layout_does_not_depend_on_the_image_size():
    for index in range(3):
        small, large = render(3, "train", index, SMALL), render(3, "train", index, (128, 256))
        assert large["camera"]["fx"] == pytest.approx(2 * small["camera"]["fx"])
        blocks = large["semantic"].reshape(64, 2, 128, 2)
        # The centre of a small pixel is the corner between four large ones.
        agree = (blocks == small["semantic"][:, None, :, None]).any((1, 3))
        assert agree.mean() > 0.975
        depth = large["depth"].reshape(64, 2, 128, 2)
        between = (depth.min((1, 3)) - 1e-4 <= small["depth"][..., 0]) & (
            small["depth"][..., 0] <= depth.max((1, 3)) + 1e-4
        )
        assert between.mean() > 0.96


def test_images_differ_in_light_and_are_not_clipped(scenes):
    means = np.array([scene["image"].mean() for scene in scenes])
    assert means.std() > 8
    for scene in scenes:
        assert scene["image"].std() > 15
        assert (scene["image"] == 255).mean() < 0.25


def test_each_target_is_missing_once_in_20_scenes():
    for split in ("train", "val"):
        missing: dict[str, list[int]] = {name: [] for name in ("semantic", "depth", "normal")}
        for index in range(100):
            for name, there in labelled_targets(0, split, index).items():
                if not there:
                    missing[name].append(index)
        for name in missing:
            assert [index // 20 for index in missing[name]] == [0, 1, 2, 3, 4]
        assert len({index for indices in missing.values() for index in indices}) == 15


def test_the_prepared_dataset_holds_the_scenes(tmp_path):
    builder = Streets(data_dir=str(tmp_path), image_size=(32, 64), train_examples=20, val_examples=3, seed=3)
    builder.prepare()
    source = builder.as_data_source(split="train")
    assert len(source) == 20
    assert len(builder.as_data_source(split="val")) == 3
    undefined = {"semantic": -1, "depth": 0, "normal": 0}
    missing = 0
    for index, example in enumerate(source):
        assert example["id"] == f"streets/train/{index:06d}".encode()
        scene = render(3, "train", index, (32, 64))
        np.testing.assert_array_equal(example["image"], scene["image"])
        for name, value in undefined.items():
            if example["labelled"][name]:
                np.testing.assert_allclose(example[name], scene[name], atol=1e-3 if name == "normal" else 0)
            else:
                missing += 1
                assert (example[name] == value).all()
    assert missing == 3
    assert example["normal"].dtype == np.float16
    assert Streets(data_dir=str(tmp_path), image_size=(32, 64), train_examples=20, val_examples=3, seed=3).is_prepared()
    assert not Streets(data_dir=str(tmp_path), image_size=(32, 64), train_examples=20, val_examples=3).is_prepared()


@pytest.mark.parametrize(
    ("field", "value"),
    [("image_size", (0, 64)), ("train_examples", 0), ("val_examples", -2), ("seed", -1)],
)
def test_arguments_are_checked(tmp_path, field, value):
    with pytest.raises(ValueError, match=field) as error:
        Streets(data_dir=str(tmp_path), **{field: value})
    assert str(value) in str(error.value)
