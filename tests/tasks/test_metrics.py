import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import sklearn.metrics

from mtan_jax.tasks import metrics
from mtan_jax.tasks.accumulator import Accumulator

EMPTY = {
    "semantic": lambda protocol="exact": metrics.SemanticMetric.empty(protocol, num_classes=5),
    "depth": metrics.DepthMetric.empty,
    "normal": metrics.NormalMetric.empty,
}
REFERENCE = pathlib.Path(__file__).parents[1] / "reference" / "metrics.npz"
NORMAL_NAMES = ["mean", "median", "within_11.25", "within_22.5", "within_30"]


@pytest.fixture(scope="module")
def reference():
    with np.load(REFERENCE, allow_pickle=False) as stored:
        return dict(stored)


def batches(reference, task):
    return [(reference[f"{i}/{task}/prediction"], reference[f"{i}/{task}/target"]) for i in range(3)]


@jax.jit
def update(state, prediction, target, labelled):
    return state.update(prediction, target, labelled)


def score(task, pairs, protocol="exact"):
    accumulator = Accumulator(EMPTY[task](protocol), protocol)
    for prediction, target in pairs:
        accumulator.add(update(EMPTY[task](protocol), prediction, target, jnp.ones(len(target), bool)))
    return accumulator.compute()


def flat(reference, task):
    pairs = batches(reference, task)
    return tuple(np.concatenate([pair[k].reshape(-1, *pair[k].shape[3:]) for pair in pairs]) for k in (0, 1))


# Exact figures over the split


def test_semantic_agrees_with_scikit_learn(reference):
    prediction, target = flat(reference, "semantic")
    valid = target >= 0
    target, prediction = target[valid], prediction[valid].argmax(axis=-1)
    computed = score("semantic", batches(reference, "semantic"))
    assert computed["miou"] == pytest.approx(sklearn.metrics.jaccard_score(target, prediction, average="macro"))
    assert computed["pixel_accuracy"] == pytest.approx(sklearn.metrics.accuracy_score(target, prediction))

    state = update(EMPTY["semantic"](), *map(jnp.asarray, batches(reference, "semantic")[0]), jnp.ones(2, bool))
    target, prediction = (array.reshape(-1, *array.shape[3:]) for array in batches(reference, "semantic")[0][::-1])
    valid = target >= 0
    expected = sklearn.metrics.confusion_matrix(target[valid], prediction[valid].argmax(axis=-1), labels=range(5))
    np.testing.assert_array_equal(state.confusion_matrix, expected)


def test_depth_agrees_with_float64(reference):
    prediction, target = (array.astype(np.float64) for array in flat(reference, "depth"))
    valid = target != 0
    error = np.abs(prediction - target)[valid]
    computed = score("depth", batches(reference, "depth"))
    # float32 sums of some hundred terms a batch
    assert computed["abs_error"] == pytest.approx(error.mean(), rel=1e-6)
    assert computed["rel_error"] == pytest.approx((error / target[valid]).mean(), rel=1e-6)


def exact_angles(prediction, target):
    """Angles in degrees from the chord, 2 asin(|p - t| / 2): another formula, in float64."""
    prediction, target = (array / np.linalg.norm(array, axis=-1, keepdims=True) for array in (prediction, target))
    chord = np.linalg.norm(prediction - target, axis=-1)
    return np.degrees(2 * np.arcsin(np.clip(chord / 2, 0, 1)))


def test_normal_agrees_with_float64(reference):
    prediction, target = (array.astype(np.float64) for array in flat(reference, "normal"))
    valid = target.any(axis=-1)
    angles = exact_angles(prediction[valid], target[valid])
    computed = score("normal", batches(reference, "normal"))
    assert list(computed) == NORMAL_NAMES
    assert computed["mean"] == pytest.approx(angles.mean(), rel=1e-6)
    assert computed["median"] == pytest.approx(np.median(angles), abs=0.00501)  # half a bin, as the class says
    for limit in (11.25, 22.5, 30):
        assert computed[f"within_{limit:g}"] == pytest.approx((angles < limit).mean(), abs=1e-9)


@pytest.mark.parametrize("degrees", [0.0, 0.001, 0.02, 1.0, 30.009, 89.9, 90.0, 179.99, 180.0])
def test_angles_are_exact_near_0_and_180(degrees):
    axis = np.array([0.48, 0.6, 0.64])
    across = np.cross(axis, [1.0, 0, 0])
    across /= np.linalg.norm(across)
    turned = np.cos(np.radians(degrees)) * axis + np.sin(np.radians(degrees)) * across
    state = update(
        metrics.NormalMetric.empty(),
        jnp.asarray(3 * turned, jnp.float32)[None, None, None],  # the length does not matter
        jnp.asarray(axis, jnp.float32)[None, None, None],
        jnp.ones(1, bool),
    )
    # Rounding the vectors to float32 turns them by up to 1e-5 degrees.
    assert state.compute()["mean"] == pytest.approx(degrees, abs=2e-5)
    assert state.compute()["median"] == pytest.approx(degrees, abs=0.005 + 2e-5)


