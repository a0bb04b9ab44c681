"""`task_gradients` and `from_jacobian`: values, which parameters are shared, and messages."""

import dataclasses
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from helpers.frameworks import TASKS, make_batch, plain
from jax.sharding import Mesh, PartitionSpec

from mtan_jax.weighting import (
    GRADIENT_METHODS,
    TaskGradients,
    auto_lambda,
    build_weighting,
    dependence,
    dtp,
    dwa,
    equal,
    famo,
    from_jacobian,
    mgda,
    nash_mtl,
    pcgrad,
    scale_invariant,
    static,
    sum_tasks,
    task_gradients,
    task_weights,
)

OPTIONS: dict[str, dict[str, Any]] = {"gradnorm": {"weight_rate": 0.025}}
NEEDS_SECOND = {"forum"}
each_method = pytest.mark.parametrize("name", [name for name in GRADIENT_METHODS if name not in NEEDS_SECOND])


class Network(eqx.Module):
    trunk: Any
    head_a: Any
    head_b: Any
    head_c: Any


@pytest.fixture(scope="module")
def layouts():
    """The same network under different names: pairs of parameters, and a function to (trunk, [heads])."""
    keys = jax.random.split(jax.random.key(0), 4)
    trunk, names = jax.random.normal(keys[0], (8, 6)), ("a", "b", "c")
    heads = [jax.random.normal(key, (6, 1)) for key in keys[1:]]
    by_name = {f"head_{name}": head for name, head in zip(names, heads, strict=True)}
    return {
        "linen": ({"trunk": trunk, **by_name}, lambda p: (p["trunk"], [p[f"head_{name}"] for name in names])),
        "nested": (
            {"trunk": trunk, "heads": dict(zip(names, heads, strict=True))},
            lambda p: (p["trunk"], list(p["heads"].values())),
        ),
        "equinox": (Network(trunk, *heads), lambda p: (p.trunk, [p.head_a, p.head_b, p.head_c])),
        "list": ([trunk, *heads], lambda p: (p[0], list(p[1:]))),
    }


def losses_of_layout(trunk, heads):
    x = jax.random.normal(jax.random.key(1), (16, 8))
    targets = (x[:, :1], -x[:, :1], x[:, 1:2] - x[:, :1])
    features = jnp.tanh(x @ trunk)
    return {
        name: ((features @ head - y) ** 2).mean() for name, head, y in zip(("a", "b", "c"), heads, targets, strict=True)
    }


@each_method
def test_the_update_does_not_depend_on_names_and_layout(name, layouts):
    # With sharing guessed from names, the update of the trunk changed by up to 51 %, without an error.
    tx, found = GRADIENT_METHODS[name](("a", "b", "c"), **OPTIONS.get(name, {})), []
    for params, parts in layouts.values():

        @jax.jit
        def update(params, parts=parts):
            gradients = task_gradients(lambda params: losses_of_layout(*parts(params)), params)
            return tx.update(gradients, tx.init(params), params)[0]

        found.append(jax.tree.leaves(parts(update(params))))
    for other in found[1:]:
        for a, b in zip(other, found[0], strict=True):
            np.testing.assert_allclose(a, b, rtol=0, atol=1e-6 * np.abs(b).max())


def test_values_and_gradients_are_those_of_jax():
    params, losses_of = plain()
    batch = make_batch()
    gradients = task_gradients(lambda params: losses_of(params, batch), params)
    assert gradients.tasks == TASKS
    expected = losses_of(params, batch)
    np.testing.assert_allclose(gradients.losses, [expected[task] for task in TASKS], rtol=1e-6)
    found = gradients.gradient(jnp.array([2.0, -3.0]))
    weighted = jax.grad(lambda p: 2 * losses_of(p, batch)["depth"] - 3 * losses_of(p, batch)["normal"])(params)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), found, weighted)
    moved = jax.tree.map(lambda leaf: leaf + 0.1, params)
    np.testing.assert_allclose(gradients.losses_at(moved), list(losses_of(moved, batch).values()), rtol=1e-6)


