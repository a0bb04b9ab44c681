"""PBI and COSMOS against TorchJD and COSMOS' authors (tests/reference/make_torchjd.py), and their properties."""

import functools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtan_jax.weighting import TaskGradients, cosmos, pbi

REFERENCE = pathlib.Path(__file__).parents[2] / "reference" / "torchjd.npz"
TASKS = ("semantic", "depth", "normal")
PREFERENCE = dict(zip(TASKS, (1.0, 0.25, 3.0), strict=True))
STRONG = {pbi: {"theta": 5.0}, cosmos: {"penalty": 20.0}}
each_method = pytest.mark.parametrize("method", [pbi, cosmos])


def factors_of(tx, tasks, losses, present=None, weights=None):
    losses = jnp.asarray(losses)
    present = jnp.ones(len(tasks), bool) if present is None else jnp.asarray(present)
    weights = jnp.ones_like(losses) if weights is None else jnp.asarray(weights)
    found, _ = tx.update(TaskGradients(tasks, losses, present, weights, None), tx.init(None))
    return np.asarray(found.weights / weights)


@pytest.mark.parametrize("tasks", [2, 3, 10])
def test_published_codes(tasks):
    names = tuple(f"task_{i}" for i in range(tasks))
    with jax.enable_x64(True), np.load(REFERENCE, allow_pickle=False) as stored:
        losses, preference, ideal = (stored[f"{tasks}/{name}"] for name in ("losses", "preference", "ideal"))
        weights, points = (dict(zip(names, map(float, values), strict=True)) for values in (preference, ideal))
        for tx, name, tolerance in (
            (pbi(names, weights=weights, theta=5.0, ideal=points), "torchjd/pbi", 1e-9),
            (cosmos(names, weights=weights, penalty=2.0), "torchjd/cosmos", 1e-9),
            (cosmos(names, weights=weights, penalty=2.0), "authors/cosmos", 1e-6),  # their preference is float32
        ):
            found = np.stack([factors_of(tx, names, row) for row in losses])
            expected = stored[f"{tasks}/{name}"]
            assert np.ptp(expected, axis=0).min() > 0.01
            np.testing.assert_allclose(found, expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("tx", [pbi(TASKS, weights=PREFERENCE), cosmos(TASKS, weights=PREFERENCE)])
def test_on_the_line_of_the_preference_the_weights_are_those_of_the_preference(tx):
    direction = np.array(list(PREFERENCE.values()), np.float32)
    found = factors_of(tx, TASKS, 1.7 * direction)
    np.testing.assert_allclose(found / np.linalg.norm(found), direction / np.linalg.norm(direction), atol=2e-3)


@each_method
def test_gradient_descent_on_the_losses_approaches_the_ratios_of_the_preference(method):
    """Each loss is a parameter of its own; without the second term, the angle to the preference grows."""
    tx = method(TASKS, weights=PREFERENCE, **STRONG[method])
    losses = np.array([1.0, 1.0, 1.0], np.float32)
    step = jax.jit(functools.partial(factors_of_jitted, tx))
    ratios = np.array(list(PREFERENCE.values())) / np.linalg.norm(list(PREFERENCE.values()))
    start = losses @ ratios / np.linalg.norm(losses)
    for _ in range(100):
        losses = losses - 1e-3 * np.asarray(step(losses))
    assert losses @ ratios / np.linalg.norm(losses) > start + 0.05


def factors_of_jitted(tx, losses):
    given = TaskGradients(TASKS, losses, jnp.ones(3, bool), jnp.ones(3), None)
    return tx.update(given, tx.init(None))[0].weights


@each_method
def test_a_weight_is_negative_where_a_loss_is_far_below_its_ratio(method):
    found = factors_of(method(TASKS, weights=PREFERENCE, **STRONG[method]), TASKS, [1.0, 1.0, 0.1])
    assert found[1] > 0 > found[2]


@each_method
def test_an_absent_task_has_no_effect(method):
    options = {"weights": PREFERENCE}
    found = factors_of(method(TASKS, **options), TASKS, [0.5, 0.0, 2.0], [True, False, True])
    pair = {task: PREFERENCE[task] for task in TASKS[::2]}
    others = factors_of(method(TASKS[::2], weights=pair), TASKS[::2], [0.5, 2.0])
    np.testing.assert_allclose(found, [others[0], 0, others[1]], rtol=1e-6)
    # Alone, a task keeps its plain direction; without tasks, and for tasks without preference, nothing is infinite.
    alone = factors_of(method(TASKS, **options), TASKS, [0.0, 0.3, 0.0], [False, True, False])
    np.testing.assert_allclose(alone, [0, 1 if method is pbi else 0.25, 0], rtol=1e-6)
    unwanted = method(TASKS, weights={"semantic": 0.0, "depth": 1.0, "normal": 0.0})
    assert np.isfinite(factors_of(unwanted, TASKS, [1.0, 0.0, 2.0], [True, False, True])).all()
    np.testing.assert_array_equal(factors_of(method(TASKS), TASKS, [0.0] * 3, [False] * 3), 0)


@each_method
def test_weights_of_the_methods_before_are_part_of_the_losses(method):
    tx, before = method(TASKS, weights=PREFERENCE), np.array([1.0, 3.0, 0.2], np.float32)
    losses = np.array([0.5, 1.0, 2.0], np.float32)
    found = factors_of(tx, TASKS, losses, weights=before)
    np.testing.assert_allclose(found, factors_of(tx, TASKS, losses * before), rtol=1e-5)


def test_without_a_penalty_the_weights_are_the_preference():
    direction = np.array(list(PREFERENCE.values()))
    losses = [0.3, 2.0, 1.0]
    found = factors_of(pbi(TASKS, weights=PREFERENCE, theta=0.0), TASKS, losses)
    np.testing.assert_allclose(found, direction / np.linalg.norm(direction), rtol=1e-6)
    found = factors_of(cosmos(TASKS, weights=PREFERENCE, penalty=0.0), TASKS, losses)
    np.testing.assert_allclose(found, direction, rtol=1e-6)
    np.testing.assert_allclose(factors_of(cosmos(TASKS, penalty=0.0), TASKS, losses), 1 / 3, rtol=1e-6)


@pytest.mark.parametrize(
    ("method", "options", "message"),
    [
        (pbi, {"theta": -1.0}, "pbi theta is -1.0; expected a finite number of at least 0"),
        (pbi, {"weights": {"depth": 1.0}}, r"pbi weights: missing \['normal', 'semantic'\]"),
        (pbi, {"weights": dict.fromkeys(TASKS, 0.0)}, "pbi weights are all 0; expected at least one above 0"),
        (pbi, {"weights": {**PREFERENCE, "depth": -1.0}}, "pbi weight of 'depth' is -1.0; expected a finite number"),
        (pbi, {"ideal": {"depth": 0.0}}, r"pbi ideal: missing \['normal', 'semantic'\]"),
        (pbi, {"ideal": dict.fromkeys(TASKS, float("inf"))}, "pbi ideal of 'semantic' is inf; expected a finite"),
        (cosmos, {"penalty": float("nan")}, "cosmos penalty is nan; expected a finite number of at least 0"),
        (cosmos, {"weights": dict.fromkeys(TASKS, 0.0)}, "cosmos weights are all 0"),
    ],
)
def test_bad_options(method, options, message):
    with pytest.raises(ValueError, match=message):
        method(TASKS, **options)