@pytest.mark.parametrize("broken", [0.0, np.nan])
def test_a_prediction_that_is_no_direction_does_not_look_good(broken):
    target = jnp.ones((1, 2, 2, 3)) / np.sqrt(3)
    computed = update(metrics.NormalMetric.empty(), jnp.full_like(target, broken), target, jnp.ones(1, bool)).compute()
    assert computed["mean"] == 90 or np.isnan(computed["mean"])
    assert computed["median"] > 89
    assert computed["within_30"] == 0


def test_classes_that_never_occur_are_left_out():
    target = jnp.array([[[0, 0, 1, -1]]])
    prediction = jax.nn.one_hot(jnp.array([[[0, 1, 1, 4]]]), 5)
    state = update(EMPTY["semantic"](), prediction, target, jnp.ones(1, bool))
    # Classes 0 and 1 have IoU 1/2; 4 is predicted on a void pixel only, 2 and 3 nowhere.
    assert state.compute() == {"miou": 0.5, "pixel_accuracy": pytest.approx(2 / 3)}


def test_a_class_that_is_only_predicted_counts_as_zero():
    state = update(
        EMPTY["semantic"](), jax.nn.one_hot(jnp.array([[[0, 3]]]), 5), jnp.array([[[0, 0]]]), jnp.ones(1, bool)
    )
    assert state.compute()["miou"] == 0.25


# The authors' figures


def test_protocol_authors_gives_the_authors_numbers(reference):
    semantic = score("semantic", batches(reference, "semantic"), "authors")
    np.testing.assert_allclose([semantic["miou"], semantic["pixel_accuracy"]], reference["semantic"], rtol=1e-6)

    depth = score("depth", batches(reference, "depth"), "authors")
    errors = np.mean([reference[f"{i}/depth/errors"] for i in range(3)], axis=0)
    np.testing.assert_allclose([depth["abs_error"], depth["rel_error"]], errors, rtol=2e-6)

    normal = score("normal", batches(reference, "normal"), "authors")
    errors = np.mean([reference[f"{i}/normal/errors"] for i in range(3)], axis=0)
    # A quarter of the angles is 0, where float32 acos turns one unit in the last place of the dot product into 0.02
    # degrees, and dot products are summed in different orders.
    assert normal["mean"] == pytest.approx(errors[0], abs=0.01)
    assert normal["median"] == pytest.approx(errors[1], abs=0.0051)
    np.testing.assert_allclose([normal[name] for name in NORMAL_NAMES[2:]], errors[2:], rtol=1e-6)


@pytest.mark.parametrize(("length", "degrees"), [(0.5, 60), (1, 0), (2, 0)])
def test_the_authors_angle_depends_on_the_length(length, degrees):
    target = jnp.array([[[[0.0, 0.0, 1.0]]]])
    state = update(metrics.NormalMetric.empty("authors"), length * target, target, jnp.ones(1, bool))
    assert state.compute()["mean"] == pytest.approx(degrees, rel=1e-6)


@pytest.mark.parametrize("task", ["depth", "normal"])
def test_the_protocols_differ_where_batches_are_uneven(reference, task):
    exact, authors = (score(task, batches(reference, task), protocol) for protocol in ("exact", "authors"))
    assert all(abs(exact[name] - authors[name]) > 1e-4 for name in exact)


def test_losses_are_averaged_over_batches_or_pixels():
    states = [metrics.LossMetric(jnp.float32(6), jnp.float32(2)), metrics.LossMetric(jnp.float32(1), jnp.float32(8))]
    computed = {}
    for protocol in ("exact", "authors"):
        accumulator = Accumulator(metrics.LossMetric.empty(), protocol)
        for state in states:
            accumulator.add(state)
        computed[protocol] = accumulator.compute()["loss"]
    assert computed == {"exact": 0.7, "authors": 1.5625}


def test_a_batch_without_labels_is_left_out_of_the_mean_of_batches(reference):
    pairs = batches(reference, "depth")
    nothing = (pairs[0][0], np.zeros_like(pairs[0][1]))
    assert score("depth", [*pairs, nothing], "authors") == score("depth", pairs, "authors")


# Invariances


