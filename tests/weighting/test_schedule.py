import math

import jax.numpy as jnp
import numpy as np
import optax
import pytest

from mtan_jax.weighting import schedule

TASKS = ("semantic", "depth", "normal")


def test_optax_schedules_python_functions_and_constants(follow):
    weights = {
        "semantic": optax.linear_schedule(1.0, 0.0, transition_steps=4),
        "depth": optax.cosine_decay_schedule(2.0, decay_steps=4),
        "normal": lambda step: jnp.where(step < 2, 0.5, step**2),
    }
    factors, state = follow(schedule(TASKS, weights=weights), TASKS, np.ones((6, 3)))
    expected = [[max(1 - t / 4, 0), 1 + math.cos(math.pi * min(t, 4) / 4), 0.5 if t < 2 else t * t] for t in range(6)]
    # A cosine in float32.
    np.testing.assert_allclose(factors, expected, atol=1e-6)
    assert state.steps == 6


def test_constants_and_functions_without_the_step(follow):
    weights = {"semantic": 2, "depth": lambda step: 3, "normal": np.float64(0.25)}
    factors, _ = follow(schedule(TASKS, weights=weights), TASKS, np.ones((2, 3)))
    np.testing.assert_array_equal(factors, [[2, 3, 0.25]] * 2)


@pytest.mark.parametrize(
    "function",
    [
        lambda step: 1.0 if step < 5 else 0.1,
        lambda step: math.exp(-float(step)),
        lambda step: np.cos(step),
        lambda step: [1.0, 0.5, 0.25][step],
        lambda step: sum(0.5**i for i in range(step)),
        lambda step: 0.9 ** step.item(),
    ],
    ids=["if", "float", "numpy", "index", "range", "item"],
)
def test_a_function_that_needs_the_step_in_python_is_refused_at_once(function):
    with pytest.raises(ValueError, match=r"schedule weight of 'depth': .* use jnp.where\(step < 1000, 1.0, 0.1\)"):
        schedule(TASKS, weights={"semantic": 1.0, "depth": function, "normal": 1.0})


@pytest.mark.parametrize(
    ("weight", "message"),
    [
        (lambda step: jnp.ones(3), "the function gives .*; one number is needed"),
        (lambda step: None, "one number is needed"),
        (lambda step: (step, step), "one number is needed"),
        (lambda step: step < 3, "one number is needed"),
        (-0.5, "schedule weight of 'depth' is -0.5: a finite number of at least 0"),
    ],
)
def test_messages(weight, message):
    with pytest.raises(ValueError, match=message):
        schedule(TASKS, weights={"semantic": 1.0, "depth": weight, "normal": 1.0})


def test_a_task_without_a_weight_is_named():
    with pytest.raises(ValueError, match=r"schedule weights: missing \['normal'\], unknown \['norm'\]"):
        schedule(TASKS, weights={"semantic": 1.0, "depth": 1.0, "norm": 1.0})