@pytest.mark.parametrize("spec", ["dwa+pcgrad", "nash_mtl", "moco"])
def test_tasks_may_be_in_any_order(spec):
    params, losses_of = plain()
    options = {"dwa": {"variant": "nash", "window": 1}}
    found = []
    for order in (TASKS, TASKS[::-1]):

        def losses(params, batch, order=order):
            by_task = losses_of(params, batch)
            return {task: by_task[task] for task in order}

        tx = build_weighting(spec, TASKS, optax.sgd(0.1), options=options)
        current, state = params, tx.init(params)
        for i in range(3):
            gradients = task_gradients(lambda p, i=i, losses=losses: losses(p, make_batch(seed=i)), current)
            assert gradients.tasks == order
            updates, state = tx.update(gradients, state, current)
            current = optax.apply_updates(current, updates)
        found.append((current, state))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), *found)


def test_everything_is_reordered():
    params, order = jnp.array([1.0, 3.0, 2.0]), ("b", "c", "a")
    values = jnp.array([1.0, 2.0, 3.0])
    given = TaskGradients(
        ("a", "b", "c"),
        values,
        values > 1,
        values,
        lambda cotangent: cotangent * params,
        lambda params: params,
        second_losses_at=lambda params: 2 * params,
        indicators=values,
        feature_pullback=lambda cotangent: cotangent,
        task_indices=jnp.array([2, 0]),
        dependence=lambda: np.eye(3, dtype=bool),
    )
    found = given.in_order(order)
    places = [1, 2, 0]
    for name in ("losses", "present", "weights", "indicators"):
        np.testing.assert_array_equal(getattr(found, name), getattr(given, name)[jnp.array(places)])
    cotangent = jnp.array([10.0, 20.0, 30.0])  # of b, c, a
    np.testing.assert_array_equal(found.pullback(cotangent), jnp.array([30.0, 10.0, 20.0]) * params)
    np.testing.assert_array_equal(found.feature_pullback(cotangent), [30, 10, 20])
    np.testing.assert_array_equal(found.losses_at(params), params[jnp.array(places)])
    np.testing.assert_array_equal(found.second_losses_at(params), 2 * params[jnp.array(places)])
    assert [order[i] for i in found.task_indices] == ["c", "a"]
    np.testing.assert_array_equal(found.dependence(), np.eye(3)[:, places])
    np.testing.assert_array_equal(found.in_order(given.tasks).losses, given.losses)


def test_aux_may_hold_anything():
    def losses_of(params):
        return {"a": params.sum(), "b": (params**2).sum()}, {"name": "text", "double": 2 * params, "none": None, "n": 3}

    calls = []

    def counted(params):
        calls.append(0)
        return losses_of(params)

    gradients, aux = task_gradients(counted, jnp.arange(3.0), has_aux=True)
    assert calls == [0]  # traced once
    assert aux["name"] == "text"
    assert aux["none"] is None
    np.testing.assert_array_equal(aux["double"], [0, 2, 4])
    np.testing.assert_array_equal(gradients.losses, [3, 5])