@pytest.mark.parametrize("protocol", ["exact", "authors"])
@pytest.mark.parametrize("task", EMPTY)
def test_rows_without_a_label_add_nothing(reference, task, protocol):
    prediction, target = map(jnp.asarray, batches(reference, task)[0])
    expected = update(EMPTY[task](protocol), prediction, target, jnp.ones(2, bool))
    garbage = jnp.full_like(target, 77 if task == "semantic" else jnp.nan)
    padded = update(
        EMPTY[task](protocol),
        jnp.concatenate([prediction, jnp.full_like(prediction, jnp.nan)]),
        jnp.concatenate([target, garbage]),
        jnp.array([True, True, False, False]),
    )
    assert_same(padded, expected)


@pytest.mark.parametrize("task", EMPTY)
def test_merged_rows_make_the_whole(reference, task):
    prediction, target = map(jnp.asarray, batches(reference, task)[0])
    whole = update(EMPTY[task](), prediction, target, jnp.ones(2, bool))
    rows = [update(EMPTY[task](), prediction[i : i + 1], target[i : i + 1], jnp.ones(1, bool)) for i in range(2)]
    assert_same(rows[0].merge(rows[1]), whole)
    assert_same(update(rows[0], prediction[1:], target[1:], jnp.ones(1, bool)), whole)


@pytest.mark.parametrize("task", EMPTY)
def test_a_psum_over_devices_makes_the_whole(reference, task):
    prediction, target = map(jnp.asarray, batches(reference, task)[0])
    whole = update(EMPTY[task](), prediction, target, jnp.ones(2, bool))

    def local(prediction, target):
        return jax.lax.psum(update(EMPTY[task](), prediction, target, jnp.ones(1, bool)), "devices")

    summed = jax.pmap(local, axis_name="devices", out_axes=None, devices=jax.devices()[:2])(
        prediction[:, None], target[:, None]
    )
    assert_same(summed, whole)
    vmapped = jax.vmap(lambda p, t: update(EMPTY[task](), p, t, jnp.ones(1, bool)))(
        prediction[:, None], target[:, None]
    )
    assert_same(jax.tree.map(lambda leaf: leaf.sum(axis=0, dtype=leaf.dtype), vmapped), whole)


def assert_same(state, expected):
    """Counts equal, float32 sums equal but for the order of their terms."""
    for leaf, expected_leaf in zip(jax.tree.leaves(state), jax.tree.leaves(expected), strict=True):
        assert leaf.dtype == expected_leaf.dtype
        np.testing.assert_allclose(leaf, expected_leaf, rtol=1e-6 if leaf.dtype.kind == "f" else 0)


@pytest.mark.parametrize("task", EMPTY)
def test_bfloat16_predictions_are_summed_in_float32(reference, task):
    prediction, target = map(jnp.asarray, batches(reference, task)[0])
    rounded = prediction.astype(jnp.bfloat16)
    state = update(EMPTY[task](), rounded, target, jnp.ones(2, bool))
    assert_same(state, update(EMPTY[task](), rounded.astype(jnp.float32), target, jnp.ones(2, bool)))
    assert {leaf.dtype.name for leaf in jax.tree.leaves(state)} <= {"float32", "int32"}


@pytest.mark.parametrize("protocol", ["exact", "authors"])
@pytest.mark.parametrize("task", EMPTY)
def test_nothing_counted_gives_nan(task, protocol):
    empty = EMPTY[task](protocol)
    accumulator = Accumulator(empty, protocol)
    accumulator.add(empty)
    for computed in (empty.compute(), accumulator.compute()):
        assert set(computed) == set(empty.higher_is_better)
        assert np.isnan(list(computed.values())).all()


def test_counts_beyond_int32_do_not_overflow():
    state = metrics.SemanticMetric(jnp.array([[2**30, 0], [0, 2**30]], jnp.int32))
    accumulator = Accumulator(metrics.SemanticMetric.empty(num_classes=2))
    for _ in range(5):
        accumulator.add(state)
    accumulator.add(metrics.SemanticMetric(jnp.array([[0, 0], [2**31 - 1, 0]], jnp.int32)))
    wrong, right = 2**31 - 1, 10 * 2**30
    assert accumulator.compute()["pixel_accuracy"] == pytest.approx(right / (right + wrong), rel=1e-12)


def test_unknown_protocol_lists_the_known():
    for make in (
        metrics.NormalMetric.empty,
        lambda protocol: Accumulator(metrics.LossMetric.empty(), protocol),
    ):
        with pytest.raises(ValueError, match="'paper' is unknown; known: exact, authors"):
            make("paper")
