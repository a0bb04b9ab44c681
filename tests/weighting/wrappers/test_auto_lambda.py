"""Auto-Lambda against the authors' code and automatic differentiation, and the properties of every method."""

import functools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import tiny_problem, toy_config
from helpers.weighting_problem import regression, regression_gradients

from mtan_jax import steps
from mtan_jax.models import Backbone, Numerics
from mtan_jax.runtime import parallel
from mtan_jax.weighting import (
    TaskGradients,
    auto_lambda,
    build_weighting,
    needs_of,
    pcgrad,
    static,
    sum_tasks,
    task_weights,
)

REFERENCE = pathlib.Path(__file__).parents[2] / "reference" / "auto_lambda.npz"
TASKS = ("semantic", "depth", "normal")
EPSILONS = [0.01, 0.0]


def chain(tasks=TASKS, optimizer=None, **options):
    inner = optax.chain(sum_tasks(tasks), optax.sgd(0.1, momentum=0.9) if optimizer is None else optimizer)
    return auto_lambda(tasks, inner, **{"learning_rate": 0.1, "meta_rate": 0.01, **options})


def first_step(tx, gradients_at, params):
    """Updates and state of the first step, compiled as one program."""
    return jax.jit(lambda params: tx.update(gradients_at(params), tx.init(params), params))(params)


# Values.


@pytest.mark.parametrize("primary", ["all", "first"])
@pytest.mark.parametrize("count", [2, 3, 10])
def test_the_authors_code(count, primary):
    """24 steps of SGD with momentum and weight decay, from tests/reference/make_auto_lambda.py."""
    tasks = tuple(f"task_{i}" for i in range(count))
    with jax.enable_x64(True), np.load(REFERENCE, allow_pickle=False) as stored:
        rate = optax.exponential_decay(0.1, 8, 0.5, staircase=True)
        optimizer = optax.chain(optax.add_decayed_weights(0.01), optax.sgd(rate, momentum=0.9))
        tx = chain(
            tasks,
            optimizer,
            learning_rate=rate,
            meta_rate=0.02,
            primary=tasks[:1] if primary == "first" else None,
        )
        batches = [stored[f"{count}/{name}"] for name in ("x", "y", "second_x", "second_y")]
        params = {name: jnp.asarray(stored[f"{count}/{name}"]) for name in ("shared", "heads")}

        def step(carry, batch):
            params, state = carry
            updates, state = tx.update(regression_gradients(tasks, params, *batch), state, params)
            return (optax.apply_updates(params, updates), state), task_weights(state)

        start = (params, tx.init(params))
        (params, _), lambdas = jax.jit(lambda start: jax.lax.scan(step, start, tuple(batches)))(start)
        expected = stored[f"{count}/{primary}/lambdas"]
        assert np.abs(expected[-1] - expected[0]).max() > 0.1
        # The weights are float32 here: rounding of 3e-8 per step. Largest difference seen: 2e-7.
        np.testing.assert_allclose(lambdas, expected, atol=2e-6)
        for name, value in params.items():
            np.testing.assert_allclose(value, stored[f"{count}/{primary}/{name}"], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("epsilon", "tolerance"), [(0.01, 1e-4), (0.0, 1e-6)])