def test_absent_tasks_second_batches_and_indicators():
    params = jnp.array([1.0, 2.0])

    def losses_of(params):
        return {"a": (params**2).sum(), "b": 0 * params.sum()}

    gradients = task_gradients(losses_of, params, present={"b": jnp.array(False), "a": jnp.array(True)})
    np.testing.assert_array_equal(gradients.present, [True, False])
    tx = mgda(("a", "b"))
    np.testing.assert_allclose(tx.update(gradients, tx.init(params), params)[0], [2, 4], rtol=1e-6)
    options = {"learning_rate": 0.1, "meta_rate": 0.01}
    tx = auto_lambda(("a", "b"), optax.chain(sum_tasks(("a", "b")), optax.sgd(0.1)), **options)
    second = task_gradients(losses_of, params, second_losses_of=lambda p: {"b": -p.sum(), "a": ((p - 1) ** 2).sum()})
    np.testing.assert_allclose(second.second_losses_at(params), [1, -3])
    assert jnp.isfinite(tx.update(second, tx.init(params), params)[0]).all()
    tx = dtp(("a", "b"), gamma=1.0)
    given = task_gradients(losses_of, params, indicators={"a": jnp.array(0.5), "b": jnp.array(0.25)})
    np.testing.assert_allclose(given.indicators, [0.5, 0.25])
    weights = tx.update(given, tx.init(params), params)[0].weights
    assert weights[1] > weights[0]


@pytest.mark.parametrize("check_vma", [True, False])
def test_indicators_are_averaged_over_the_devices(check_vma):
    params, tx = jnp.array([1.0, 2.0]), optax.chain(dtp(("a", "b"), gamma=0.0), sum_tasks(("a", "b")))

    def step(params, state, indicators):
        given = task_gradients(
            lambda params: {"a": (params**2).sum(), "b": params.sum()},
            params,
            axis_name="devices",
            indicators={"a": indicators[0], "b": 0.5},
        )
        return tx.update(given, state, params)[1]

    replicated = PartitionSpec()
    mapped = jax.shard_map(
        step,
        mesh=Mesh(np.array(jax.devices()), ("devices",)),
        in_specs=(replicated, replicated, PartitionSpec("devices")),
        out_specs=replicated,
        check_vma=check_vma,
    )
    state = jax.jit(mapped)(params, tx.init(params), jnp.array([0.1, 0.2, 0.3, 0.6]))
    for shard in state[0].averages.addressable_shards:
        np.testing.assert_allclose(shard.data, [0.3, 0.5], rtol=1e-6)


@pytest.mark.parametrize("name", ["mgda", "nash_mtl", "moco", "graddrop"])
def test_from_jacobian_equals_task_gradients(name):
    params, losses_of = plain()
    batch = make_batch()
    losses, jacobian = losses_of(params, batch), jax.jacrev(lambda params: losses_of(params, batch))(params)
    for task, other in (TASKS, TASKS[::-1]):
        jacobian[task]["heads"] = {**jacobian[task]["heads"], other: None}
    tx = GRADIENT_METHODS[name](TASKS)
    state = tx.init(params)
    found, _ = tx.update(from_jacobian(losses, jacobian), state, params)
    expected, _ = tx.update(task_gradients(lambda params: losses_of(params, batch), params), state, params)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), found, expected)


def test_from_jacobian_with_leaves_that_are_none_for_all_tasks():
    """As `eqx.partition` makes them. They were refused as parameters without a gradient."""
    losses_of = lambda p: {"a": (p["w"] ** 2).sum(), "b": (p["w"] * p["own"]).sum()}  # noqa: E731
    params = {"w": jnp.ones(2), "own": jnp.array([1.0, -3.0]), "static": None}
    jacobian = jax.jacrev(losses_of)(params)
    jacobian["a"]["own"] = None
    gradients = from_jacobian(losses_of(params), jacobian)
    np.testing.assert_array_equal(gradients.dependence(), [[False, True], [True, True]])
    tx = mgda(("a", "b"))
    found, _ = tx.update(gradients, tx.init(params), params)
    expected, _ = tx.update(task_gradients(losses_of, params), tx.init(params), params)
    assert found["static"] is None
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), found, expected)


