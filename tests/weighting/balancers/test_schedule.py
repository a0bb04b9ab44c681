import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from mtan_jax.weighting import TaskGradients, schedule, static, sum_tasks, task_weights

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
def test_a_function_that_needs_a_concrete_step_is_refused_at_once(function):
    with pytest.raises(ValueError, match=r"schedule weight of 'depth': .* use jnp.where\(step < 1000, 1.0, 0.1\)"):
        schedule(TASKS, weights={"semantic": 1.0, "depth": function, "normal": 1.0})


@pytest.mark.parametrize(
    ("weight", "message"),
    [
        (lambda step: jnp.ones(3), "the function returns .*; expected one number"),
        (lambda step: None, "expected one number"),
        (lambda step: (step, step), "expected one number"),
        (lambda step: step < 3, "expected one number"),
        (-0.5, "schedule weight of 'depth' is -0.5; expected a finite number of at least 0"),
    ],
)
def test_messages(weight, message):
    with pytest.raises(ValueError, match=message):
        schedule(TASKS, weights={"semantic": 1.0, "depth": weight, "normal": 1.0})


def test_a_task_without_a_weight_is_named():
    with pytest.raises(ValueError, match=r"schedule weights: missing \['normal'\], unknown \['norm'\]"):
        schedule(TASKS, weights={"semantic": 1.0, "depth": 1.0, "norm": 1.0})


# One function of step and losses for all tasks.

LOSSES = [[2.0, 1.0, 0.5], [1.0, 0.0, 4.0], [0.25, 3.0, 8.0]]


@pytest.mark.parametrize(
    "give",
    [jnp.stack, lambda weights: tuple(weights), lambda weights: dict(zip(TASKS[::-1], weights[::-1], strict=True))],
    ids=["array", "tuple", "mapping"],
)
def test_a_function_of_step_and_losses(give, follow):
    def weights(step, losses):
        return give([step / 2, losses[0] * losses[2], 3])

    factors, state = follow(schedule(TASKS, weights=weights), TASKS, LOSSES)
    np.testing.assert_allclose(factors, [[0.0, 1.0, 3.0], [0.5, 4.0, 3.0], [1.0, 2.0, 3.0]])
    assert state.steps == 3


def test_losses_are_unweighted_whichever_methods_come_before():
    tx = optax.chain(
        static(TASKS, weights={"semantic": 10.0, "depth": 2.0, "normal": 1.0}),
        schedule(TASKS, weights=lambda step, losses: losses),
    )
    losses = jnp.array(LOSSES[0])
    gradients = TaskGradients(TASKS, losses, losses > 0, jnp.ones(3), lambda cotangent: cotangent)
    np.testing.assert_allclose(tx.update(gradients, tx.init(None))[0].weights, [20.0, 2.0, 0.5])


def test_the_weights_are_constants_in_the_gradient(problem):
    tx = optax.chain(schedule(TASKS, weights=lambda step, losses: 1 / (1 + losses)), sum_tasks(TASKS))
    batch = {key: value[0] for key, value in problem.batches.items()}
    gradients = problem.task_gradients(problem.params, batch)
    gradient, state = tx.update(gradients, tx.init(problem.params), problem.params)
    by_hand = gradients.gradient(1 / (1 + gradients.losses))
    jax.tree.map(np.testing.assert_array_equal, gradient, by_hand)
    np.testing.assert_allclose(task_weights(state), 1 / (1 + gradients.losses))


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (
            lambda step, losses: losses[:2],
            r"returns float32 of shape \(2,\); expected one number for each of \['semantic', 'depth'",
        ),
        (lambda step, losses: 1.0, r"returns float32 of shape \(\); expected one number for each"),
        (lambda step, losses: None, "returns None; expected one number for each"),
        (lambda step, losses: losses > 1, "returns bool of shape"),
        (lambda step, losses: [1.0, None, 2.0], r"returns \[1\.0, None, 2\.0\]; expected one number for each"),
        (lambda step, losses: {"depth": 1.0}, r"schedule weights: missing \['normal', 'semantic'\], unknown \[\]"),
        (lambda step, losses: dict.fromkeys((*TASKS, "x"), 1.0), r"missing \[\], unknown \['x'\]"),
        (lambda step, losses: dict.fromkeys(TASKS, losses), r"of shape \(3, 3\)"),
        (
            lambda step, losses: losses if losses[0] > 1 else 2 * losses,
            r"schedule weights: .* a concrete value of the step or of a loss",
        ),
        (lambda step, losses: np.exp(losses), r"use jnp\.where\(step < 1000, 1\.0, 0\.1\) instead of if, and jnp in"),
        (lambda step: jnp.ones(3), r"the function takes \(step\); expected a function of \(step, losses\), returning"),
        (optax.constant_schedule(1.0), r"the function takes \(count.*\); expected a function of \(step, losses\)"),
        (
            lambda step, losses: 1 / losses,
            r"for losses \[0\.0, 1\.0, 1\.0\] the function returns \[inf, .* jnp\.maximum\(",
        ),
        (
            lambda step, losses: losses / (1 - step / 1) / 0,
            r"for losses \[1\.0, 1\.0, 1\.0\] the function returns \[inf,",
        ),
    ],
)
def test_messages_for_functions_of_all_tasks(function, message):
    with pytest.raises(ValueError, match=message):
        schedule(TASKS, weights=function)


def test_a_function_of_the_losses_for_one_task_is_refused():
    message = (
        r"weight of 'depth': the function takes \(step, losses\); expected a function of the step; .* weights=function"
    )
    with pytest.raises(ValueError, match=message):
        schedule(TASKS, weights={"semantic": 1.0, "depth": lambda step, losses: losses[1], "normal": 1.0})
