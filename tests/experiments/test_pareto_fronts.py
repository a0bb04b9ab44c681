"""experiments/pareto_fronts: whole fronts trained by vmap lie on the known fronts, and match the preferences."""

import dataclasses
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from draw_fronts import figure, table
from front_problems import PROBLEMS, distances
from front_training import METHODS, preference_vectors, train

EXPERIMENT = pathlib.Path(__file__).parents[2] / "experiments" / "pareto_fronts"
CONCAVE = dataclasses.replace(PROBLEMS["concave"], steps=400)


@pytest.fixture(scope="module")
def fronts():
    with jax.enable_x64(True):
        return {name: train(name, CONCAVE, preference_vectors(5)) for name in METHODS}


def largest_ratio(losses, preferences):
    scaled = losses * preferences
    return (scaled.max(1) / scaled.min(1)).max()


def test_every_member_is_on_the_front(fronts):
    """Seen: 3e-4 after 400 steps, 5e-5 after 1000. The front is 1.4 long."""
    for name, losses in fronts.items():
        assert distances(CONCAVE, losses).max() < 1e-3, name


def test_losses_are_inversely_proportional_to_the_preferences(fronts):
    """EPO stops balancing at mu = 1e-4. With two tasks, mu = d^2 / 2 for shares (1 +- d) / 2: a ratio of 1.029."""
    preferences = preference_vectors(5)
    assert largest_ratio(fronts["epo"], preferences) < 1.035
    # The smooth maximum differs from the maximum by the order of mu = 0.01.
    assert largest_ratio(fronts["stch"], preferences) < 1.05


def test_static_weights_reach_only_the_ends_of_a_concave_front_and_hypervolume_spreads(fronts):
    ends = CONCAVE.front(np.array([0.0, 1.0]))
    to_ends = np.linalg.norm(fronts["static"][:, None] - ends[None], axis=2).min(1)
    assert to_ends.max() < 0.05
    losses = np.sort(fronts["hypervolume"][:, 0])
    assert np.diff(losses).min() > 0.05
    assert np.ptp(losses) > 0.5


@pytest.mark.parametrize("name", ["epo", "stch", "static"])
def test_vmap_is_a_loop_over_preferences(name, fronts):
    """Each member alone, from the same initial parameters."""
    preferences = preference_vectors(5)
    keys = [jax.random.fold_in(jax.random.key(0), member) for member in range(5)]
    with jax.enable_x64(True):
        for member in (0, 3):
            alone = dataclasses.replace(CONCAVE, initialize=lambda _, member=member: CONCAVE.initialize(keys[member]))
            found = train(name, alone, preferences[member : member + 1])
            # Rounding is amplified where EPO changes between balancing and descent.
            np.testing.assert_allclose(found[0], fronts[name][member], atol=1e-6)


def test_the_known_fronts_are_fronts():
    """No random point dominates a point of the front, and the front's points are losses of the problem."""
    rng, front = np.random.default_rng(0), CONCAVE.front(np.linspace(0, 1, 101))
    directions = np.ones(20) / np.sqrt(20)
    with jax.enable_x64(True):
        evaluate = jax.jit(jax.vmap(lambda x: CONCAVE.losses({"x": x})))
        on_set = evaluate(jnp.asarray(np.linspace(-1, 1, 101)[:, None] * directions))
        near = evaluate(jnp.asarray(rng.uniform(-1.2, 1.2, (500, 1)) * directions + 0.05 * rng.normal(size=(500, 20))))
    np.testing.assert_allclose(on_set, front, atol=1e-12)
    assert not (np.asarray(near)[:, None] < front[None] - 1e-9).all(2).any()
    network = PROBLEMS["network"]
    roots = np.sqrt(network.front(np.linspace(0, 1, 11))).sum(1)
    np.testing.assert_allclose(roots, roots[0])


def test_the_readme_and_the_figure_are_those_of_the_results():
    results = json.loads((EXPERIMENT / "results.json").read_text())
    assert table(results) in (EXPERIMENT / "README.md").read_text()
    figure(results).canvas.draw()
    for key, methods in results["problems"].items():
        for name, found in methods.items():
            losses = np.array(found["losses"])
            assert losses.shape == (10, 2)
            assert distances(PROBLEMS[key], losses).max() == pytest.approx(found["distance"], abs=2e-5), name
            assert found["distance"] < 2e-4