@pytest.mark.parametrize("method", [sum_tasks, pcgrad, GRADIENT_METHODS["graddrop"]])
def test_the_loss_of_an_absent_task_counts_as_0(method):
    """`sum_tasks` trained the head of an absent task whose loss was not 0."""
    params, losses_of = plain()
    losses_at = lambda params: losses_of(params, make_batch())  # noqa: E731
    present = {TASKS[0]: True, TASKS[1]: False}
    jacobian = jax.jacrev(losses_at)(params)
    jacobian[TASKS[1]] = jax.tree.map(lambda leaf: leaf * jnp.nan, jacobian[TASKS[1]])
    losses = {TASKS[0]: losses_at(params)[TASKS[0]], TASKS[1]: jnp.nan}
    alone = jax.grad(lambda params: losses_at(params)[TASKS[0]])(params)
    tx = method(TASKS) if method is sum_tasks else method(TASKS, shared=lambda path: path[0] == "trunk")
    for gradients in (
        task_gradients(losses_at, params, present=present),
        from_jacobian(losses, jacobian, present=present),
    ):
        assert gradients.losses[1] == 0
        found, _ = tx.update(gradients, tx.init(params), params)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), found, alone)


def test_shard_map_without_axis_name_is_an_error():
    """JAX's error advised check_vma=False, with which each device follows its own rows."""
    params, losses_of = plain()
    mesh = jax.sharding.Mesh(np.array(jax.devices()), ("devices",))
    whole, rows = jax.sharding.PartitionSpec(), jax.sharding.PartitionSpec("devices")

    def losses_on(params, batch, axis_name=None):
        return task_gradients(lambda params: losses_of(params, batch), params, axis_name=axis_name).losses

    with pytest.raises(ValueError, match=r"of the axis devices, .*axis_name='devices'"):
        jax.shard_map(losses_on, mesh=mesh, in_specs=(whole, rows), out_specs=whole)(params, make_batch())
    population = jax.tree.map(lambda leaf: jnp.stack([leaf] * len(jax.devices())), params)

    def losses_of_member(params):  # one member of a population per device, with parameters of its own
        return losses_on(jax.tree.map(lambda leaf: leaf[0], params), make_batch())[None]

    found = jax.shard_map(losses_of_member, mesh=mesh, in_specs=rows, out_specs=rows)(population)
    np.testing.assert_allclose(found, [losses_on(params, make_batch())] * len(jax.devices()), rtol=1e-5)


def test_weights_are_constants_under_an_outer_derivative():
    """Meta-gradients went through the weights, and were NaN for several solvers."""
    params, losses_of = plain()
    batch = make_batch()

    def first_step(scale, tx, weights=None):
        losses_at = lambda params: {k: scale * v for k, v in losses_of(params, batch).items()}  # noqa: E731
        gradients = task_gradients(losses_at, params)
        if weights is not None:
            return gradients.gradient(weights)["trunk"].sum()
        updates, state = tx.update(gradients, tx.init(params), params)
        return updates["trunk"].sum(), task_weights(state)

    chains = [optax.chain(GRADIENT_METHODS[name](TASKS)) for name in ("mgda", "upgrad", "imtl_g")]
    chains += [optax.chain(nash_mtl(TASKS, max_norm=None))]
    chains += [
        optax.chain(scale_invariant(TASKS), sum_tasks(TASKS)),
        famo(TASKS, optax.chain(sum_tasks(TASKS), optax.scale(1))),
    ]
    for tx in chains:
        (_, weights), found = jax.value_and_grad(first_step, has_aux=True)(1.0, tx)
        expected = jax.grad(first_step)(1.0, None, weights)
        np.testing.assert_allclose(found, expected, rtol=1e-4)

    def by_weight(weight):  # but an option may be differentiated
        tx = optax.chain(static(TASKS, weights=jnp.stack([weight, 1.0])), sum_tasks(TASKS))
        return first_step(1.0, tx)[0]

    alone = jax.grad(lambda params: losses_of(params, batch)[TASKS[0]])(params)["trunk"].sum()
    np.testing.assert_allclose(jax.grad(by_weight)(2.0), alone, rtol=1e-4)


