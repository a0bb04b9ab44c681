"""Weighting methods in the training loops of other frameworks, and under every way to run a step."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers.frameworks import FRAMEWORKS, TASKS, make_batch
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from mtan_jax.weighting import (
    GRADIENT_METHODS,
    around,
    build_weighting,
    equal,
    famo,
    nash_mtl,
    needs_of,
    sum_tasks,
    task_gradients,
    upgrad,
)

STEPS = 3
AXIS = "devices"


def optimizer():
    return optax.sgd(0.05, momentum=0.9)


CHAINS = {
    "equal": lambda: optax.chain(equal(TASKS), sum_tasks(TASKS), optimizer()),
    "dwa+pcgrad": lambda: build_weighting(
        "dwa+pcgrad", TASKS, optimizer(), options={"dwa": {"variant": "nash", "window": 1}}
    ),
    "nash_mtl": lambda: optax.chain(nash_mtl(TASKS), optimizer()),
    "famo": lambda: famo(TASKS, optax.chain(sum_tasks(TASKS), optimizer())),
    "gram": lambda: optax.chain(upgrad(TASKS, backward="gram"), optimizer()),
}


class Loop:
    """Trains one copy of the parameters per chain, all in one program."""

    def __init__(self, framework, wrap=lambda chain: chain):
        self.params, self.losses_of = FRAMEWORKS[framework]()
        self.chains = {name: wrap(make()) for name, make in CHAINS.items()}

    def start(self):
        states = {name: chain.init(self.params) for name, chain in self.chains.items()}
        return jax.device_get((dict.fromkeys(self.chains, self.params), states))

    def step(self, carry, batch, axis_name=None):
        params, states = carry
        new_params, new_states = {}, {}
        for name, chain in self.chains.items():
            gradients = task_gradients(lambda params: self.losses_of(params, batch), params[name], axis_name=axis_name)
            updates, new_states[name] = chain.update(gradients, states[name], params[name])
            new_params[name] = optax.apply_updates(params[name], updates)
        return new_params, new_states

    def run(self, step, batches):
        carry = self.start()
        for batch in batches:
            carry = jax.device_get(step(carry, batch))
        return carry


def batches(count=STEPS):
    return [make_batch(seed=i) for i in range(count)]


def assert_close(found, expected):
    for name in CHAINS:
        pairs = zip(jax.tree.leaves(found[0][name]), jax.tree.leaves(expected[0][name]), strict=True)
        for a, b in pairs:
            np.testing.assert_allclose(a, b, rtol=0, atol=1e-6 * max(np.abs(b).max(), 1), err_msg=name)


def sharded_jit(loop):
    by_rows = NamedSharding(Mesh(np.array(jax.devices()), (AXIS,)), PartitionSpec(AXIS))
    step = jax.jit(loop.step)
    return loop.run(lambda carry, batch: step(carry, jax.device_put(batch, by_rows)), batches())


def shard_map(loop, check_vma):
    mesh, spec = Mesh(np.array(jax.devices()), (AXIS,)), PartitionSpec()
    mapped = jax.shard_map(
        lambda carry, batch: loop.step(carry, batch, AXIS),
        mesh=mesh,
        in_specs=(spec, PartitionSpec(AXIS)),
        out_specs=spec,
        check_vma=check_vma,
    )
    return loop.run(jax.jit(mapped), batches())


def pmap(loop):
    step = jax.pmap(
        lambda carry, batch: loop.step(carry, batch, AXIS), axis_name=AXIS, in_axes=(None, 0), out_axes=None
    )
    split = [jax.tree.map(lambda x: x.reshape(4, -1, *x.shape[1:]), batch) for batch in batches()]
    return loop.run(step, split)


def scan(loop):
    stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *batches())
    return jax.jit(lambda carry: jax.lax.scan(lambda c, b: (loop.step(c, b), None), carry, stacked)[0])(loop.start())


RUNS = {
    "sharded_jit": sharded_jit,
    "shard_map": lambda loop: shard_map(loop, check_vma=False),
    "shard_map-vma": lambda loop: shard_map(loop, check_vma=True),
    "pmap": pmap,
    "scan": scan,
}
slow = pytest.mark.slow
# Every cell of the table is tested. The slow ones differ from others only in the framework.
CELLS = [pytest.param(run, name, marks=() if name == "plain" else slow) for run in RUNS for name in FRAMEWORKS]
each_framework = pytest.mark.parametrize(
    "framework", [pytest.param(name, marks=() if name == "plain" else slow) for name in FRAMEWORKS]
)


@pytest.fixture(scope="module")
def on_one_device():
    """The result of a framework on one device under jit, computed once."""
    found = {}

    def result(framework):
        if framework not in found:
            loop = Loop(framework)
            found[framework] = loop.run(jax.jit(loop.step), batches())
        return found[framework]

    return result


@pytest.mark.parametrize(("run", "framework"), CELLS)
def test_every_way_to_run_a_step_equals_jit_on_one_device(run, framework, on_one_device):
    expected = on_one_device(framework)
    start = Loop(framework).start()[0]["equal"]
    moved = [np.abs(a - b).max() for a, b in zip(*map(jax.tree.leaves, (expected[0]["equal"], start)), strict=True)]
    assert min(moved) > 1e-3
    assert_close(RUNS[run](Loop(framework)), expected)


@each_framework
def test_multi_steps_averages_over_steps(framework, on_one_device):
    loop = Loop(framework, lambda chain: around(TASKS, chain, wrap=lambda inner: optax.MultiSteps(inner, 2)))
    # Halves of a batch for all but famo, which evaluates the losses of the last step after its update.
    halves = []
    for batch in batches():
        halves += [jax.tree.map(lambda x: x[:8], batch), jax.tree.map(lambda x: x[8:], batch)]
    found = loop.run(jax.jit(loop.step), halves)
    twice = loop.run(jax.jit(loop.step), [batch for batch in batches() for _ in range(2)])
    assert_close(({**found[0], "famo": twice[0]["famo"]}, None), on_one_device(framework))


@each_framework
def test_apply_if_finite_skips_steps_and_state(framework, on_one_device):
    loop = Loop(framework, lambda chain: around(TASKS, chain, wrap=lambda inner: optax.apply_if_finite(inner, 5)))
    step = jax.jit(loop.step)
    first, *rest = batches()
    bad = {**first, "depth": np.full_like(first["depth"], np.nan)}
    found, expected = loop.run(step, [first, bad, *rest]), on_one_device(framework)
    assert_close(found, expected)
    for name, state in found[1].items():
        assert state.total_notfinite == 1
        pairs = zip(jax.tree.leaves(state.inner_state), jax.tree.leaves(expected[1][name]), strict=True)
        for a, b in pairs:
            np.testing.assert_allclose(a, b, rtol=0, atol=1e-5 * max(np.abs(b).max(), 1), err_msg=name)


def accumulated(steps, **options):
    """The update of plain summation after MultiSteps over task gradients, at a rate of 1."""
    params, losses_of = FRAMEWORKS["plain"]()
    chain = optax.chain(sum_tasks(TASKS), optax.scale(-1.0))
    tx = around(TASKS, chain, wrap=lambda inner: optax.MultiSteps(inner, len(steps), **options))
    state = tx.init(params)
    for present, task_indices in steps:
        given = dict(zip(TASKS, present, strict=True))
        gradients = task_gradients(lambda params: losses_of(params, make_batch()), params, present=given)
        gradients = dataclasses.replace(gradients, task_indices=task_indices)
        updates, state = tx.update(gradients, state, params)
    whole = jax.grad(lambda params: sum(losses_of(params, make_batch()).values()))(params)
    return jax.tree.map(lambda update, leaf: np.asarray(update / -leaf), updates, whole)


def test_around_keeps_the_tasks_of_all_steps():
    """`task_indices` of the last step removed the tasks of the steps before it."""
    steps = [((True, False), jnp.array([0])), ((False, True), jnp.array([1]))]
    for ratio in jax.tree.leaves(accumulated(steps)):
        np.testing.assert_allclose(ratio, 1, rtol=1e-4)


@pytest.mark.parametrize(("use_grad_mean", "factor"), [(True, 1), (False, 2)])
def test_multi_steps_can_add(use_grad_mean, factor):
    """The division by the number of steps at which a task was present turned sums into means."""
    for present in ((True, True), (False, True)):
        steps = [(present, None), ((True, True), None)]
        for ratio in jax.tree.leaves(accumulated(steps, use_grad_mean=use_grad_mean)):
            np.testing.assert_allclose(ratio, factor, rtol=1e-4)


def test_around_refuses_other_wrappers():
    params, _ = FRAMEWORKS["plain"]()
    chain = CHAINS["dwa+pcgrad"]()
    both = around(TASKS, chain, wrap=lambda i: optax.MultiSteps(optax.apply_if_finite(i, 5), 2))
    assert isinstance(both.init(params), optax.MultiStepsState)
    for wrap in (
        lambda inner: optax.chain(optax.clip(1.0), inner),
        lambda inner: optax.MultiSteps(optax.chain(optax.clip(1.0), inner), 2),
    ):
        with pytest.raises(
            TypeError, match=r"wrapper with the state tuple; expected optax.MultiSteps.*such as clipping"
        ):
            around(TASKS, chain, wrap=wrap).init(params)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64, jnp.bfloat16])
def test_apply_if_finite_with_64_bit_numbers(dtype):
    """The branches of its condition had different types."""
    params, losses_of = FRAMEWORKS["plain"]()
    with jax.enable_x64():
        params = jax.tree.map(lambda leaf: leaf.astype(dtype), params)
        batch = jax.tree.map(lambda x: jnp.asarray(x, dtype), make_batch())
        chain = optax.chain(sum_tasks(TASKS), optax.scale(-1.0))
        tx = around(TASKS, chain, wrap=lambda inner: optax.apply_if_finite(inner, 5))
        gradients = task_gradients(lambda params: losses_of(params, batch), params)
        found, _ = tx.update(gradients, tx.init(params), params)
        expected, _ = chain.update(gradients, chain.init(params), params)
        for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
            assert a.dtype == dtype
            rounding = 2e-2 if dtype == jnp.bfloat16 else 1e-5  # the losses are added in another order
            largest = np.abs(np.asarray(b, float)).max()
            np.testing.assert_allclose(np.asarray(a, float), np.asarray(b, float), rtol=0, atol=rounding * largest)


def test_without_jit(on_one_device):
    loop = Loop("plain")
    assert_close(loop.run(loop.step, batches()), on_one_device("plain"))


def test_transformations_of_parts_inside_a_chain():
    params, losses_of = FRAMEWORKS["plain"]()
    gradients = task_gradients(lambda params: losses_of(params, make_batch()), params)
    method = nash_mtl(TASKS)
    gradient, _ = method.update(gradients, method.init(params), params)
    labels = {"trunk": "fast", "heads": "slow"}
    tx = optax.chain(
        method,
        optax.masked(optax.scale(2.0), {"trunk": True, "heads": False}),
        optax.multi_transform({"fast": optax.sgd(0.1), "slow": optax.sgd(0.01)}, labels),
    )
    updates, _ = tx.update(gradients, tx.init(params), params)
    np.testing.assert_allclose(updates["trunk"], -0.2 * gradient["trunk"], rtol=1e-6)
    for task in TASKS:
        np.testing.assert_allclose(updates["heads"][task], -0.01 * gradient["heads"][task], rtol=1e-6)


OPTIMIZERS = {
    "adam": lambda: optax.adam(1e-3),
    "sgd": lambda: optax.sgd(1e-3),
    "lion": lambda: optax.lion(1e-3),
    "muon": lambda: optax.contrib.muon(1e-3),
    "prodigy": optax.contrib.prodigy,
    "schedule_free": lambda: optax.contrib.schedule_free(optax.sgd(1e-3), learning_rate=1e-3),
}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in ("adam", "schedule_free") else slow) for name in OPTIMIZERS]
)
def test_every_method_runs_under_every_optimizer(name):
    """A step of the chain equals a step of the optimizer on the method's gradient."""
    params, losses_of = FRAMEWORKS["plain"]()
    options = {"gradnorm": {"weight_rate": 0.025}}
    methods = {
        key: method(TASKS, **options.get(key, {}))
        for key, method in GRADIENT_METHODS.items()
        if not needs_of(((method, options.get(key, {})),)).second_batch
    }

    @jax.jit
    def run(params):
        gradients = task_gradients(lambda params: losses_of(params, make_batch()), params)
        optimizer, found = OPTIMIZERS[name](), {}
        inner = optax.chain(sum_tasks(TASKS), optimizer)
        # The first weights of famo are proportional to 1 / loss and sum to 1.
        weights = 1 / (gradients.losses + 1e-8)
        for key, method, gradient in [
            ("famo", famo(TASKS, inner), gradients.gradient(weights / weights.sum())),
            *(
                (key, method, method.update(gradients, method.init(params), params)[0])
                for key, method in methods.items()
            ),
        ]:
            tx = method if key == "famo" else optax.chain(method, optimizer)
            updates, _ = tx.update(gradients, tx.init(params), params)
            found[key] = updates, optimizer.update(gradient, optimizer.init(params), params)[0]
        return found

    for key, (updates, expected) in run(params).items():
        largest = max(np.abs(leaf).max() for leaf in jax.tree.leaves(expected))
        assert largest > 0
        for a, b in zip(jax.tree.leaves(updates), jax.tree.leaves(expected), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6 * largest, err_msg=key)