def test_the_derivative_is_that_of_the_second_loss_after_the_step(epsilon, tolerance):
    """Differentiates through the virtual step of SGD with momentum and weight decay, at the second step."""
    rng = np.random.default_rng(0)
    with jax.enable_x64(True):
        batch = [jnp.asarray(rng.normal(size=(2, 6, n))) for n in (5, 3, 5, 3)]
        params = {"shared": jnp.asarray(rng.normal(size=(5, 4))), "heads": jnp.asarray(rng.normal(size=(4, 3)))}
        optimizer = optax.chain(optax.add_decayed_weights(0.01), optax.sgd(0.1, momentum=0.9))
        tx = chain(TASKS, optimizer, epsilon=epsilon, primary=("depth", "normal"))
        tx_inner = optax.chain(sum_tasks(TASKS), optimizer)

        @jax.jit
        def second_step(params):
            updates, state = tx.update(
                regression_gradients(TASKS, params, *(x[0] for x in batch)), tx.init(params), params
            )
            params = optax.apply_updates(params, updates)
            gradients = regression_gradients(TASKS, params, *(x[1] for x in batch))

            def second_loss(lambdas):
                updates, _ = tx_inner.update(gradients.scale(lambdas), state.inner, params)
                return regression(optax.apply_updates(params, updates), *(x[1] for x in batch[2:]))[1:].sum()

            expected = jax.grad(second_loss)(state.lambdas.astype(float))
            return state, tx.update(gradients, state, params)[1], expected

        state, new, expected = second_step(params)
        found = (np.asarray(new.adam.mu, float) - 0.9 * np.asarray(state.adam.mu, float)) / 0.1
        np.testing.assert_allclose(found, expected, rtol=tolerance, atol=tolerance * np.abs(expected).max())


# Properties of every method.


@pytest.mark.parametrize("epsilon", EPSILONS)
def test_four_devices_are_one_and_the_state_keeps_its_types(epsilon, problem):
    tx = chain(epsilon=epsilon)
    one, four = problem.train_alone(tx), problem.train(tx, devices=4)
    start = tx.init(problem.params)
    for (params, state), (other_params, other_state) in zip(one, four, strict=True):
        jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6), other_params, params)
        np.testing.assert_allclose(other_state.lambdas, state.lambdas, rtol=1e-5)
        # The quotient divides the rounding error of losses of about 1 by 2 epsilon. Seen: 1.3e-6.
        np.testing.assert_allclose(other_state.adam.mu, state.adam.mu, rtol=2e-4, atol=5e-6)
        jax.tree.map(lambda a, b: (a.shape, a.dtype) == (b.shape, b.dtype) or pytest.fail("changed"), state, start)
    assert np.ptp(one[-1][1].lambdas) > 0.01


def test_resumed_in_the_middle_is_the_same(problem):
    tx = chain()
    straight = problem.train_alone(tx)
    resumed = problem.train_alone(tx, start=straight[2], first=3)
    jax.tree.map(np.testing.assert_array_equal, resumed, straight[3:])


def test_order_of_the_tasks_does_not_matter():
    rng = np.random.default_rng(1)
    batch = [jnp.asarray(rng.normal(size=(6, n)), jnp.float32) for n in (5, 3, 5, 3)]
    params = {name: jnp.asarray(rng.normal(size=s), jnp.float32) for name, s in (("shared", (5, 4)), ("heads", (4, 3)))}
    order = np.array([2, 0, 1])
    tasks = tuple(TASKS[i] for i in order)
    other_batch = [batch[0], batch[1][:, order], batch[2], batch[3][:, order]]
    other_params = {"shared": params["shared"], "heads": params["heads"][:, order]}
    found = {}
    for names, p, b in ((TASKS, params, batch), (tasks, other_params, other_batch)):
        tx = chain(names, primary=("depth",))
        updates, state = first_step(tx, lambda p, names=names, b=b: regression_gradients(names, p, *b), p)
        found[names] = updates["shared"], state.adam.mu
    np.testing.assert_allclose(found[tasks][0], found[TASKS][0], rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(found[tasks][1], found[TASKS][1][order], rtol=2e-4)


def test_one_task_is_plain_gradient_descent(problem):
    batch = {key: value[0] for key, value in problem.batches.items()}

    def one(params):
        whole = problem.task_gradients(params, batch)
        return TaskGradients(
            ("depth",),
            whole.losses[1:2],
            whole.present[1:2],
            jnp.ones(1),
            lambda cotangent: whole.pullback(jnp.array([0.0, 1.0, 0.0]) * cotangent),
            lambda params: whole.losses_at(params)[1:2],
            second_losses_at=lambda params: whole.second_losses_at(params)[1:2],
        )

    updates, state = first_step(chain(("depth",), optax.sgd(0.1)), one, problem.params)
    gradient = jax.jit(lambda params: one(params).gradient(jnp.ones(1)))(problem.params)
    for name, value in updates.items():
        np.testing.assert_allclose(value, -0.1 * state.lambdas[0] * gradient[name], rtol=1e-5)
    assert state.lambdas[0] == pytest.approx(0.11, rel=1e-5)


def with_scale(problem, scale, params):
    """The problem's first step with scaled losses."""
    gradients = problem.task_gradients(params, {key: value[0] for key, value in problem.batches.items()})
    scale = jnp.array(scale)
    return TaskGradients(
        gradients.tasks,
        gradients.losses * scale,
        gradients.present,
        gradients.weights,
        lambda cotangent: gradients.pullback(cotangent * scale),
        lambda params: gradients.losses_at(params) * scale,
        second_losses_at=lambda params: gradients.second_losses_at(params) * scale,
    )


@pytest.mark.parametrize("epsilon", EPSILONS)
def test_losses_of_any_size(epsilon, problem):
    for scale in ([1e-6] * 3, [1e6] * 3, [1e-6, 1.0, 1e6]):
        found = first_step(chain(epsilon=epsilon), functools.partial(with_scale, problem, scale), problem.params)
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(found))