def read(losses_of, params):
    table = task_gradients(losses_of, params).dependence()
    paths = [jax.tree_util.keystr(path, simple=True, separator="/") for path, _ in jax.tree.leaves_with_path(params)]
    return {path: "".join("ab"[i] for i in np.flatnonzero(row)) for path, row in zip(paths, table, strict=True)}


def test_dependence_is_followed_through_control_flow():
    params = {key: jnp.float32(i + 1) for i, key in enumerate("pqrstu")}

    def losses_of(params):
        inner = jax.jit(lambda p, q: (p * 2, q * 3))(params["p"], params["q"])
        carry, _ = jax.lax.scan(
            lambda c, _: ((c[0] * params["r"], c[1] + params["s"]), None), (jnp.float32(1), jnp.float32(0)), length=3
        )
        either = jax.lax.cond(params["t"] > 0, lambda: (params["t"], jnp.float32(1)), lambda: (jnp.float32(0),) * 2)
        kept = jax.checkpoint(lambda t: t**2)(either[0])
        return {"a": inner[0] + carry[0] + kept, "b": inner[1] + carry[1] + params["r"]}

    found = read(losses_of, params)
    assert found == {"p": "a", "q": "b", "r": "ab", "s": "b", "t": "a", "u": ""}


def test_a_value_without_a_derivative_is_no_dependence():
    """The advantage of actor-critic methods, and what a callback prints, made the critic's head shared."""
    params = {"trunk": jnp.ones(3), "a": jnp.ones(3), "b": jnp.ones(3)}

    @jax.custom_jvp
    def square(x):
        return x**2

    square.defjvp(lambda primals, tangents: (square(*primals), 2 * primals[0] * tangents[0]))

    def losses_of(params):
        features = jnp.tanh(params["trunk"])
        value = features @ params["b"]
        jax.debug.callback(lambda value: None, value)
        advantage = jax.lax.stop_gradient(3 - value) + jnp.argmax(params["b"])
        return {"a": (features @ params["a"]) * advantage, "b": square(value)}

    expected = {"trunk": "ab", "a": "a", "b": "b"}
    for wrap in (lambda f: f, jax.jit, jax.checkpoint):
        assert read(wrap(losses_of), params) == expected
    scanned = lambda p: jax.lax.scan(lambda c, _: (jax.tree.map(jnp.add, c, losses_of(p)), None), zeros, length=2)[0]  # noqa: E731
    zeros = {"a": jnp.float32(0), "b": jnp.float32(0)}
    assert read(scanned, params) == expected


@each_method
def test_a_task_without_shared_parameters_takes_no_part(name):
    """Its gradient of 0 gave it all the weight in mgda, epo and cr_mogm, and a weight of 2e5 in nash_mtl."""
    rng = np.random.default_rng(0)
    shapes = {"trunk": (4, 3), "a": (3,), "b": (3,), "own": (4,)}
    params = {key: jnp.asarray(rng.normal(size=shape), jnp.float32) for key, shape in shapes.items()}
    x = rng.normal(size=(8, 4)).astype(np.float32)

    def losses_of(params):
        features = jnp.tanh(x @ params["trunk"])
        losses = {"a": ((features @ params["a"] - 1) ** 2).mean(), "b": ((features @ params["b"] - 2) ** 2).mean()}
        return {**losses, "c": ((x @ params["own"] - 1) ** 2).mean()} if "own" in params else losses

    def update(tasks, params):
        tx = GRADIENT_METHODS[name](tasks, **OPTIONS.get(name, {}))
        return tx.update(task_gradients(losses_of, params), tx.init(params), params)

    found, state = update(("a", "b", "c"), params)
    expected, _ = update(("a", "b"), {key: params[key] for key in ("trunk", "a", "b")})
    own = jax.grad(lambda params: losses_of(params)["c"])(params)["own"]
    np.testing.assert_allclose(found["own"], own, rtol=1e-5)
    assert state.task_weights[2] == 1
    if name not in ("excess_mtl", "moco", "sdmgrad", "graddrop", "pcgrad", "gradvac"):  # K or random numbers differ
        for key, leaf in expected.items():
            np.testing.assert_allclose(found[key], leaf, rtol=2e-3, atol=1e-4 * np.abs(leaf).max(), err_msg=key)
    assert np.linalg.norm(found["trunk"]) > 0.05 * np.linalg.norm(expected["trunk"])


