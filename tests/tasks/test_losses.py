import functools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtan_jax.tasks import losses

LOSSES = {"semantic": jax.jit(losses.cross_entropy), "depth": jax.jit(losses.l1), "normal": jax.jit(losses.cosine)}
REFERENCE = pathlib.Path(__file__).parents[1] / "reference" / "metrics.npz"


@pytest.fixture(scope="module")
def reference():
    with np.load(REFERENCE, allow_pickle=False) as stored:
        return dict(stored)


@functools.partial(jax.jit, static_argnums=0)
def mean_loss(task, prediction, target, labelled):
    total, count = LOSSES[task](prediction, target, labelled)
    return total / count


def batch(reference, task, i=0):
    return jnp.asarray(reference[f"{i}/{task}/prediction"]), jnp.asarray(reference[f"{i}/{task}/target"])


@pytest.mark.parametrize("task", LOSSES)
@pytest.mark.parametrize("i", [0, 1, 2])
def test_agrees_with_the_authors(reference, task, i):
    prediction, target = batch(reference, task, i)
    loss, gradient = jax.value_and_grad(mean_loss, argnums=1)(task, prediction, target, jnp.ones(len(target), bool))
    # Both sides are float32 and differ in the order of the sums; an element of the gradient is rounded a few times.
    np.testing.assert_allclose(loss, reference[f"{i}/{task}/loss"], rtol=2e-6)
    np.testing.assert_allclose(gradient, reference[f"{i}/{task}/gradient"], rtol=1e-6, atol=1e-9)


def test_cross_entropy_by_hand():
    prediction = jnp.log(jnp.array([[[[0.5, 0.25, 0.25], [0.125, 0.75, 0.125], [0.25, 0.5, 0.25]]]]))
    total, count = losses.cross_entropy(prediction, jnp.array([[[0, 2, -1]]]), jnp.ones(1, bool))
    np.testing.assert_allclose(total, 4 * np.log(2), rtol=1e-6)  # 1/2 and 1/8; the third pixel is void
    assert count == 2


def test_l1_by_hand():
    prediction = jnp.array([[[[2.0], [-3.0], [0.5]]]])
    total, count = losses.l1(prediction, jnp.array([[[[0.5], [0.0], [1.0]]]]), jnp.ones(1, bool))
    assert (total, count) == (2.0, 2.0)  # 1.5 + 0.5; the second pixel is undefined


def test_cosine_by_hand():
    target = jnp.array([[[[0.0, 0, 1], [0, 0, 0], [0, -1, 0], [1, -1, 0]]]])
    prediction = jnp.array([[[[0.0, 0, 1], [1, 0, 0], [0, 1, 0], [0, 0, 1]]]])
    total, count = losses.cosine(prediction, target, jnp.ones(1, bool))
    # 0 + 2 + 1: the last target's components add up to 0, but it is a vector like any other.
    assert (total, count) == (3.0, 3.0)


def spoil(task, target):
    """A row's target as it may be where there is no label."""
    return jnp.full_like(target, 200 if task == "semantic" else jnp.nan)


@pytest.mark.parametrize("task", LOSSES)
def test_rows_without_a_label_add_nothing(reference, task):
    prediction, target = batch(reference, task)
    padded = jnp.concatenate([jnp.full_like(prediction, jnp.nan), prediction])
    padded_target = jnp.concatenate([spoil(task, target.astype(jnp.int32 if task == "semantic" else None)), target])
    labelled = jnp.array([False, False, True, True])
    expected = LOSSES[task](prediction, target, jnp.ones(2, bool))
    # Zeros between the terms may change the order of a float32 sum.
    np.testing.assert_allclose(LOSSES[task](padded, padded_target, labelled), expected, rtol=1e-6)

    gradient = jax.grad(mean_loss, argnums=1)(task, padded, padded_target, labelled)
    np.testing.assert_array_equal(gradient[:2], jnp.zeros_like(prediction))
    np.testing.assert_allclose(gradient[2:], reference[f"0/{task}/gradient"], rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("task", LOSSES)
def test_undefined_pixels_with_nan_predictions_leave_the_gradient_finite(reference, task):
    prediction, target = batch(reference, task)
    undefined = np.asarray(target == -1 if task == "semantic" else (target == 0).all(axis=-1))
    assert undefined.any()
    broken = jnp.where(undefined[..., None], jnp.nan, prediction)
    loss, gradient = jax.value_and_grad(mean_loss, argnums=1)(task, broken, target, jnp.ones(2, bool))
    np.testing.assert_allclose(loss, reference[f"0/{task}/loss"], rtol=2e-6)
    assert np.isfinite(gradient).all()
    assert not np.asarray(gradient)[undefined].any()


@pytest.mark.parametrize("task", LOSSES)
def test_a_nan_where_a_label_is_shows(reference, task):
    prediction, target = batch(reference, task)
    broken = jnp.full_like(prediction, jnp.nan)
    assert np.isnan(mean_loss(task, broken, target, jnp.ones(2, bool)))


@pytest.mark.parametrize("task", LOSSES)
def test_sums_of_parts_add_up(reference, task):
    prediction, target = batch(reference, task)
    whole = np.array(LOSSES[task](prediction, target, jnp.ones(2, bool)))
    parts = np.array(
        [LOSSES[task](prediction, target, labelled) for labelled in jnp.array([[True, False], [False, True]])]
    )
    np.testing.assert_allclose(parts.sum(axis=0), whole, rtol=1e-6)


@pytest.mark.parametrize("task", LOSSES)
def test_nothing_labelled_gives_zero_and_zero(reference, task):
    assert LOSSES[task](*batch(reference, task), jnp.zeros(2, bool)) == (0, 0)


@pytest.mark.parametrize("task", LOSSES)
def test_bfloat16_predictions_are_summed_in_float32(reference, task):
    prediction, target = batch(reference, task)
    rounded = prediction.astype(jnp.bfloat16)
    total, count = LOSSES[task](rounded, target, jnp.ones(2, bool))
    assert total.dtype == count.dtype == jnp.float32
    # The same numbers in float64: a bfloat16 sum would be off by about 1e-3.
    with jax.enable_x64():
        exact, _ = LOSSES[task](jnp.asarray(np.asarray(rounded, np.float64)), target, jnp.ones(2, bool))
        assert exact.dtype == jnp.float64
    np.testing.assert_allclose(total, exact, rtol=1e-6)
