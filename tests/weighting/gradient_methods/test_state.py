"""The states of gradient methods: in low precision, and of absent tasks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtan_jax.weighting import TaskGradients, db_mtl, excess_mtl, moco, nash_mtl, sdmgrad, task_weights
from mtan_jax.weighting.stack import gram_of, inner_products

TASKS = ("a", "b")
METHODS = {
    "excess_mtl": lambda: excess_mtl(TASKS, step_size=0.1, shared="all"),
    "moco": lambda: moco(TASKS, beta_decay=0.9, shared="all"),
    "db_mtl": lambda: db_mtl(TASKS, beta=0.999, shared="all"),
}


def follow(tx, gradients, dtype):
    """The last update and state, for gradients [steps, t, p] that bfloat16 represents exactly."""

    def step(state, rows):
        given = TaskGradients(TASKS, jnp.ones(2), jnp.ones(2, bool), jnp.ones(2), lambda c: c.astype(dtype) @ rows)
        update, state = tx.update(given, state)
        return state, update

    gradients = gradients.astype(dtype)
    state, updates = jax.jit(lambda state: jax.lax.scan(step, state, gradients))(tx.init(gradients[0, 0]))
    return np.asarray(updates[-1], np.float32), state


@pytest.mark.parametrize("name", METHODS)
def test_sums_and_averages_of_bfloat16_gradients_are_those_of_float32(name):
    """In bfloat16, a sum stops growing at 256 times its terms, and an average stops moving."""
    rows = np.random.default_rng(0).normal([[1.0], [0.5]], 0.2, (1500, 2, 8))
    gradients = jnp.asarray(rows, jnp.bfloat16)
    expected, expected_state = follow(METHODS[name](), gradients, jnp.float32)
    found, state = follow(METHODS[name](), gradients, jnp.bfloat16)
    # The rounding of the update, and of the norms in the state, to bfloat16.
    assert np.linalg.norm(found - expected) < 2**-8 * np.linalg.norm(expected)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2**-8), state.inner, expected_state.inner)


def test_inner_products_of_bfloat16_are_those_of_float32():
    ones = jnp.ones((2, 301), jnp.bfloat16)  # 301 is not a number of bfloat16
    for found in (inner_products([ones], [ones]), gram_of([ones])):
        np.testing.assert_array_equal(found, 301)


def weigh(tx, losses, present, state):
    gradients = jnp.array([[1.0, 0.5], [-0.2, 2.0]]) * jnp.asarray(present)[:, None]
    given = TaskGradients(TASKS, jnp.asarray(losses), jnp.asarray(present), jnp.ones(2), lambda c: c @ gradients)
    _, state = tx.update(given, state)
    return np.asarray(task_weights(state)), state


@pytest.mark.parametrize("make", [nash_mtl, sdmgrad])
def test_an_absent_task_keeps_its_weight_in_the_state(make):
    tx = make(TASKS, shared="all")
    state = tx.init(jnp.zeros(2))
    _, after = weigh(tx, [1.0, 0.0], [True, False], state)
    assert after.inner.weights[1] == state.inner.weights[1]
    assert after.inner.weights[0] != state.inner.weights[0]


def test_nash_mtl_solves_when_a_task_returns_between_updates():
    tx = nash_mtl(TASKS, update_every=4, shared="all")
    expected, _ = weigh(tx, [1.0, 1.0], [True, True], tx.init(jnp.zeros(2)))
    alone, state = weigh(tx, [1.0, 0.0], [True, False], tx.init(jnp.zeros(2)))
    assert alone[1] == 0
    returned, state = weigh(tx, [1.0, 1.0], [True, True], state)
    np.testing.assert_array_equal(returned, expected)
    kept, state = weigh(tx, [1.0, 0.0], [True, False], state)
    np.testing.assert_array_equal(kept, [expected[0], 0])
    again, _ = weigh(tx, [1.0, 1.0], [True, True], state)
    np.testing.assert_array_equal(again, expected)