def test_a_parameter_of_some_tasks_is_shared_by_these():
    params = {"all": jnp.ones(3), "two": jnp.ones(3), "one": jnp.ones(3)}

    def losses_of(params):
        return {
            "a": (params["all"] * params["two"] * params["one"]).sum(),
            "b": (params["all"] * params["two"] ** 2).sum(),
            "c": (params["all"] ** 3).sum(),
        }

    gradients = task_gradients(losses_of, params)
    np.testing.assert_array_equal(gradients.dependence(), [[1, 1, 1], [1, 0, 0], [1, 1, 0]])
    tx = nash_mtl(("a", "b", "c"))
    _, state = tx.update(dataclasses.replace(gradients, wants_gram=True), tx.init(params), params)
    rows = jax.jacrev(losses_of)(params)
    flat = np.stack([np.concatenate([rows[task]["all"], rows[task]["two"]]) for task in "abc"])
    np.testing.assert_allclose(state.gram, flat @ flat.T, rtol=1e-5)


def test_a_choice_by_names_is_checked_against_the_program(layouts):
    params, parts = layouts["nested"]
    gradients = task_gradients(lambda params: losses_of_layout(*parts(params)), params)
    tx = pcgrad(("a", "b", "c"), shared="all_but_heads")
    with pytest.raises(ValueError, match=r"selects all parameters, but some belong to one task: \[heads/a, heads/b"):
        tx.update(gradients, tx.init(params), params)
    tx = pcgrad(("a", "b", "c"), shared="all")
    tx.update(gradients, tx.init(params), params)
    with pytest.raises(ValueError, match=r"selects none of the parameters \[heads/a, heads/b, heads/c, trunk\]"):
        pcgrad(("a", "b", "c"), shared=lambda path: path[0] == "encoder").init(params)
    tx = pcgrad(("a", "b"))
    own = {"a": jnp.ones(2), "b": jnp.ones(2)}
    separate = task_gradients(lambda params: {task: (leaf**2).sum() for task, leaf in params.items()}, own)
    with pytest.raises(ValueError, match=r"no parameter that two losses depend on. 'a' depends on \[a\]; 'b' depends"):
        tx.update(separate, tx.init(own), own)


def test_a_version_of_jax_that_does_not_tell(monkeypatch):
    monkeypatch.delattr("jax.interpreters.partial_eval.dce_jaxpr")
    params, losses_of = plain()
    gradients = task_gradients(lambda params: losses_of(params, make_batch()), params)
    tx = pcgrad(TASKS)
    with pytest.raises(dependence.DependenceUnknownError, match=r"AttributeError.*state it by the option shared"):
        tx.update(gradients, tx.init(params), params)
    for shared in (lambda path: path[0] == "trunk", lambda path: True):
        tx = pcgrad(TASKS, shared=shared)
        tx.update(gradients, tx.init(params), params)


