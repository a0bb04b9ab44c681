"""Each schedule against its equation in plain Python."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtan_jax.weighting import schedule, schedules

STEPS = np.arange(60)


def rise(u):
    return (1 - math.cos(math.pi * min(max(u, 0), 1))) / 2


def line(points):
    """Linear interpolation between the two points around a step."""

    def weight(t):
        for (before, low), (after, high) in itertools.pairwise(points):
            if before <= t < after:
                return low + (high - low) * (t - before) / (after - before)
        return points[0][1] if t < points[0][0] else points[-1][1]

    return weight


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (schedules.constant(0.7), lambda t: 0.7),
        (schedules.linear(1.0, 0.2, 20), line([(0, 1.0), (20, 0.2)])),
        (schedules.linear(0.0, 3.0, 10, transition_begin=5), line([(5, 0.0), (15, 3.0)])),
        (schedules.cosine(0.5, 2.0, 20), lambda t: 0.5 + 1.5 * rise(t / 20)),
        (schedules.cosine(2.0, 0.0, 7, transition_begin=30), lambda t: 2 - 2 * rise((t - 30) / 7)),
        (schedules.step(0.0, 1.5, 17), lambda t: 1.5 if t >= 17 else 0.0),
        (schedules.step(2, 1, 0), lambda t: 1),
        (schedules.piecewise({0: 0.0, 10: 1.0, 40: 0.25}), line([(0, 0.0), (10, 1.0), (40, 0.25)])),
        (schedules.piecewise({5: 2, 8: 0}), line([(5, 2), (8, 0)])),
        (schedules.cyclic(0.5, 1.5, 20), lambda t: 1 - 0.5 * math.cos(2 * math.pi * t / 20)),
        (schedules.cyclic(0.0, 2.0, 9, phase=0.5), lambda t: 1 + math.cos(2 * math.pi * t / 9)),
    ],
)
def test_values(function, expected):
    found = jax.jit(jax.vmap(lambda step: jnp.asarray(function(step), jnp.float32)))(STEPS)
    # A cosine in float32.
    np.testing.assert_allclose(found, [expected(t) for t in STEPS], atol=2e-6)
    assert found[13] == pytest.approx(float(function(13)), abs=2e-6)  # a Python integer works too


def follow(weights, steps=STEPS):
    """Weights [steps, t]."""
    stacked = jax.jit(jax.vmap(lambda step: jnp.stack([function(step) for function in weights.values()])))
    return np.asarray(stacked(np.asarray(steps, np.int32)))


def test_a_curriculum_by_hand():
    weights = schedules.curriculum(("c", "a", "b"), 10, overlap=4, low=0.5, high=2.0)
    assert list(weights) == ["c", "a", "b"]
    shares = np.zeros((60, 3))
    shares[:10, 0] = shares[10:20, 1] = shares[20:, 2] = 1
    for start, before, after in ((6, 0, 1), (16, 1, 2)):
        ramp = [rise(i / 4) for i in range(4)]
        shares[start : start + 4, after] = ramp
        shares[start : start + 4, before] = 1 - np.array(ramp)
    np.testing.assert_allclose(follow(weights), 0.5 + 1.5 * shares, atol=1e-6)


def test_without_overlap_a_turn_starts_at_once():
    found = follow(schedules.curriculum(("a", "b", "c"), 10))
    np.testing.assert_array_equal(found, np.eye(3)[np.minimum(STEPS // 10, 2)])


def test_a_repeating_curriculum_starts_over():
    found = follow(schedules.curriculum(("a", "b", "c"), 10, repeat=True))
    np.testing.assert_array_equal(found, np.eye(3)[STEPS // 10 % 3])
    found = follow(schedules.curriculum(("a", "b", "c"), 10, overlap=6, repeat=True))
    np.testing.assert_array_equal(found[30:], found[:30])
    np.testing.assert_allclose(found[27], [0.5, 0.0, 0.5], atol=1e-6)  # transition from the last task to the first
    np.testing.assert_array_equal(found[0], [1, 0, 0])


@pytest.mark.parametrize("options", [{}, {"overlap": 10}, {"overlap": 7, "repeat": True}, {"low": 0.2, "high": 3.0}])
def test_weights_of_a_curriculum_have_a_constant_sum(options):
    found = follow(schedules.curriculum(("a", "b", "c", "d"), 10, **options))
    expected = options.get("high", 1.0) + 3 * options.get("low", 0.0)
    np.testing.assert_allclose(found.sum(1), expected, rtol=1e-6)
    assert found.min() >= 0


def test_cycles_with_evenly_spaced_phases_have_a_constant_sum():
    found = follow({i: schedules.cyclic(0.5, 2.0, 21, phase=i / 3) for i in range(3)})
    np.testing.assert_allclose(found.sum(1), 3.75, rtol=1e-6)


def test_a_million_steps_later_the_cycle_is_the_same():
    weights = {"a": schedules.cyclic(0.0, 1.0, 30), **schedules.curriculum(("b", "c", "d"), 10, overlap=3, repeat=True)}
    np.testing.assert_array_equal(follow(weights, STEPS + 30_000_000), follow(weights))


def test_schedule_accepts_all_of_them():
    weights = {name: getattr(schedules, name) for name in schedules.__all__}
    made = {
        "constant": weights["constant"](1.0),
        "linear": weights["linear"](1.0, 0.0, 10),
        "cosine": weights["cosine"](1.0, 0.0, 10),
        "step": weights["step"](1.0, 0.0, 10),
        "piecewise": weights["piecewise"]({0: 1.0, 10: 0.0}),
        "cyclic": weights["cyclic"](0.0, 1.0, 10),
        **weights["curriculum"](("curriculum",), 10),
    }
    assert set(made) == set(schedules.__all__)
    schedule(tuple(made), weights=made)  # traces each


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: schedules.constant(-1.0), "constant value is -1.0; expected a finite number of at least 0"),
        (lambda: schedules.linear(-1.0, 0.0, 10), "linear init_value is -1.0; expected a finite number of at least 0"),
        (lambda: schedules.linear(1.0, 0.0, 0), "linear transition_steps is 0; expected an integer of at least 1"),
        (lambda: schedules.cosine(-1.0, 0.0, 10), "cosine init_value is -1.0; expected a finite number of at least 0"),
        (lambda: schedules.cosine(1.0, math.nan, 10), "cosine end_value is nan"),
        (
            lambda: schedules.cosine(1.0, 0.0, 0),
            "cosine transition_steps is 0; expected an integer of at least 1",
        ),
        (
            lambda: schedules.cosine(1.0, 0.0, 10, -1),
            "transition_begin is -1; expected an integer of at least 0",
        ),
        (lambda: schedules.step("1", 0.0, 10), "step init_value is '1'; expected a finite number"),
        (lambda: schedules.step(1.0, 0.0, 10.5), "step transition_begin is 10.5; expected an integer"),
        (lambda: schedules.piecewise({}), r"piecewise points are \{\}; expected at least one"),
        (lambda: schedules.piecewise({10: 1.0, 0: 0.0}), "with increasing steps"),
        (
            lambda: schedules.piecewise({-5: 1.0, 0: 0.0}),
            "piecewise step of points is -5; expected an integer of at least 0",
        ),
        (
            lambda: schedules.piecewise({0: 1.0, 7: -2.0}),
            "piecewise weight at step 7 is -2.0; expected a finite",
        ),
        (lambda: schedules.cyclic(0.0, math.inf, 10), "cyclic high is inf"),
        (lambda: schedules.cyclic(0.0, 1.0, 0), "cyclic period is 0; expected an integer of at least 1"),
        (
            lambda: schedules.cyclic(0.0, 1.0, 10, phase=math.nan),
            "cyclic phase is nan; expected a finite number",
        ),
        (lambda: schedules.curriculum((), 10), "at least one name, without repeats"),
        (lambda: schedules.curriculum(("a", "b"), 0), "curriculum turn is 0"),
        (
            lambda: schedules.curriculum(("a", "b"), 10, overlap=11),
            "overlap is 11; expected at most the 10 steps",
        ),
        (lambda: schedules.curriculum(("a", "b"), 10, low=-1), "curriculum low is -1"),
    ],
)
def test_messages(make, message):
    with pytest.raises(ValueError, match=message):
        make()