def test_weights_of_the_methods_before_are_part_of_the_losses(problem):
    weights = [2.0, 0.5, 3.0]
    before = static(TASKS, weights=dict(zip(TASKS, weights, strict=True)))
    found = []
    for tx, scale in ((optax.chain(before, chain()), [1.0] * 3), (chain(), weights)):
        updates, state = first_step(tx, functools.partial(with_scale, problem, scale), problem.params)
        found.append((updates, state[1] if len(state) == 2 else state, task_weights(state)))
    (updates, state, logged), (other_updates, other_state, _) = found
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-7), updates, other_updates)
    np.testing.assert_allclose(state.adam.mu, other_state.adam.mu, rtol=1e-4)
    np.testing.assert_allclose(logged, state.lambdas * np.array(weights), rtol=1e-6)


def test_an_absent_task_keeps_its_weight(problem):
    history = problem.train_alone(chain())
    (_, before), (_, after) = history[1], history[2]  # no label for "depth" at the third step, in either batch
    changed = before.lambdas != after.lambdas
    np.testing.assert_array_equal(changed, [True, False, True])
    np.testing.assert_array_equal(before.adam.mu != after.adam.mu, changed)
    np.testing.assert_array_equal(after.adam.count, [3, 2, 3])
    # If it is the only primary task, no weight changes.
    (_, before), (_, after) = problem.train_alone(chain(primary=("depth",)))[1:3]
    jax.tree.map(np.testing.assert_array_equal, (before.lambdas, before.adam), (after.lambdas, after.adam))