@pytest.mark.parametrize(
    ("losses_of", "params", "options", "error", "message"),
    [
        (lambda p: p.sum(), jnp.ones(2), {}, TypeError, r"the losses are float32\[\]; expected a dictionary"),
        (
            lambda p: {},
            jnp.ones(2),
            {},
            TypeError,
            "the losses are an empty dictionary; expected a dictionary with one scalar",
        ),
        (lambda p: {"a": p}, jnp.ones(2), {}, TypeError, r"the loss of 'a' is float32\[2\]; expected a scalar"),
        (lambda p: {"a": p.sum() > 0}, jnp.ones(2), {}, TypeError, r"the loss of 'a' is bool\[\]; expected a scalar"),
        (lambda p: {0: p.sum()}, jnp.ones(2), {}, TypeError, "the name of a task is 0; expected text"),
        (
            lambda p: {"a": p.sum()},
            jnp.ones(2),
            {"has_aux": True},
            TypeError,
            "losses_of returned dict; expected a pair",
        ),
        (lambda p: {"a": p["w"].sum()}, {"w": jnp.ones(2, int)}, {}, TypeError, "the parameter 'w' has type int32"),
        (lambda p: {"a": p.sum()}, jnp.ones(2), {"present": {"b": True}}, ValueError, r"present: missing \['a'\]"),
    ],
)
def test_messages(losses_of, params, options, error, message):
    with pytest.raises(error, match=message):
        task_gradients(losses_of, params, **options)


def test_messages_of_from_jacobian():
    one = jnp.ones(2)
    with pytest.raises(ValueError, match=r"jacobian: missing \['b'\], unknown \['c'\]"):
        from_jacobian({"a": jnp.float32(1), "b": jnp.float32(1)}, {"a": one, "c": one})
    with pytest.raises(ValueError, match="the gradients have different structures"):
        from_jacobian({"a": jnp.float32(1), "b": jnp.float32(1)}, {"a": [one], "b": one})
    gradients = from_jacobian({"a": jnp.float32(1), "b": jnp.float32(1)}, {"a": one, "b": one})
    tx = mgda(("a", "b"))
    with pytest.raises(ValueError, match="mgda cannot tell which parameters the tasks share"):
        tx.update(gradients, tx.init(one), one)


def test_misuse_ends_in_one_message():
    params, losses_of = plain()
    gradients = task_gradients(lambda params: losses_of(params, make_batch()), params)
    chain = optax.chain(equal(TASKS), sum_tasks(TASKS), optax.sgd(0.1))
    no_pytree = "TaskGradients are not a gradient and not a pytree"
    for tx in (optax.MultiSteps(chain, 2), optax.apply_if_finite(chain, 2), optax.adam(1.0)):
        with pytest.raises(TypeError, match=no_pytree):
            tx.update(gradients, tx.init(params), params)
    with pytest.raises(TypeError, match=no_pytree):
        jax.jit(lambda: gradients)()
    model = nnx.Linear(2, 2, rngs=nnx.Rngs(0))
    with pytest.raises(TypeError, match=f"{no_pytree}.*nnx.Optimizer.update takes the gradient"):
        nnx.Optimizer(model, chain, wrt=nnx.Param).update(model, gradients)
    after = optax.chain(sum_tasks(TASKS), dwa(TASKS, variant="nash"))
    wrapped = optax.chain(sum_tasks(TASKS), famo(TASKS, optax.sgd(0.1)))
    twice = optax.chain(famo(TASKS, optax.chain(sum_tasks(TASKS), optax.sgd(0.1))), sum_tasks(TASKS))
    for tx, name in ((after, "dwa"), (wrapped, "famo"), (twice, "sum_tasks")):
        with pytest.raises(
            TypeError,
            match=rf"{name} got dict instead of TaskGradients\..* wrappers such as famo come first, then balancers",
        ):
            tx.update(gradients, tx.init(params), params)
    raw = dataclasses.replace(gradients, pullback=lambda cotangent: (gradients.pullback(cotangent),))
    for method in (sum_tasks(TASKS), pcgrad(TASKS), GRADIENT_METHODS["moco"](TASKS)):
        with pytest.raises(TypeError, match="the gradient, tuple, does not have the structure of the parameters"):
            method.update(raw, method.init(params), params)
    other = pcgrad(("depth", "edges"))
    with pytest.raises(ValueError, match=r"built for the tasks \('depth', 'edges'\) but got \('depth', 'normal'\)"):
        other.update(gradients, other.init(params), params)
