"""FORUM against the authors' code (tests/reference/make_moml.py), and the solution of its inner problem."""

import functools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers.weighting_problem import regression_gradients

from mtan_jax.weighting import TaskGradients, build_weighting, forum, needs_of, task_weights
from mtan_jax.weighting.gradient_methods.forum import _shares

REFERENCE = pathlib.Path(__file__).parents[2] / "reference" / "forum.npz"
TASKS = ("semantic", "depth", "normal")


def chain(tasks=TASKS, **options):
    return optax.chain(forum(tasks, **{"steps_per_epoch": 10, "meta_rate": 0.05, **options}), optax.sgd(0.1))


@pytest.mark.parametrize("rho", [0.2, 1.0])
@pytest.mark.parametrize("count", [2, 3, 10])
def test_the_authors_code(count, rho):
    """20 steps in two epochs."""
    tasks = tuple(f"task_{i}" for i in range(count))
    with jax.enable_x64(True), np.load(REFERENCE, allow_pickle=False) as stored:
        tx = chain(tasks, rho=rho)
        batches = [stored[f"{count}/{name}"] for name in ("x", "y", "second_x", "second_y")]
        params = {name: jnp.asarray(stored[f"{count}/{name}"]) for name in ("shared", "heads")}

        def step(carry, batch):
            params, state = carry
            weights = jax.nn.softmax(state[0].logits)
            updates, state = tx.update(regression_gradients(tasks, params, *batch), state, params)
            return (optax.apply_updates(params, updates), state), weights

        start = (params, tx.init(params))
        (params, _), weights = jax.jit(lambda start: jax.lax.scan(step, start, tuple(batches)))(start)
        expected = stored[f"{count}/{rho}/weights"]
        assert np.abs(expected[-1] * count - 1).max() > 0.1
        # The logits are float32. Largest differences seen: 6.6e-8 in the weights, 1.2e-8 in the parameters.
        np.testing.assert_allclose(weights, expected, atol=1e-6)
        for name, value in params.items():
            np.testing.assert_allclose(value, stored[f"{count}/{rho}/{name}"], atol=1e-6)


def test_the_shares_minimize_their_objective():
    """Against a grid over the simplex, for constraints that take part and that do not."""
    rng, corners = np.random.default_rng(0), np.linspace(0, 1, 101)
    grid = np.array([(a, b, 1 - a - b) for a in corners for b in corners if a + b <= 1 + 1e-9])
    for rho in (0.0, 0.3, 3.0):
        for size in (0.01, 1.0, 100.0):
            unit = rng.normal(size=(3, 8))
            unit /= np.linalg.norm(unit, axis=1, keepdims=True)
            z = size * rng.normal(size=8)

            def objective(x, unit=unit, z=z, rho=rho):
                nu = np.maximum(x @ (rho - unit @ z / (z @ z)), 0)
                return np.square(x @ unit + nu[:, None] * z).sum(1) - nu * rho * (z @ z)

            arguments = (jnp.asarray(a, jnp.float32) for a in (unit @ unit.T, unit @ z, z @ z))
            found = np.asarray(jax.jit(_shares)(*arguments, jnp.ones(3, bool), rho), float)
            assert found.sum() == pytest.approx(1, abs=1e-4)
            assert (found >= 0).all()
            least = objective(grid)
            assert objective(found[None])[0] <= least.min() + 1e-4 * max(np.ptp(least), 1e-3)


def test_four_devices_are_one_and_a_resumed_run_is_the_same(problem):
    tx = chain(rho=1.0, steps_per_epoch=2)
    one, four = problem.train_alone(tx), problem.train(tx, devices=4)
    for (params, state), (other_params, other_state) in zip(one, four, strict=True):
        jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-3, atol=1e-4), other_params, params)
        np.testing.assert_allclose(other_state[0].shares, state[0].shares, atol=1e-3)
    assert np.ptp(one[-1][1][0].logits) > 0.01
    resumed = problem.train_alone(tx, start=one[2], first=3)
    jax.tree.map(np.testing.assert_array_equal, resumed, one[3:])


def test_an_absent_task_keeps_its_state(problem):
    (_, (before, _)), (_, (after, _)) = problem.train_alone(chain(rho=1.0, steps_per_epoch=1))[
        1:3
    ]  # the third: no "depth"
    for name in ("logits", "shares"):
        changed = getattr(before, name) != getattr(after, name)
        np.testing.assert_array_equal(changed, [True, False, True])
    np.testing.assert_array_equal(after.adam.count, [3, 2, 3])
    assert task_weights(after)[1] == 0
    assert task_weights(after)[0] > 0


