"""MOML against the authors' code (tests/reference/make_moml.py) and automatic differentiation."""

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
from mtan_jax.weighting import TaskGradients, build_weighting, moml, needs_of, sum_tasks, task_weights

REFERENCE = pathlib.Path(__file__).parents[2] / "reference" / "moml.npz"
TASKS = ("semantic", "depth", "normal")


def chain(tasks=TASKS, **options):
    return moml(tasks, optax.chain(sum_tasks(tasks), optax.sgd(0.1)), **{"meta_rate": 0.05, **options})


def first_step(tx, gradients_at, params):
    """Updates and state of the first step, compiled as one program."""
    return jax.jit(lambda params: tx.update(gradients_at(params), tx.init(params), params))(params)


def random_problem(count=3, seed=0, dtype=float):
    rng = np.random.default_rng(seed)
    batch = [jnp.asarray(rng.normal(size=(6, n)), dtype) for n in (5, count, 5, count)]
    params = {
        "shared": jnp.asarray(rng.normal(size=(5, 4)), dtype),
        "heads": jnp.asarray(rng.normal(size=(4, count)), dtype),
    }
    return params, batch


@pytest.mark.parametrize("combine", ["sum", "mgda"])
@pytest.mark.parametrize("count", [2, 3, 10])
def test_the_authors_code(count, combine):
    """20 steps, from tests/reference/make_moml.py."""
    tasks = tuple(f"task_{i}" for i in range(count))
    with jax.enable_x64(True), np.load(REFERENCE, allow_pickle=False) as stored:
        tx = chain(tasks, virtual_rate=0.3, combine=combine)
        batches = [stored[f"{count}/{name}"] for name in ("x", "y", "second_x", "second_y")]
        params = {name: jnp.asarray(stored[f"{count}/{name}"]) for name in ("shared", "heads")}

        def step(carry, batch):
            params, state = carry
            updates, state = tx.update(regression_gradients(tasks, params, *batch), state, params)
            return (optax.apply_updates(params, updates), state), task_weights(state)

        start = (params, tx.init(params))
        (params, _), weights = jax.jit(lambda start: jax.lax.scan(step, start, tuple(batches)))(start)
        expected = stored[f"{count}/{combine}/weights"]
        assert np.abs(expected[-1] * count - 1).max() > 0.05
        # The logits are float32. Largest difference seen: 7.5e-8.
        np.testing.assert_allclose(weights, expected, atol=1e-6)
        for name, value in params.items():
            np.testing.assert_allclose(value, stored[f"{count}/{combine}/{name}"], rtol=1e-5, atol=1e-6)


def test_the_derivative_is_that_of_the_second_losses_after_the_virtual_step():
    with jax.enable_x64(True):
        params, batch = random_problem()
        logits = jnp.array([0.3, -0.5, 0.1])
        tx = chain(combine="sum", virtual_rate=0.3)

        @jax.jit
        def step(params):
            gradients = regression_gradients(TASKS, params, *batch)

            def second_loss(logits):
                gradient = gradients.gradient(jax.nn.softmax(logits))
                virtual = jax.tree.map(lambda p, g: p - 0.3 * g, params, gradient)
                return regression(virtual, *batch[2:]).sum()

            state = tx.init(params)._replace(logits=logits.astype(jnp.float32))
            return tx.update(gradients, state, params)[1], jax.grad(second_loss)(logits)

        state, expected = step(params)
        np.testing.assert_allclose(state.adam.mu / 0.1, expected, rtol=1e-5)


def test_four_devices_are_one_and_a_resumed_run_is_the_same(problem):
    tx = chain()
    one, four = problem.train_alone(tx), problem.train(tx, devices=4)
    for (params, state), (other_params, other_state) in zip(one, four, strict=True):
        jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5), other_params, params)
        np.testing.assert_allclose(other_state.logits, state.logits, atol=1e-4)
    assert np.ptp(one[-1][1].logits) > 0.01
    resumed = problem.train_alone(tx, start=one[2], first=3)
    jax.tree.map(np.testing.assert_array_equal, resumed, one[3:])


def test_an_absent_task_keeps_its_logit(problem):
    (_, before), (_, after) = problem.train_alone(chain(combine="sum"))[1:3]  # no label for "depth" in the third step
    np.testing.assert_array_equal(before.logits != after.logits, [True, False, True])
    np.testing.assert_array_equal(after.adam.count, [3, 2, 3])
    weights = task_weights(after)
    assert weights[1] == 0
    assert weights.sum() == pytest.approx(1)


