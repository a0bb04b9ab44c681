"""Properties of all methods in `METHODS`, each in a chain with an optimizer."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from mtan_jax.weighting import BALANCERS, GRADIENT_METHODS, METHODS, WRAPPERS, sum_tasks, task_gradients, task_weights

TASKS = ("depth", "normal")
OPTIONS = {
    "auto_lambda": {"learning_rate": 0.1},
    "dwa": {"steps_per_epoch": 1},
    "forum": {"steps_per_epoch": 1},
    "imtl_l": {"learning_rate": 0.1},
    "ldc_mtl": {"learning_rate": 0.1},
    "schedule": {"weights": {"depth": 1.0, "normal": 2.0}},
    "static": {"weights": {"depth": 1.0, "normal": 2.0}},
    "stch": {"steps_per_epoch": 1},
    "uncertainty": {"learning_rate": 0.1},
}
OFFSETS = np.linspace(0.5, 2, 3)


def chain(name, tasks=TASKS, **options):
    options = {**OPTIONS.get(name, {}), **options}
    optimizer = optax.sgd(0.1)
    if name in WRAPPERS:
        return METHODS[name](tasks, optax.chain(sum_tasks(tasks), optimizer), **options)
    after = [sum_tasks(tasks)] if name in BALANCERS else []
    return optax.chain(METHODS[name](tasks, **options), *after, optimizer)


def make_params(dtype=jnp.float32):
    return {"trunk": jnp.ones(3, dtype), "depth": jnp.ones(3, dtype), "normal": jnp.asarray(OFFSETS, dtype)}


def losses_of(params, sign=1):
    features = jnp.tanh(params["trunk"] * jnp.asarray(OFFSETS, params["trunk"].dtype))
    return {task: sign * ((features * params[task] - i - 1) ** 2).mean() for i, task in enumerate(TASKS)}


def update(tx, params, state, sign=1):
    def losses(params):
        return losses_of(params, sign)

    indicators = {"depth": 0.3, "normal": 0.5}
    given = task_gradients(losses, params, second_losses_of=losses, indicators=indicators)
    return tx.update(given, state, params)


@pytest.mark.parametrize("name", METHODS)
def test_the_state_can_be_donated(name):
    """Two fields of a state that were one array could not."""
    state = chain(name).init(make_params())
    kept = jax.device_get(state)
    donated = jax.jit(lambda state: state, donate_argnums=0)(state)
    jax.tree.map(np.testing.assert_array_equal, donated, kept)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", METHODS)
def test_x64_does_not_change_the_types_of_parameters_and_state(name, dtype):
    with jax.enable_x64(True):
        tx, params = chain(name), make_params(dtype)
        state = tx.init(params)
        updates, new_state = jax.eval_shape(lambda params, state: update(tx, params, state), params, state)
        new_params = jax.eval_shape(optax.apply_updates, params, updates)
        assert jax.tree.map(lambda leaf: leaf.dtype, (new_params, new_state)) == jax.tree.map(
            lambda leaf: leaf.dtype, (params, state)
        )
