"""Dynamic task prioritization, against a published code and against its equations by hand."""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtan_jax.weighting import TaskGradients, dtp

REFERENCE = pathlib.Path(__file__).parents[2] / "reference" / "dtp.npz"


def names(count):
    return tuple(f"task_{i}" for i in range(count))


def follow(tx, indicators, present=None):
    """Weights and averages at each step."""
    tasks = names(indicators.shape[1])
    present = np.ones(indicators.shape, bool) if present is None else present

    @jax.jit
    def step(state, indicators, present):
        ones = jnp.ones(len(tasks))
        given = TaskGradients(tasks, ones, present, ones, lambda cotangent: cotangent, indicators=indicators)
        gradients, state = tx.update(given, state)
        return gradients.weights, state

    state = tx.init(None)
    weights, averages = [], []
    for row in zip(indicators.astype(np.float32), present, strict=True):
        found, state = step(state, *row)
        weights.append(found)
        averages.append(state.averages)
    return np.asarray(weights), np.asarray(averages)


@pytest.mark.parametrize("tasks", [2, 3, 10])
def test_the_code_of_yun_and_cho(tasks):
    """Weights of 24 updates, from tests/reference/make_dtp.py."""
    with np.load(REFERENCE, allow_pickle=False) as stored:
        for gamma in (0.5, 1, 2):
            weights, _ = follow(dtp(names(tasks), gamma=gamma, alpha=0.1), stored[f"{tasks}/indicators"])
            # Float32 against float64; seen 6e-7.
            np.testing.assert_allclose(weights, stored[f"{tasks}/{gamma}/weights"], rtol=5e-6)


@pytest.mark.parametrize("tasks", [2, 3, 10])
def test_by_hand(tasks):
    """24 steps with absent tasks, and gamma and alpha other than the defaults."""
    rng = np.random.default_rng(tasks)
    for alpha in (0.3, 1.0):
        indicators, present = rng.uniform(0.02, 0.98, (24, tasks)), rng.random((24, tasks)) < 0.7
        gamma = dict(zip(names(tasks), rng.uniform(0, 3, tasks), strict=True))
        weights, averages = follow(dtp(names(tasks), gamma=gamma, alpha=alpha), indicators, present)
        for i, power in enumerate(gamma.values()):
            k = None
            for step in range(24):
                if present[step, i]:
                    k = indicators[step, i] if k is None else alpha * indicators[step, i] + (1 - alpha) * k
                if k is not None:
                    assert averages[step, i] == pytest.approx(k, rel=1e-5)
                    assert weights[step, i] == pytest.approx(-((1 - k) ** power) * np.log(k), rel=1e-5)
                else:
                    assert weights[step, i] == 1


def test_indicators_of_zero_and_one():
    weights, _ = follow(dtp(names(3), gamma=2.0), np.array([[0.0, 1.0, 0.5]]))
    np.testing.assert_allclose(weights[0], [20 * np.log(10), 0, 0.25 * np.log(2)], rtol=1e-6)


def test_a_present_task_without_an_indicator_stops_training():
    indicators = np.array([[np.nan, 0.5]])
    assert np.isnan(follow(dtp(names(2)), indicators)[0][0, 0])
    weights, _ = follow(dtp(names(2)), indicators, present=np.array([[False, True]]))
    assert np.isfinite(weights).all()
    without = TaskGradients(names(2), jnp.ones(2), jnp.ones(2, bool), jnp.ones(2), lambda cotangent: cotangent)
    with pytest.raises(ValueError, match=r"dtp needs performance indicators, but TaskGradients\.indicators is None"):
        dtp(names(2)).update(without, dtp(names(2)).init(None))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"gamma": -1.0}, "gamma of 'task_0' is -1.0; expected a finite number of at least 0"),
        ({"gamma": {"task_0": 1.0}}, r"gamma is given for \['task_0'\]; expected exactly \['task_0', 'task_1'\]"),
        ({"alpha": 0.0}, "alpha is 0.0; expected a number above 0 and at most 1"),
        ({"alpha": 1.5}, "alpha is 1.5; expected a number above 0 and at most 1"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        dtp(names(2), **options)
