"""Properties of all methods in `METHODS`, each in a chain with an optimizer."""

import pathlib
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from mtan_jax.weighting import BALANCERS, METHODS, WRAPPERS, sum_tasks, task_gradients, task_weights

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
GUIDE = pathlib.Path(__file__).parents[2] / "docs" / "weighting.md"
OFFSETS = np.linspace(0.5, 2, 3)


def chain(name, tasks=TASKS, **options):
    options = {**OPTIONS.get(name, {}), **options}
    optimizer = optax.sgd(0.1)
    if name in WRAPPERS:
        return METHODS[name](tasks, optax.chain(sum_tasks(TASKS), optimizer), **options)
    after = [sum_tasks(TASKS)] if name in BALANCERS else []
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


def test_the_guide_lists_the_methods_whose_weights_are_nan_for_a_negative_loss():
    text = (
        GUIDE.read_text().partition("These methods take logarithms or ratios of losses:")[2].partition(". So does")[0]
    )
    listed = set(re.findall(r"`(\w+)`", text))
    assert listed < set(METHODS)
    chains = {name: chain(name) for name in METHODS}
    chains["mgda normalized"] = chain("mgda", normalize="loss")
    for variant in ("plain", "normalized"):
        chains[f"softadapt {variant}"] = chain("softadapt", variant=variant)
    chains["stch with preferences"] = chain("stch", preferences=[1.0, 2.0])

    @jax.jit
    def weights(params, sign):
        states = {name: update(tx, params, tx.init(params), sign)[1] for name, tx in chains.items()}
        return {name: task_weights(state) for name, state in states.items()}

    positive, negative = (weights(make_params(), sign) for sign in (1.0, -1.0))
    for name in chains:
        assert np.isfinite(positive[name]).all(), name
        assert np.isnan(negative[name]).all() == (name in listed or name == "mgda normalized"), name


@pytest.mark.parametrize("name", METHODS)
def test_tasks_may_be_any_iterable(name):
    """Also one that can be read only once."""
    params = make_params()
    found, expected = (
        jax.eval_shape(lambda params, tx=tx: update(tx, params, tx.init(params)), params)
        for tx in (chain(name, iter(TASKS)), chain(name))
    )
    assert found == expected


# One option per method and kind of number.
NUMBERS = [
    ("cagrad", "c", np.float32(0.5)),
    ("cagrad", "c", jnp.float32(0.5)),
    ("sdmgrad", "rate", np.float64(0.5)),
    ("nash_mtl", "update_every", np.int64(2)),
    ("sdmgrad", "iterations", jnp.int32(3)),
    ("pcgrad", "seed", np.uint32(3)),
    ("uncertainty", "learning_rate", np.float64(0.5)),
    ("famo", "weight_rate", jnp.float32(0.5)),
    ("softadapt", "points", np.array(3)),
]


@pytest.mark.parametrize(("name", "option", "value"), NUMBERS, ids=[f"{n}-{type(v).__name__}" for n, _, v in NUMBERS])
def test_numbers_of_numpy_and_jax_are_those_of_python(name, option, value):
    found, expected = (
        update(chain(name, **{option: number}), make_params(), chain(name, **{option: number}).init(make_params()))
        for number in (value, value.item())
    )
    jax.tree.map(np.testing.assert_array_equal, found, expected)
    with jax.enable_x64(True):
        tx, params = chain(name, **{option: value}), make_params("float32")
        state = tx.init(params)
        _, new_state = jax.eval_shape(lambda params, state: update(tx, params, state), params, state)
        assert [leaf.dtype for leaf in jax.tree.leaves(new_state)] == [leaf.dtype for leaf in jax.tree.leaves(state)]
