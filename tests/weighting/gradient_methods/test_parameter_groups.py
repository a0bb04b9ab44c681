"""Different methods for different parameters."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from mtan_jax.weighting import (
    cagrad,
    dwa,
    equal,
    parameter_groups,
    pcgrad,
    sum_tasks,
    task_gradients,
    task_weights,
)

TASKS = ("a", "b")


def losses_of(params):
    features = jnp.tanh(params["encoder"]["w"]) @ params["decoder"]["w"]
    return {
        "a": ((features @ params["head_a"] - 1) ** 2).sum(),
        "b": 3 * ((features @ params["head_b"] + features.sum() - 2) ** 2).sum(),
    }


@pytest.fixture
def params():
    rng = np.random.default_rng(0)
    shapes = {"encoder": (3, 4), "decoder": (4, 5), "head_a": (5,), "head_b": (5,)}
    arrays = {name: jnp.asarray(rng.normal(size=shape), jnp.float32) for name, shape in shapes.items()}
    return {name: {"w": leaf} if name.endswith("coder") else leaf for name, leaf in arrays.items()}


def label(path):
    return "encoder" if path[0] == "encoder" else "rest"


def update(tx, params, steps=1):
    state = tx.init(params)
    for _ in range(steps):
        updates, state = jax.jit(lambda p, s: tx.update(task_gradients(losses_of, p), s, p))(params, state)
    return updates, state


def test_each_group_gets_its_own_method(params):
    tx = parameter_groups(TASKS, groups={"encoder": functools.partial(pcgrad, seed=3), "rest": equal}, label=label)
    found, state = update(tx, params)
    alone, _ = update(pcgrad(TASKS, shared=lambda path: path[0] == "encoder", seed=3), params)
    plain, _ = update(sum_tasks(TASKS), params)
    assert np.abs(alone["encoder"]["w"] - plain["encoder"]["w"]).max() > 0.1  # the gradients conflict
    np.testing.assert_allclose(found["encoder"]["w"], alone["encoder"]["w"], rtol=1e-5)
    for name in ("decoder", "head_a", "head_b"):
        np.testing.assert_allclose(*map(jax.tree.leaves, (found[name], plain[name])), rtol=1e-5)
    assert task_weights(state).shape == (2,)


def test_groups_keep_their_states_and_chain_with_balancers(params):
    groups = {"encoder": cagrad, "rest": functools.partial(dwa, variant="nash", window=1)}
    tx = optax.chain(parameter_groups(TASKS, groups=groups, label=label), optax.adam(0.1))
    _, state = update(tx, params, steps=3)
    inner = state[0].groups["rest"]
    assert int(inner[0].steps) == 3
    np.testing.assert_array_equal(task_weights(state), state[0].groups["encoder"].task_weights)


def test_the_common_backward_passes_run_once(params):
    def flops(tx):
        state = tx.init(params)
        step = jax.jit(lambda p, s: tx.update(task_gradients(losses_of, p), s, p)[0])
        return step.lower(params, state).compile().cost_analysis()["flops"]

    one = flops(pcgrad(TASKS))
    two = flops(parameter_groups(TASKS, groups={"encoder": pcgrad, "rest": pcgrad}, label=label))
    assert two < 1.5 * one  # with passes of their own, 2


def test_messages(params):
    with pytest.raises(ValueError, match="has no groups"):
        parameter_groups(TASKS, groups={}, label=label)
    tx = parameter_groups(TASKS, groups={"encoder": pcgrad}, label=label)
    with pytest.raises(ValueError, match=r"label of 'decoder/w' is 'rest'; known: encoder"):
        tx.init(params)
    tx = parameter_groups(TASKS, groups={"encoder": pcgrad, "rest": equal, "other": equal}, label=label)
    with pytest.raises(ValueError, match=r"no parameter belongs to the group other; the first keys are \['decoder'"):
        tx.init(params)
    names = {"head_a": "own"}
    tx = parameter_groups(TASKS, groups={"own": pcgrad, "rest": equal}, label=lambda path: names.get(path[0], "rest"))
    with pytest.raises(ValueError, match="pcgrad finds no parameter that two losses depend on"):
        update(tx, params)
