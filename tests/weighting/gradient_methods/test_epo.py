"""EPO against its authors' code (tests/reference/make_pareto.py), and its linear program against SciPy."""

import functools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy import optimize

from mtan_jax.weighting import TaskGradients, epo, task_weights
from mtan_jax.weighting.gradient_methods.epo import search
from mtan_jax.weighting.linear_program import maximize_on_simplex
from mtan_jax.weighting.solvers import unit_size

REFERENCE = pathlib.Path(__file__).parents[2] / "reference" / "pareto.npz"
each_count = pytest.mark.parametrize("tasks", [2, 3, 10])


@functools.cache
def stored():
    with np.load(REFERENCE, allow_pickle=False) as arrays:
        return dict(arrays)


def names(count):
    return tuple(f"task_{i}" for i in range(count))


def sets(tasks, dtype):
    keys = ("gradients", "losses", "preferences", "epo")
    return [[a.astype(dtype) for a in row] for row in zip(*(stored()[f"{tasks}/{key}"] for key in keys), strict=True)]


# Float64: seen 3e-12. Float32: seen 1.2e-3, where gradients of different lengths conflict.
@pytest.mark.parametrize(("x64", "bound"), [(True, 1e-9), (False, 3e-3)])
@each_count
def test_the_code_of_the_authors(tasks, x64, bound):
    with jax.enable_x64(x64):
        solve = jax.jit(functools.partial(search, tolerance=1e-4))
        for gradients, losses, preferences, expected in sets(tasks, np.float64 if x64 else np.float32):
            gram = unit_size(jnp.asarray(gradients @ gradients.T))
            weights = solve(gram, losses, jnp.ones(tasks, bool), preferences)
            np.testing.assert_allclose(weights / tasks, expected, atol=bound)


@pytest.mark.parametrize("given", ["mapping", "array"])
def test_the_method_takes_preferences(given):
    """Through the transformation: the combined gradient, and the weights of the log."""
    with jax.enable_x64(True):
        for gradients, losses, preferences, expected in sets(3, np.float64)[:4]:
            chosen = preferences if given == "array" else dict(zip(names(3), map(float, preferences), strict=True))
            tx = epo(names(3), preferences=chosen, shared=lambda path: True)
            task_gradients = TaskGradients(
                names(3), jnp.asarray(losses), jnp.ones(3, bool), jnp.ones(3), lambda c, rows=gradients: c @ rows
            )
            update, state = tx.update(task_gradients, tx.init(jnp.zeros(12)))
            np.testing.assert_allclose(update, 3 * expected @ gradients, atol=1e-8)
            np.testing.assert_allclose(task_weights(state), 3 * expected, atol=1e-6)


def program(rng, kind, tasks):
    """Constraints Gw >= b over the simplex, as in EPO, with some that do not apply and some elements fixed at 0."""
    gradients = rng.normal(size=(tasks, 12 if kind % 2 else 4))
    if kind == 1:
        gradients -= 1.1 * gradients.mean(0)
    if kind == 2:
        gradients *= 10 ** rng.uniform(-1.5, 1.5, (tasks, 1))
    gram = gradients @ gradients.T
    free = np.arange(tasks) > 0 if tasks > 2 and kind == 3 else np.ones(tasks, bool)
    active = rng.random(tasks) < (1 if kind == 1 else 0.6)
    return (
        gram @ rng.normal(size=tasks),
        gram,
        gram @ rng.normal(size=tasks) * (1.0 if kind == 0 else 0.3),
        active,
        free,
    )


# In float32 the constraints may be missed by 100 machine epsilons, 1e-5, which changes the objective by more.
@pytest.mark.parametrize(("x64", "bound"), [(True, 1e-8), (False, 1e-4)])
@each_count
def test_the_linear_program_against_scipy(tasks, x64, bound):
    rng, outcomes = np.random.default_rng(tasks), {True: 0, False: 0}
    with jax.enable_x64(x64):
        solve = jax.jit(maximize_on_simplex)
        for i in range(80):
            gain, rows, bounds, active, free = program(rng, i % 4, tasks)
            x, violation = solve(*(jnp.asarray(array) for array in (gain, rows, bounds, active, free)))
            scale = np.abs(np.where(free, rows, 0)).max(1)
            kept = active & (scale > 0)
            limits = [(0, None) if one else (0, 0) for one in free]
            options = {"A_eq": np.ones((1, tasks)), "b_eq": [1], "bounds": limits, "method": "highs"}
            if kept.any():
                options |= {"A_ub": -(rows / scale[:, None])[kept], "b_ub": -(bounds / scale)[kept]}
            size = np.abs(gain[free]).max()
            expected = optimize.linprog(-gain / size, **options)
            feasible = expected.status == 0
            outcomes[feasible] += 1
            if feasible:
                assert violation < bound
                np.testing.assert_allclose(np.asarray(x).sum(), 1, atol=1e-6)
                assert (np.asarray(x) >= 0).all()
                assert (np.asarray(x)[~free] == 0).all()
                np.testing.assert_allclose(x @ gain / size, -expected.fun, atol=bound)
            else:
                assert violation > 1e-4
                assert np.isfinite(x).all()
    assert min(outcomes.values()) >= 5