@pytest.mark.parametrize("combine", ["mgda", "sum"])
def test_order_of_the_tasks_does_not_matter(combine):
    params, batch = random_problem(dtype=np.float32)
    order = np.array([2, 0, 1])
    tasks = tuple(TASKS[i] for i in order)
    other_batch = [batch[0], batch[1][:, order], batch[2], batch[3][:, order]]
    other_params = {"shared": params["shared"], "heads": params["heads"][:, order]}
    found = []
    for names, p, b in ((TASKS, params, batch), (tasks, other_params, other_batch)):
        gradients_at = functools.partial(lambda p, names, b: regression_gradients(names, p, *b), names=names, b=b)
        found.append(first_step(chain(names, combine=combine), gradients_at, p))
    (updates, state), (other_updates, other_state) = found
    np.testing.assert_allclose(other_updates["shared"], updates["shared"], rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(other_state.adam.mu, state.adam.mu[order], rtol=2e-3, atol=1e-6)


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
        second_losses_at=lambda params: gradients.second_losses_at(params) * scale,
    )


@pytest.mark.parametrize("combine", ["mgda", "sum"])
def test_losses_of_any_size_and_losses_that_do_not_change(combine, problem):
    for scale in ([1e-6] * 3, [1e6] * 3, [1e-6, 1.0, 1e6], [0.0] * 3):
        found = first_step(chain(combine=combine), functools.partial(with_scale, problem, scale), problem.params)
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(found))
    np.testing.assert_array_equal(found[1].logits, 0)
    np.testing.assert_array_equal(found[1].adam.count, 0)


def test_weights_of_the_methods_before_are_part_of_the_losses(problem):
    weights = {"semantic": 2.0, "depth": 0.5, "normal": 3.0}
    spec = (("static", {"weights": weights}), ("moml", {"meta_rate": 0.05}))
    tx = build_weighting(spec, TASKS, optax.sgd(0.1))
    updates, (_, state) = first_step(tx, functools.partial(with_scale, problem, [1.0] * 3), problem.params)
    scaled = functools.partial(with_scale, problem, list(weights.values()))
    other_updates, other_state = first_step(chain(), scaled, problem.params)
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-6), updates, other_updates)
    np.testing.assert_allclose(state.logits, other_state.logits, rtol=1e-4)
    assert needs_of("moml").second_batch


def test_conflicting_objectives_leave_the_weights(problem):
    """Two tasks, and what lowers the second loss of one raises that of the other: no direction helps both."""
    params = jnp.zeros(2)
    losses_at = lambda params: jnp.stack([params[0], params[1]])  # noqa: E731
    second = lambda params: jnp.stack([params[0] - params[1], params[1] - params[0]])  # noqa: E731
    tasks = ("a", "b")
    losses, pullback = jax.vjp(losses_at, params)
    given = TaskGradients(
        tasks, losses, jnp.ones(2, bool), jnp.ones(2), lambda c: pullback(c)[0], second_losses_at=second
    )
    tx = chain(tasks)
    _, state = tx.update(given, tx.init(params), params)
    np.testing.assert_array_equal(state.logits, 0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"meta_rate": -1.0}, "moml meta_rate is -1.0; expected a finite number of at least 0"),
        ({"virtual_rate": 0.0}, "moml virtual_rate is 0.0; expected a finite number above 0"),
        ({"combine": "mean"}, "moml combine is 'mean'; expected 'mgda' or 'sum'"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        chain(**options)


@pytest.mark.parametrize("method", ["moml", "forum"])
def test_the_training_step_is_the_same_on_one_and_four_devices(method):
    """For the two methods that differentiate the losses of the second batch per task."""
    found = []
    for devices in (1, 4):
        axis_name = None if devices == 1 else parallel.AXIS
        tx = tiny_problem.make_tx(method, optax.sgd(0.01))
        backbone = Backbone({}, None, multiple=1, numerics=Numerics(axis_name))
        model = toy_config.Plain(backbone, tiny_problem.TASKS)
        step = steps.make_train_step(model, tiny_problem.TASKS, tx, key=jax.random.key(0), axis_name=axis_name)
        state, batch = jax.device_get(tiny_problem.make_state(model, tx)), tiny_problem.make_batch()
        batch["second"] = tiny_problem.make_batch(1)
        if devices == 1:
            new = jax.jit(step)(state, batch)
        else:
            new = parallel.map_train_step(step)(state, parallel.place_batch(batch))
        found.append(jax.device_get(new))
        assert optax.tree.norm(jax.tree.map(np.subtract, found[-1].params, state.params)) > 1e-3
    jax.tree.map(functools.partial(np.testing.assert_allclose, atol=1e-6), found[1].params, found[0].params)
