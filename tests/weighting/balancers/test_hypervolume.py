"""Hypervolume maximization against its authors' code (tests/reference/make_pareto.py) and by hand."""

import functools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtan_jax.weighting import TaskGradients, hypervolume
from mtan_jax.weighting.balancers.hypervolume import front_indices, volume_by_slices, volume_by_subsets

REFERENCE = pathlib.Path(__file__).parents[2] / "reference" / "pareto.npz"


def names(count):
    return tuple(f"task_{i}" for i in range(count))


def weights_of(population, reference=None, present=None, factors=None):
    """The weights of all members; population is [members, t]."""
    tasks = names(population.shape[1])
    tx = hypervolume(tasks, reference=reference, members="members")
    present = jnp.ones(len(tasks), bool) if present is None else jnp.asarray(present)
    factors = jnp.ones(len(tasks)) if factors is None else jnp.asarray(factors)

    def member(losses):
        given = TaskGradients(tasks, losses, present, factors, lambda cotangent: cotangent)
        return tx.update(given, tx.init(None))[0].weights / factors

    return np.asarray(jax.vmap(member, axis_name="members")(jnp.asarray(population)))


# Float64: seen 9e-14. Float32: seen 7e-6.
@pytest.mark.parametrize(("x64", "bound"), [(True, 1e-11), (False, 5e-5)])
@pytest.mark.parametrize("tasks", [2, 3, 10])
def test_the_code_of_the_authors(tasks, x64, bound):
    """20 populations; members with losses above the reference point move it."""
    with np.load(REFERENCE, allow_pickle=False) as stored:
        populations, expected = stored[f"{tasks}/population"], stored[f"{tasks}/hypervolume"]
    assert len({len(np.unique(np.asarray(front_indices(jnp.asarray(p.T))))) for p in populations}) > 1 or tasks == 10
    with jax.enable_x64(x64):
        found = jax.jit(functools.partial(weights_of_all, reference=np.full(tasks, 2.0)))(
            jnp.asarray(populations.swapaxes(1, 2))
        )
    np.testing.assert_allclose(found, expected.swapaxes(1, 2), atol=bound)


def weights_of_all(populations, reference):
    tasks = names(populations.shape[2])
    tx = hypervolume(tasks, reference=reference, members="members")

    def member(losses):
        given = TaskGradients(tasks, losses, jnp.ones(len(tasks), bool), jnp.ones(len(tasks)), lambda c: c)
        return tx.update(given, tx.init(None))[0].weights

    return jax.lax.map(jax.vmap(member, axis_name="members"), populations)


@pytest.mark.parametrize("tasks", [2, 3, 4])
def test_both_volumes_are_the_share_of_random_points_that_are_dominated(tasks):
    rng = np.random.default_rng(tasks)
    points = rng.uniform(0.2, 1, (5, tasks))
    sample = rng.random((40_000, tasks))
    share = (sample[:, None] >= points[None]).all(2).any(1).mean()
    for volume in (volume_by_slices, volume_by_subsets):
        # Five standard errors of the mean.
        assert jax.jit(volume)(jnp.asarray(points, jnp.float32)) == pytest.approx(share, abs=5 * 0.5 / np.sqrt(40_000))
    np.testing.assert_allclose(volume_by_slices(jnp.asarray(points)), volume_by_subsets(jnp.asarray(points)), rtol=1e-5)


def test_one_member_by_hand():
    """HV = prod_i (r_i - L_i), whose gradient is proportional to 1 / (r_i - L_i)."""
    losses, reference = jnp.array([0.5, 1.0, 0.2]), np.array([1.0, 3.0, 0.5])
    tx = hypervolume(names(3), reference=dict(zip(names(3), map(float, reference), strict=True)))
    given = TaskGradients(names(3), losses, jnp.ones(3, bool), jnp.ones(3), lambda c: c)
    expected = 1 / (reference - np.asarray(losses))
    found = tx.update(given, tx.init(None))[0].weights
    np.testing.assert_allclose(found, expected / np.linalg.norm(expected), rtol=1e-5)


def test_two_tasks_by_hand():
    """Between its neighbors a member's box has sides of these lengths; (2, 2) is dominated and alone in its front."""
    population = np.array([[0.5, 1.5], [1.0, 1.0], [1.5, 0.5], [2.0, 2.0]], np.float32)
    sides = np.array([[3 - 1.5, 1.0 - 0.5], [0.5, 0.5], [0.5, 3 - 1.5], [1.0, 1.0]])
    expected = sides / np.linalg.norm(sides, axis=1, keepdims=True)
    np.testing.assert_allclose(weights_of(population, np.array([3.0, 3.0])), expected, rtol=1e-5)
    equal = population[[0, 1, 1, 2, 3]]
    np.testing.assert_allclose(weights_of(equal, np.array([3.0, 3.0])), expected[[0, 1, 1, 2, 3]], rtol=1e-5)
    scaled = weights_of(population / [1.0, 10.0], np.array([3.0, 3.0]), factors=[1.0, 10.0])
    np.testing.assert_allclose(scaled, expected, rtol=1e-5)


def test_an_absent_task_has_no_effect():
    population = np.random.default_rng(0).uniform(0.1, 2, (6, 3)).astype(np.float32)
    given = population * [1, 0, 1]
    found = weights_of(given, np.full(3, 3.0), present=[True, False, True])
    assert (found[:, 1] == 0).all()
    np.testing.assert_allclose(found[:, [0, 2]], weights_of(population[:, [0, 2]], np.full(2, 3.0)), rtol=1e-4)


def test_losses_of_any_size_have_finite_weights():
    for values in ([1e15, 1e-15, 1.0], [0.0, 0.0, 0.0], [1e20, 1e20, 1e-20]):
        population = np.array([values, values[::-1], [1.0, 1.0, 1.0]], np.float32)
        found = weights_of(population)
        assert np.isfinite(found).all()
        assert (found >= 0).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"members": 3}, "hypervolume members is 3; expected the name of an axis of jax.vmap, or None"),
        (
            {"reference": {"a": 1.0}},
            r"hypervolume reference: missing \['b'\], unknown \[\]; expected exactly",
        ),
        ({"reference": [1.0, -2.0]}, "hypervolume reference of 'b' is -2.0; expected a finite number above 0"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        hypervolume(("a", "b"), **options)