def test_without_a_solution_the_weights_are_the_preferences(monkeypatch):
    infeasible = lambda gain, *_: (jnp.full_like(gain, 0.3), jnp.ones(()))  # noqa: E731
    monkeypatch.setattr("mtan_jax.weighting.gradient_methods.epo.maximize_on_simplex", infeasible)
    weights = search(jnp.eye(3), jnp.ones(3), jnp.array([True, False, True]), jnp.array([1.0, 2.0, 3.0]), 1e-4)
    np.testing.assert_allclose(weights, [0.5, 0, 1.5])


@pytest.mark.parametrize("noise", [0.0, 1e-3])
@each_count
def test_on_the_front_the_combined_gradient_vanishes(tasks, noise):
    """Some convex combination of the gradients is (nearly) 0; the losses fit the preferences."""
    rng = np.random.default_rng(tasks)
    with jax.enable_x64(True):
        solve = jax.jit(functools.partial(search, tolerance=1e-4))
        for _ in range(10):
            gradients, shares = rng.normal(size=(tasks, 12)), rng.dirichlet(np.ones(tasks))
            gradients[-1] = -shares[:-1] @ gradients[:-1] / shares[-1]
            gradients += noise * rng.normal(size=gradients.shape)
            preferences = rng.uniform(0.2, 2, tasks)
            gram = unit_size(jnp.asarray(gradients @ gradients.T))
            weights = np.asarray(solve(gram, 1 / preferences, jnp.ones(tasks, bool), preferences)) / tasks
            longest = np.linalg.norm(gradients, axis=1).max()
            assert np.linalg.norm(weights @ gradients) < (20 * noise + 1e-3) * longest


def test_losses_of_zero_and_absent_tasks_have_finite_weights():
    gram = jnp.eye(3)
    for losses in ([0.0, 1.0, 2.0], [0.0, 0.0, 0.0], [1e-30, 1e30, 1.0]):
        for present in ([True, True, True], [True, False, True], [False, False, False]):
            found = search(
                gram * jnp.outer(jnp.array(present), jnp.array(present)),
                jnp.array(losses),
                jnp.array(present),
                jnp.ones(3),
                1e-4,
            )
            assert np.isfinite(found).all()
            np.testing.assert_allclose(np.asarray(found).sum(), sum(present), rtol=1e-4)
            assert (np.asarray(found)[~np.array(present)] == 0).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tolerance": 0.0}, "epo tolerance is 0.0; expected a finite number above 0"),
        ({"preferences": {"a": 1.0}}, r"epo preferences: missing \['b'\], unknown \[\]; expected exactly \['a', 'b'\]"),
        ({"preferences": {"a": 1.0, "b": 0.0}}, "epo preference of 'b' is 0.0; expected a finite number above 0"),
        ({"preferences": np.array([1.0, -1.0])}, "epo preference of 'b' is -1.0; expected a finite number above 0"),
        ({"preferences": np.ones(3)}, r"epo preferences: shape \(3,\); expected a mapping .* \(2,\)"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        epo(("a", "b"), **options)


def test_preferences_can_be_traced():
    def first_update(preferences):
        tx = optax.chain(epo(("a", "b"), preferences=preferences, shared=lambda path: True))
        params = jnp.array([1.0, 2.0])
        losses, pullback = jax.vjp(lambda p: jnp.array([[1.0, 0.5], [0.2, 1.0]]) @ p**2, params)
        given = TaskGradients(("a", "b"), losses, jnp.ones(2, bool), jnp.ones(2), lambda c: pullback(c)[0])
        return tx.update(given, tx.init(params), params)[0]

    vectors = jnp.array([[1.0, 1.0], [0.2, 1.0], [5.0, 1.0]])
    together = jax.jit(jax.vmap(first_update))(vectors)
    for vector, found in zip(vectors, together, strict=True):
        np.testing.assert_allclose(found, first_update(vector), rtol=1e-5)
    assert len(np.unique(together[:, 0])) > 1
