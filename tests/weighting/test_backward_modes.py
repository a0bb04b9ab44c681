"""`backward="gram"`: the same updates as from stacked gradients, with the memory of few of them."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import tiny_problem

from mtan_jax import steps
from mtan_jax.runtime import parallel
from mtan_jax.weighting import GRADIENT_METHODS, task_gradients, upgrad

OPTIONS = {"gradnorm": {"weight_rate": 0.025}}
NEED_GRADIENTS = {"db_mtl", "excess_mtl", "forum", "graddrop", "moco", "trimmed_mean"}
GRAM_BASED = [name for name in GRADIENT_METHODS if name not in NEED_GRADIENTS]


def relative(found, expected):
    pairs = list(zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True))
    return max(np.abs(a - b).max() for a, b in pairs) / max(np.abs(b).max() for _, b in pairs)


def test_methods_that_need_the_gradients_say_so():
    for name, method in GRADIENT_METHODS.items():
        if name in GRAM_BASED:
            method(("a", "b"), backward="gram", **OPTIONS.get(name, {}))
        elif name != "forum":
            with pytest.raises(ValueError, match=f"{name} backward is 'gram'; expected 'together' or 'one_by_one'"):
                method(("a", "b"), backward="gram")


@pytest.fixture(scope="module")
def mtan():
    """Parameters of a small MTAN with BatchNorm, and the losses of its tasks."""
    model = tiny_problem.make_model()
    state = tiny_problem.make_state(model, optax.identity())
    batch = tiny_problem.make_batch()

    def losses_of(params):
        variables = {"params": params, "batch_stats": state.batch_stats}
        predictions, _ = model.apply(variables, batch["image"], train=True, mutable=["batch_stats"])
        losses = {}
        for i, task in enumerate(tiny_problem.TASKS):
            target = np.linspace(-1, 1 + i, predictions[task.name].size, dtype=np.float32)
            losses[task.name] = ((predictions[task.name].ravel() - target) ** 2).mean()
        return losses

    return state.params, losses_of


@pytest.fixture(scope="module")
def gradients(mtan):
    """Its task gradients. The backward pass is compiled once, for all methods."""
    params, losses_of = mtan
    pullback = jax.jit(lambda cotangent: jax.vjp(stacked, params)[1](cotangent)[0])

    def stacked(params):
        return jnp.stack(list(losses_of(params).values()))

    found = task_gradients(losses_of, params)
    return dataclasses.replace(found, pullback=pullback)


@pytest.mark.parametrize("name", GRAM_BASED)
def test_gram_equals_together_on_mtan(name, mtan, gradients):
    updates = []
    for backward in ("together", "gram"):
        tx = GRADIENT_METHODS[name](tiny_problem.NAMES, backward=backward, **OPTIONS.get(name, {}))
        updates.append(tx.update(gradients, tx.init(mtan[0]), mtan[0])[0])
    assert relative(updates[1], updates[0]) < 1e-5


@pytest.mark.slow
def test_gram_with_accumulation_on_four_devices():
    batch, found = tiny_problem.make_batch(), {}
    model = tiny_problem.make_model("devices")
    for backward in ("together", "gram"):
        options = {"shared": "all_but_heads", "backward": backward}
        tx = tiny_problem.make_tx("nash_mtl", optax.sgd(0.1), nash_mtl=options)
        step = steps.make_train_step(
            model, tiny_problem.TASKS, tx, key=jax.random.key(0), axis_name=parallel.AXIS, accumulate=2
        )
        state = parallel.place_state(tiny_problem.make_state(model, tx))
        state = parallel.map_train_step(step)(state, parallel.place_batch(batch))
        found[backward] = jax.device_get((state.params, state.batch_stats))
    assert relative(found["gram"], found["together"]) < 1e-5


def test_memory_with_40_tasks():
    """Temporary memory of a network of dense layers that splits into 40 heads: at most a quarter."""
    rng = np.random.default_rng(0)
    names = tuple(f"task_{i}" for i in range(40))
    params = {f"layer_{i}": jnp.asarray(rng.normal(size=(256, 256)) / 16, jnp.float32) for i in range(12)}
    params["heads"] = {name: jnp.asarray(rng.normal(size=(256, 1)) / 16, jnp.float32) for name in names}
    x = rng.normal(size=(16, 256)).astype(np.float32)

    def losses_of(params):
        features = x
        for i in range(12):
            features = jnp.tanh(features @ params[f"layer_{i}"])
        return {name: ((features @ params["heads"][name] - i) ** 2).mean() for i, name in enumerate(names)}

    def temporary(backward):
        tx = upgrad(names, backward=backward)
        step = jax.jit(lambda p: tx.update(task_gradients(losses_of, p), tx.init(p), p)[0])
        return step.lower(params).compile().memory_analysis().temp_size_in_bytes

    assert temporary("gram") <= temporary("together") / 4
