"""The steps: the same on one and on several devices, in one part and in several."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import tiny_problem

from mtan_jax import steps
from mtan_jax.runtime import parallel
from mtan_jax.tasks.accumulator import on_host

KEY = jax.random.key(0)
OPTIMIZERS = {
    "adam": optax.adam(1e-2),
    "sgd": optax.sgd(1.0),
    "momentum": optax.sgd(0.05, momentum=0.9),
    "small": optax.sgd(0.005, momentum=0.9),
}


@functools.cache
def run_steps(count, *, devices, weighting="equal", accumulate=1, optimizer="adam", dtype=jnp.float32):
    """Trains on one device under jit, or on four under pmap."""
    with jax.enable_x64(dtype == jnp.float64):
        return _run_steps(count, devices, weighting, accumulate, optimizer, dtype)


def _run_steps(count, devices, weighting, accumulate, optimizer, dtype):
    axis_name = None if devices == 1 else parallel.AXIS
    tx = tiny_problem.make_tx(weighting, OPTIMIZERS[optimizer])
    model = tiny_problem.make_model(axis_name, dtype=dtype, param_dtype=dtype)
    state = tiny_problem.make_state(model, tx)
    step = steps.make_train_step(model, tiny_problem.TASKS, tx, key=KEY, axis_name=axis_name, accumulate=accumulate)
    if devices == 1:
        step = jax.jit(step)
    else:
        step, state = parallel.map_train_step(step), parallel.place_state(state)
    for i in range(count):
        batch = tiny_problem.make_batch(seed=i)
        state = step(state, batch if devices == 1 else parallel.place_batch(batch))
    return jax.device_get(state)


def difference(found, expected):
    """The largest difference of two trees' arrays, relative to the largest entry of all.

    Not array by array: the gradient of a bias before a BatchNorm is nothing but rounding.
    """
    pairs = list(zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True))
    largest = max(np.abs(np.asarray(b, np.float64)).max() for _, b in pairs)
    return max(np.abs(np.asarray(a, np.float64) - b).max() for a, b in pairs) / largest


def assert_same_state(found, expected, tolerance):
    for field in ("params", "batch_stats", "opt_state", "window"):
        assert difference(getattr(found, field), getattr(expected, field)) < tolerance, field


@pytest.mark.parametrize("weighting", ["equal", pytest.param("uncertainty", marks=pytest.mark.long)])
def test_one_step_of_sgd_is_the_same_on_one_and_four_devices(weighting):
    # SGD's update is the gradient itself: Adam's first step would hide its size.
    one, four = (run_steps(1, devices=n, weighting=weighting, optimizer="sgd") for n in (1, 4))
    moved = difference(one.params, run_steps(0, devices=1, weighting=weighting, optimizer="sgd").params)
    assert moved > 0.1  # so that the next line says something about the gradient
    assert_same_state(four, one, 1e-5)


@pytest.mark.long
def test_five_steps_are_the_same_on_one_and_four_devices():
    # In float64: rounding grows with each step, and in float32 may turn a choice of a max-pooling, which is a jump.
    one, four = (run_steps(5, devices=n, optimizer="momentum", dtype=jnp.float64) for n in (1, 4))
    for field in ("params", "batch_stats", "opt_state"):
        assert difference(getattr(four, field), getattr(one, field)) < 1e-12, field
    assert difference(four.window, one.window) < 1e-6  # float32
    # In float32 with steps a tenth as large.
    one, four = (run_steps(5, devices=n, optimizer="small") for n in (1, 4))
    assert difference(one.params, run_steps(0, devices=1, optimizer="small").params) > 1e-3
    assert_same_state(four, one, 2e-5)


def test_losses_divide_by_the_pixels_of_all_devices():
    # The batch is uneven enough for a mean of the devices' means to be wrong by far more than rounding.
    state = run_steps(1, devices=4)
    batch = tiny_problem.make_batch()
    counts = [
        ((batch["targets"]["semantic"] >= 0) & batch["labelled"]["semantic"][:, None, None]).sum(),
        ((batch["targets"]["depth"][..., 0] != 0) & batch["labelled"]["depth"][:, None, None]).sum(),
        ((batch["targets"]["normal"] != 0).any(-1) & batch["labelled"]["normal"][:, None, None]).sum(),
    ]
    np.testing.assert_array_equal(state.window.loss_count, counts)


def test_window_sums_losses_and_weights():
    state = run_steps(3, devices=1, weighting="equal")
    assert state.window.steps == state.step == 3
    np.testing.assert_array_equal(state.window.weights, [3, 3, 3])
    assert state.window.bad_step == 0


@pytest.mark.slow
def test_accumulation_has_the_losses_of_the_whole_batch():
    # Without the statistics of the batch (BatchNorm sees each part), sums over parts are sums over the whole.
    tx, batch = tiny_problem.make_tx(optimizer=optax.sgd(1.0)), tiny_problem.make_batch()

    class Frozen:  # the network as in evaluation
        def apply(self, variables, image, train, mutable, rngs):
            return model.apply(variables, image, train=False), {"batch_stats": variables["batch_stats"]}

    model = tiny_problem.make_model()
    state = tiny_problem.make_state(model, tx)
    whole, parts = (
        jax.device_get(
            jax.jit(steps.make_train_step(Frozen(), tiny_problem.TASKS, tx, key=KEY, accumulate=n))(state, batch)
        )
        for n in (1, 4)
    )
    assert_same_state(parts, whole, 2e-6)


@pytest.mark.slow
def test_accumulation_runs_with_batch_norm_on_devices():
    state = run_steps(2, devices=4, accumulate=2)
    assert np.isfinite(state.window.loss_total).all()
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state.batch_stats))


def test_first_bad_step_and_its_tasks_are_kept():
    tx, model = tiny_problem.make_tx(), tiny_problem.make_model()
    state = tiny_problem.make_state(model, tx)
    step = jax.jit(steps.make_train_step(model, tiny_problem.TASKS, tx, key=KEY))
    state = step(state, tiny_problem.make_batch())
    bad = tiny_problem.make_batch(1)
    bad["targets"]["depth"][5, 8, 8] = np.nan
    for batch in (bad, tiny_problem.make_batch(2)):
        state = step(state, batch)
    assert state.window.bad_step == 2
    np.testing.assert_array_equal(state.window.bad_tasks, [False, True, False])


@pytest.mark.parametrize("value", [np.nan, *(pytest.param(x, marks=pytest.mark.long) for x in (np.inf, -np.inf))])
def test_an_update_that_is_not_finite_makes_a_bad_step(value):
    def spoil(updates, count, params=None):
        del params
        leaves, structure = jax.tree.flatten(updates)
        leaves[3] = leaves[3].at[(-1,) * leaves[3].ndim].set(jnp.where(count == 1, value, 0))  # one number
        return jax.tree.unflatten(structure, leaves), count + 1

    tx, model = (
        tiny_problem.make_tx(optimizer=optax.GradientTransformation(lambda params: 0, spoil)),
        tiny_problem.make_model(),
    )
    state = tiny_problem.make_state(model, tx)
    step = jax.jit(steps.make_train_step(model, tiny_problem.TASKS, tx, key=KEY))
    state = step(state, tiny_problem.make_batch())
    assert state.window.bad_step == 0
    state = step(state, tiny_problem.make_batch())
    assert state.window.bad_step == 2
    assert not state.window.bad_tasks.any()  # all losses were finite


def test_evaluation_is_the_same_on_one_and_four_devices_and_with_padding():
    model = tiny_problem.make_model()
    variables = tiny_problem.make_state(model, tiny_problem.make_tx()).variables
    batch = tiny_problem.make_batch()
    one = jax.jit(steps.make_eval_step(model, tiny_problem.TASKS, protocol="exact"))(variables, batch)
    four = parallel.map_eval_step(
        steps.make_eval_step(model, tiny_problem.TASKS, protocol="exact", axis_name=parallel.AXIS)
    )(variables, parallel.place_batch(batch))
    padded = jax.tree.map(lambda x: np.concatenate([x, x[:4]]), batch)
    padded["weight"][8:] = 0
    twelve = jax.jit(steps.make_eval_step(model, tiny_problem.TASKS, protocol="exact"))(variables, padded)
    for name in tiny_problem.NAMES:
        for states in (four, twelve):
            for part in (0, 1):
                found, expected = (on_host(s[name][part]).compute() for s in (states, one))
                for key, value in expected.items():
                    assert found[key] == pytest.approx(value, rel=1e-5), (name, key)


def test_masks_are_between_0_and_1_for_every_stage_and_task():
    model = tiny_problem.make_model()
    variables = tiny_problem.make_state(model, tiny_problem.make_tx()).variables
    predictions, masks = jax.jit(steps.make_predict_step(model))(variables, tiny_problem.make_batch())
    assert set(masks) == {"encoder_0", "encoder_1", "decoder_1", "decoder_0"}
    assert masks["decoder_0"].shape == (3, 8, 16, 16, 4)
    assert all(mask.min() >= 0 and mask.max() <= 1 for mask in masks.values())
    assert set(predictions) == set(tiny_problem.NAMES)


def test_training_mode_under_jit_equals_eager():
    # Named after a real trap: a max-pooling position found by `==` is right in eager mode and wrong under jit.
    model = tiny_problem.make_model()
    variables = tiny_problem.make_state(model, tiny_problem.make_tx()).variables
    image = tiny_problem.make_batch()["image"]

    def apply(variables, image):
        return model.apply(variables, image, train=True, mutable=["batch_stats"])

    assert difference(jax.jit(apply)(variables, image), apply(variables, image)) < 1e-5


def test_bfloat16_computes_in_bfloat16_and_predicts_in_float32():
    variables = tiny_problem.make_state(tiny_problem.make_model(), tiny_problem.make_tx()).variables
    image = tiny_problem.make_batch()["image"]
    exact, rough = (
        jax.jit(functools.partial(tiny_problem.make_model(dtype=dtype).apply, train=False))(variables, image)
        for dtype in (jnp.float32, jnp.bfloat16)
    )
    for name in tiny_problem.NAMES:
        assert rough[name].dtype == jnp.float32
        # 8 bits of mantissa through some ten layers; equal numbers would mean that nothing ran in bfloat16. The
        # median, because where two pixels of a pooling window are nearly equal, rounding moves one of them.
        size = np.abs(exact[name]).max()
        assert 1e-6 < np.median(np.abs(rough[name] - exact[name])) / size < 0.05, name