def test_every_method_may_follow(problem):
    batch = {key: value[0] for key, value in problem.batches.items()}
    options = {"shared": lambda path: path[0] == "shared"}
    tx = build_weighting(("auto_lambda", ("pcgrad", options)), TASKS, optax.adam(0.1), defaults={"learning_rate": 0.1})
    gradients_at = functools.partial(problem.task_gradients, batch=batch)
    updates, state = first_step(tx, gradients_at, problem.params)
    by_hand = optax.chain(pcgrad(TASKS, **options), optax.adam(0.1))
    expected = first_step(by_hand, lambda p: gradients_at(p).scale(state[0].lambdas), problem.params)
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-5), updates, expected[0])
    np.testing.assert_allclose(task_weights(state), task_weights(expected[1]), rtol=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"meta_rate": -1.0}, "meta_rate is -1.0; expected a finite number of at least 0"),
        ({"initial": float("inf")}, "initial is inf; expected a finite number of at least 0"),
        ({"epsilon": -0.1}, "epsilon is -0.1; expected a finite number of at least 0"),
        ({"learning_rate": float("nan")}, "learning_rate is nan; expected a finite number of at least 0"),
        ({"primary": ("depht",)}, "primary names unknown tasks depht; known: semantic, depth, normal"),
        ({"primary": "depth"}, "expected a sequence of at least one name"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        chain(**options)


# Within the training step.


@functools.cache
def make_step(make_model, devices, accumulate, epsilon):
    """The initial state and the step."""
    axis_name = None if devices == 1 else parallel.AXIS
    tx = tiny_problem.make_tx("auto_lambda", optax.sgd(0.01), auto_lambda={"epsilon": epsilon})
    model = make_model(axis_name)
    step = steps.make_train_step(
        model, tiny_problem.TASKS, tx, key=jax.random.key(0), axis_name=axis_name, accumulate=accumulate
    )
    return jax.device_get(tiny_problem.make_state(model, tx)), jax.jit(
        step
    ) if devices == 1 else parallel.map_train_step(step)


def run_step(make_model, devices, second=1, accumulate=1, epsilon=0.01):
    """The state after one step, with a second batch of another seed."""
    state, step = make_step(make_model, devices, accumulate, epsilon)
    batch = tiny_problem.make_batch()
    if second is not None:
        batch["second"] = tiny_problem.make_batch(second)
    return jax.device_get(step(state, batch if devices == 1 else parallel.place_batch(batch)))


def plain(axis_name):
    return toy_config.Plain(Backbone({}, None, multiple=1, numerics=Numerics(axis_name)), tiny_problem.TASKS)


def moments(state):
    return optax.tree_utils.tree_get(state.opt_state, "mu")


@pytest.mark.parametrize("epsilon", [0.01, pytest.param(0.0, marks=pytest.mark.long)])
def test_the_step_is_the_same_on_one_and_four_devices(epsilon):
    one, four = (run_step(plain, devices, epsilon=epsilon) for devices in (1, 4))
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6), four.params, one.params)
    # The difference of two float32 losses has their rounding error.
    np.testing.assert_allclose(moments(four), moments(one), rtol=1e-4, atol=1e-6 if epsilon else 0)
    other = run_step(plain, 1, second=2, epsilon=epsilon)
    assert np.abs(moments(other) / moments(one) - 1).max() > 0.01  # the second batch matters
    # It changes neither running statistics nor logged metrics.
    jax.tree.map(np.testing.assert_array_equal, other.batch_stats, one.batch_stats)
    np.testing.assert_array_equal(other.window.loss_total, one.window.loss_total)


@pytest.mark.long
def test_the_exact_derivative_of_a_whole_network():
    with jax.enable_x64(True):
        make_model = functools.partial(tiny_problem.make_model, dtype=jnp.float64, param_dtype=jnp.float64)
        exact, quotient = (moments(run_step(make_model, 1, epsilon=epsilon)) for epsilon in (0.0, 1e-6))
    # The moments are float32. With the published 0.01 they differ: 1.9e-5 instead of -1.6e-6, 2.6e-4 instead of
    # -4.7e-5, because such a long step crosses kinks of ReLUs and poolings.
    np.testing.assert_allclose(quotient, exact, rtol=1e-3)


@pytest.mark.long
def test_the_derivative_with_gradient_accumulation():
    exact, quotient = (moments(run_step(plain, 4, accumulate=2, epsilon=epsilon)) for epsilon in (0.0, 0.01))
    assert (np.abs(exact) > 1e-6).all()
    np.testing.assert_allclose(quotient, exact, rtol=0.02, atol=1e-6)


def test_without_a_second_batch_the_message_says_what_to_do():
    with pytest.raises(ValueError, match=r"learns from a second batch.*under the key 'second', as those of"):
        run_step(plain, 1, second=None)


def test_needs_of_the_chain():
    assert needs_of("static+auto_lambda").second_batch
    assert not needs_of("static+dtp").second_batch
    assert [needs_of(name).indicators for name in ("static+dtp", "auto_lambda")] == [True, False]