def given_at(problem, params, order=(0, 1, 2), scale=1.0):
    """The problem's first step, with the tasks in another order or scaled losses."""
    gradients = problem.task_gradients(params, {key: value[0] for key, value in problem.batches.items()})
    order = np.array(order)
    return TaskGradients(
        tuple(TASKS[i] for i in order),
        gradients.losses[order] * scale,
        gradients.present[order],
        jnp.ones(3),
        lambda cotangent: gradients.pullback((cotangent * scale)[np.argsort(order)]),
        lambda params: gradients.losses_at(params)[order] * scale,
        second_losses_at=lambda params: gradients.second_losses_at(params)[order] * scale,
    )


def test_order_of_the_tasks_does_not_matter(problem):
    found = []
    for order in ([0, 1, 2], [2, 0, 1]):
        tx = chain(tuple(TASKS[i] for i in order), rho=1.0)
        found.append(
            jax.jit(lambda p, tx=tx, order=order: tx.update(given_at(problem, p, order), tx.init(p), p))(problem.params)
        )
    (updates, (state, _)), (other_updates, (other_state, _)) = found
    jax.tree.map(functools.partial(np.testing.assert_allclose, atol=1e-4), other_updates, updates)
    for name in ("shares", "task_weights"):
        np.testing.assert_allclose(getattr(other_state, name), getattr(state, name)[np.array([2, 0, 1])], atol=1e-3)


def test_losses_of_any_size_give_finite_updates(problem):
    tx = chain()
    for scale in (0.0, 1e-6, 1e3, 1e6):
        found = jax.jit(lambda p, s=scale: tx.update(given_at(problem, p, scale=s), tx.init(p), p))(problem.params)
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(found))


def test_one_task_combines_its_two_gradients():
    """The update is F + nu z for one task, with the two losses a p and b p and no change in alpha."""
    params, tx = jnp.array([1.0, 2.0]), chain(("a",), rho=0.5)
    a, b = jnp.array([1.0, 3.0]), jnp.array([4.0, 3.0])
    given = TaskGradients(
        ("a",),
        (a @ params)[None],
        jnp.ones(1, bool),
        jnp.ones(1),
        lambda c: c[0] * a,
        lambda params: (a @ params)[None],
        second_losses_at=lambda params: (b @ params)[None],
    )
    updates, _ = tx.update(given, tx.init(params), params)
    nu = 0.5 - (a @ b / 5) / (a @ a)
    np.testing.assert_allclose(updates, -0.1 * (b / 5 + nu * a), rtol=1e-5)


def test_weights_of_the_methods_before_are_part_of_the_losses(problem):
    spec = (("static", {"weights": dict.fromkeys(TASKS, 2.0)}), ("forum", {"meta_rate": 0.05, "rho": 1.0}))
    tx = build_weighting(spec, TASKS, optax.sgd(0.1), defaults={"steps_per_epoch": 10})
    updates, (_, state, _) = jax.jit(lambda p: tx.update(given_at(problem, p), tx.init(p), p))(problem.params)
    other = chain(rho=1.0)
    scaled = jax.jit(lambda p: other.update(given_at(problem, p, scale=2.0), other.init(p), p))(problem.params)
    jax.tree.map(functools.partial(np.testing.assert_allclose, atol=1e-5), updates, scaled[0])
    np.testing.assert_allclose(state.task_weights, 2 * scaled[1][0].task_weights, rtol=1e-4)


def test_it_comes_last_and_reads_a_second_batch():
    assert needs_of("static+forum").second_batch
    with pytest.raises(ValueError, match="forum turns the losses into a gradient, so it must come last"):
        build_weighting("forum+equal", TASKS, optax.sgd(0.1), defaults={"steps_per_epoch": 5})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps_per_epoch": 0}, "forum steps_per_epoch is 0; expected an integer of at least 1"),
        ({"rho": -1.0}, "forum rho is -1.0; expected a finite number of at least 0"),
        ({"meta_rate": float("nan")}, "forum meta_rate is nan"),
        ({"inner_rate": -1}, "forum inner_rate is -1; expected a finite number of at least 0"),
        ({"inner_steps": 0}, "forum inner_steps is 0; expected an integer of at least 1"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        chain(**options)
