"""Properties of every loss balancer, and the registry: chains, needs, methods added by users, messages."""

import functools
import inspect
import subprocess
import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from ml_collections import ConfigDict

from mtan_jax import weighting
from mtan_jax.weighting import (
    BALANCERS,
    GRADIENT_METHODS,
    METHODS,
    WRAPPERS,
    Needs,
    SumTasksState,
    TaskGradients,
    build_weighting,
    declare,
    needs_of,
    sum_tasks,
    task_weights,
)

TASKS = ("semantic", "depth", "normal")
WEIGHTS = {"semantic": 1.0, "depth": 0.25, "normal": 3.0}
# Required options, and a second variant where there is one.
CASES: dict[str, list[dict[str, Any]]] = {
    "cosmos": [{"weights": WEIGHTS, "penalty": 0.1}],
    "dtp": [{"gamma": {"semantic": 0.5, "depth": 1.0, "normal": 2.0}}],
    "dwa": [{"steps_per_epoch": 2}, {"variant": "nash", "window": 2}],
    "hypervolume": [{"reference": {"semantic": 60.0, "depth": 60.0, "normal": 60.0}}],
    "imtl_l": [{"learning_rate": 0.1}],
    "pbi": [{"weights": WEIGHTS, "theta": 0.3}],
    "ldc_mtl": [{"learning_rate": 0.1}, *({"learning_rate": 0.1, "normalize": n} for n in ("initial", "log"))],
    "rlw": [{}, {"distribution": "dirichlet"}],
    "schedule": [
        {"weights": {**WEIGHTS, "depth": optax.linear_schedule(1.0, 0.1, 4)}},
        {"weights": lambda step, losses: (1 + jnp.exp(-step / 4)) * losses / jnp.maximum(losses.mean(), 1e-8)},
    ],
    "softadapt": [{"points": 2}, {"variant": "plain"}, {"variant": "normalized", "points": 3, "steps_per_point": 2}],
    "static": [{"weights": WEIGHTS}],
    "stch": [{"steps_per_epoch": 2, "warmup_epochs": 1}, {"preferences": WEIGHTS, "mu": 10.0}],
    "uncertainty": [{"learning_rate": 0.1}, {"variant": "nash"}],
}
EACH = [(name, options) for name in BALANCERS for options in CASES.get(name, [{}])]
each_method = pytest.mark.parametrize(("name", "options"), EACH, ids=[f"{n}-{o.get('variant', '')}" for n, o in EACH])


def chain(name, options, tasks=TASKS):
    return optax.chain(METHODS[name](tasks, **options), sum_tasks(tasks), optax.adam(0.01))


@pytest.fixture(scope="module")
def losses():
    return np.random.default_rng(1).uniform(0.1, 3.0, (9, 3))


@each_method
def test_order_of_the_tasks_does_not_matter(name, options, follow, losses):
    if name == "rlw":
        pytest.skip("equal in distribution only: the random weights are drawn by position")
    if name == "ldc_mtl":
        pytest.skip("the published equation compares tasks that are next to each other")
    order = [2, 0, 1]
    present = np.random.default_rng(2).random(losses.shape) < 0.8
    expected, _ = follow(METHODS[name](TASKS, **options), TASKS, losses, present)
    tasks = tuple(TASKS[i] for i in order)
    factors, _ = follow(METHODS[name](tasks, **options), tasks, losses[:, order], present[:, order])
    np.testing.assert_allclose(factors, expected[:, order], rtol=1e-6)


@each_method
def test_weights_are_finite_for_losses_of_any_size(name, options, follow):
    for pattern in ([1e15, 1e-15, 1.0], [1e-15, 1e15, 0.0]):
        losses = np.array(pattern, np.float32) * np.ones((9, 1), np.float32)
        losses[4:] = losses[4:, ::-1]
        factors, state = follow(METHODS[name](TASKS, **options), TASKS, losses)
        assert np.isfinite(factors).all()
        assert (factors >= 0).all() or name in ("pbi", "cosmos")  # these raise a loss that is below its ratio
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state))


@each_method
def test_scan_on_one_device_is_pmap_on_four(name, options, problem):
    """The scan sees whole batches and no axis, and refuses a state whose structure, shapes or types change."""
    tx = chain(name, options)

    def step(carry, batch):
        params, state = carry
        updates, new_state = tx.update(problem.task_gradients(params, batch), state, params)
        params = optax.apply_updates(params, updates)
        return (params, new_state), (params, task_weights(new_state))

    start = tx.init(problem.params)
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(start))
    _, one = jax.jit(lambda carry: jax.lax.scan(step, carry, problem.batches))((problem.params, start))
    four = [(params, task_weights(state)) for params, state in problem.train(tx, devices=4)]
    for i, (params, weights) in enumerate(four):
        # Seen: 1.2e-7 in the weights, 3.6e-7 in the parameters; Adam magnifies the rounding of small gradients.
        np.testing.assert_allclose(weights, one[1][i], rtol=2e-6)
        for key in params:
            np.testing.assert_allclose(params[key], one[0][key][i], atol=5e-6)


@each_method
def test_resumed_in_the_middle_is_the_same(name, options, follow, losses):
    tx = METHODS[name](TASKS, **options)
    expected, last = follow(tx, TASKS, losses)
    _, state = follow(tx, TASKS, losses[:5])
    factors, end = follow(tx, TASKS, losses[5:], state=jax.device_get(state))
    np.testing.assert_array_equal(factors, expected[5:])
    jax.tree.map(np.testing.assert_array_equal, end, last)


@each_method
def test_a_second_step_compiles_nothing(name, options):
    tx, traced = chain(name, options), []

    @jax.jit
    def step(losses, state):
        traced.append(name)
        given = TaskGradients(
            TASKS, losses, jnp.ones(3, bool), jnp.ones(3), lambda cotangent: cotangent, indicators=jnp.full(3, 0.5)
        )
        return tx.update(given, state)[1]

    state = step(jnp.ones(3), tx.init(jnp.zeros(3)))
    step(jnp.ones(3), step(jnp.ones(3), state))
    assert len(traced) == 1


@each_method
def test_one_task_keeps_the_direction_of_its_gradient(name, options, follow):
    options = {key: {"depth": value["depth"]} if isinstance(value, dict) else value for key, value in options.items()}
    factors, _ = follow(METHODS[name](("depth",), **options), ("depth",), np.full((6, 1), 0.7))
    assert (factors > 0).all()
    if name in ("equal", "dwa", "rlw", "geometric"):  # weights relative to other tasks only
        np.testing.assert_allclose(factors, 1, rtol=1e-6)


@each_method
def test_one_backward_pass(name, options):
    calls = []
    tx = chain(name, options)

    def pullback(cotangent):
        calls.append(cotangent.shape)
        return jnp.zeros(4)

    gradients = TaskGradients(TASKS, jnp.ones(3), jnp.ones(3, bool), jnp.ones(3), pullback, indicators=jnp.full(3, 0.5))
    jax.eval_shape(lambda params: tx.update(gradients, tx.init(params), params)[0], jnp.zeros(4))
    assert calls == [(3,)]


@each_method
def test_every_method_learns(name, options, problem):
    """No method reverses the gradient: the losses fall on a batch that repeats."""
    batch = {key: value[0] for key, value in problem.batches.items()}
    tx = chain(name, options)

    @jax.jit
    def step(params, state):
        gradients = problem.task_gradients(params, batch)
        updates, state = tx.update(gradients, state, params)
        return optax.apply_updates(params, updates), state, gradients.losses

    params, state = problem.params, tx.init(problem.params)
    history = []
    for _ in range(150):
        params, state, losses = step(params, state)
        history.append(losses)
    # With logarithms of the losses, the largest loss falls slowly.
    logarithms = name in ("geometric", "scale_invariant", "stch") or options.get("normalize") == "log"
    assert (history[-1] < (0.8 if logarithms else 0.5) * history[0]).all()


def test_every_method_checks_the_task_names():
    for name, options in EACH:
        with pytest.raises(ValueError, match="without repeats"):
            METHODS[name](("depth", "depth"), **options)


def test_build_composes_in_order_and_takes_defaults():
    options: dict[str, dict[str, Any]] = {
        "static": {"weights": WEIGHTS},
        "uncertainty": {"initial_log_variance": 0.0},
        "dwa": {"window": 3},
    }
    defaults = {"learning_rate": 0.5, "steps_per_epoch": 7, "unused": None}
    built = build_weighting("static + uncertainty", TASKS, optax.sgd(1.0), options=options, defaults=defaults)
    by_hand = optax.chain(
        METHODS["static"](TASKS, **options["static"]),
        METHODS["uncertainty"](TASKS, learning_rate=0.5, initial_log_variance=0.0),
        sum_tasks(TASKS),
        optax.sgd(1.0),
    )
    gradients = TaskGradients(TASKS, jnp.arange(1.0, 4.0), jnp.ones(3, bool), jnp.ones(3), lambda cotangent: cotangent)
    update, state = built.update(gradients, built.init(jnp.zeros(3)), jnp.zeros(3))
    jax.tree.map(
        np.testing.assert_array_equal,
        (update, state),
        by_hand.update(gradients, by_hand.init(jnp.zeros(3)), jnp.zeros(3)),
    )
    np.testing.assert_allclose(update, [-0.5, -0.125, -1.5])


def test_methods_with_their_options_and_undeclared_functions():
    def double(tasks, *, factor):
        return optax.stateless(lambda task_gradients, params: task_gradients.scale(jnp.full(3, factor)))

    def last_only(tasks):
        def update(updates, state, params=None):
            return updates.gradient(updates.weights * jnp.array([0.0, 0.0, 1.0])), SumTasksState(updates.weights)

        return optax.GradientTransformation(lambda params: SumTasksState(jnp.ones(3)), update)

    gradients = TaskGradients(TASKS, jnp.ones(3), jnp.ones(3, bool), jnp.ones(3), lambda cotangent: cotangent)
    for methods, expected in (
        ([("static", {"weights": WEIGHTS}), (double, {"factor": 2.0})], [-2.0, -0.5, -6.0]),
        ((("static", {"weights": WEIGHTS}), (double, {"factor": 2.0}), last_only), [0.0, 0.0, -6.0]),
    ):
        # Options in the list come before the others.
        tx = build_weighting(methods, TASKS, optax.sgd(1.0), options={"static": {"weights": dict.fromkeys(TASKS, 9.0)}})
        updates, state = tx.update(gradients, tx.init(jnp.zeros(3)), jnp.zeros(3))
        np.testing.assert_allclose(updates, expected)
        np.testing.assert_allclose(task_weights(state), [2.0, 0.5, 6.0])
    with pytest.raises(ValueError, match="last_only turns the losses into a gradient, so it must come last"):
        build_weighting((last_only, "equal"), TASKS, optax.sgd(1.0))


def test_options_come_before_defaults():
    with pytest.raises(ValueError, match="steps_per_epoch is 0"):
        build_weighting(
            "dwa", TASKS, optax.identity(), options={"dwa": {"steps_per_epoch": 0}}, defaults={"steps_per_epoch": 5}
        )


def test_build_takes_a_config():
    options = ConfigDict({"static": {"weights": WEIGHTS}, "dwa": {"temperature": 1.0}})
    tx = build_weighting("static+dwa", TASKS, optax.sgd(1.0), options=options, defaults={"steps_per_epoch": 5})
    gradients = TaskGradients(TASKS, jnp.ones(3), jnp.ones(3, bool), jnp.ones(3), lambda cotangent: cotangent)
    _, state = tx.update(gradients, tx.init(jnp.zeros(3)), jnp.zeros(3))
    np.testing.assert_allclose(task_weights(state), [1.0, 0.25, 3.0])


@pytest.mark.parametrize(
    ("spec", "options", "message"),
    [
        ("dwaa", {}, f"unknown weighting 'dwaa'.*known: {', '.join(METHODS)}"),
        ("", {}, "unknown weighting ''"),
        ("equal+", {}, "unknown weighting ''"),
        ("equal", {"dwaa": {}}, "unknown weighting 'dwaa'"),
        (
            "equal",
            {"dwa": {"T": 1}},
            "unknown option 'T' of weighting 'dwa'; known: temperature, variant, steps_per_epoch",
        ),
        ("equal", {"equal": {"weights": {}}}, "unknown option 'weights' of weighting 'equal'; known: none"),
        ("static", {}, "weighting 'static' needs the option weights"),
        ("dwa", {}, "steps_per_epoch is None; variant 'mtan' needs an integer"),
        ("equal+equal", {}, "repeats a method"),
        ("pcgrad+equal", {}, "pcgrad turns the losses into a gradient, so it must come last"),
        ((), {}, "names no method"),
        ((3,), {}, "weighting 3 is not a method; use a name, a function, or"),
        ((("dwa", {"T": 1}),), {}, "unknown option 'T' of weighting 'dwa'"),
    ],
)
def test_build_messages(spec, options, message):
    with pytest.raises(ValueError, match=message):
        build_weighting(spec, TASKS, optax.identity(), options=options)


def test_every_method_is_public():
    assert set(METHODS) <= set(weighting.__all__)
    for name, method in METHODS.items():
        assert getattr(weighting, name) is method
    missing = [name for name in weighting.__all__ if not hasattr(weighting, name)]
    assert not missing


def test_the_import_needs_jax_optax_numpy_and_jaxtyping_only():
    program = (
        "import sys, jax, optax, numpy; from jaxtyping import Array, PyTree; before = set(sys.modules); "
        "import mtan_jax.weighting; new = {name.partition('.')[0] for name in set(sys.modules) - before}; "
        "print(*new - set(sys.stdlib_module_names))"
    )
    found = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert found.stdout.split() == ["mtan_jax"]


def test_the_tables_by_kind_split_the_methods():
    assert BALANCERS | GRADIENT_METHODS | WRAPPERS == METHODS
    assert len(BALANCERS) + len(GRADIENT_METHODS) + len(WRAPPERS) == len(METHODS)
    assert set(WRAPPERS) == {
        name for name, method in METHODS.items() if "inner" in inspect.signature(method).parameters
    }


def double(tasks, *, factor=2.0):
    return optax.stateless(lambda task_gradients, params: task_gradients.scale(jnp.full(len(tasks), factor)))


@declare("gradient_method")
def last_task(tasks):
    """The gradient of the last task alone. Its `init` reads the parameters, so it cannot be tried without them."""

    def init(params):
        return SumTasksState(jnp.ones(len(params)))

    def update(updates, state, params=None):
        return updates.gradient(updates.weights * jnp.array([0.0, 0.0, 1.0])), SumTasksState(updates.weights)

    return optax.GradientTransformation(init, update)


@declare("wrapper", second_batch=True)
def thrice(tasks, inner, *, factor=3.0):
    """Triples the updates of the rest of the chain."""

    def update(updates, state, params=None):
        updates, state = inner.update(updates, state, params)
        return optax.tree.scale(factor, updates), state

    return optax.GradientTransformation(inner.init, update)


@pytest.fixture
def added(monkeypatch):
    """METHODS with a user's balancer, gradient method and wrapper, added by name only."""
    for name, method in (("double", double), ("last_task", last_task), ("thrice", thrice)):
        monkeypatch.setitem(METHODS, name, method)


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("double", [-2.0, -2.0, -2.0]),
        ("last_task", [0.0, 0.0, -1.0]),
        ("double+last_task", [0.0, 0.0, -2.0]),
        ("thrice", [-3.0, -3.0, -3.0]),
        ("double+thrice", [-6.0, -6.0, -6.0]),
        ("thrice+double+last_task", [0.0, 0.0, -6.0]),
        ((functools.partial(last_task),), [0.0, 0.0, -1.0]),
    ],
)
def test_a_users_methods_work_once_they_are_in_methods(added, spec, expected):
    tx = build_weighting(spec, TASKS, optax.sgd(1.0))
    gradients = TaskGradients(TASKS, jnp.ones(3), jnp.ones(3, bool), jnp.ones(3), lambda cotangent: cotangent)
    updates, state = tx.update(gradients, tx.init(jnp.zeros(3)), jnp.zeros(3))
    np.testing.assert_allclose(updates, expected)
    assert task_weights(state).shape == (3,)
    with pytest.raises(ValueError, match="last_task turns the losses into a gradient, so it must come last"):
        build_weighting("last_task+double", TASKS, optax.sgd(1.0))


def test_needs_are_declared_or_follow_from_the_option_wrt(added, monkeypatch):
    nothing = Needs(second_batch=False, indicators=False, features=False)

    def over_features(tasks, *, wrt="features"):
        return sum_tasks(tasks)

    monkeypatch.setitem(METHODS, "over_features", over_features)

    @declare("gradient_method", features=True)
    def of_features(tasks):
        return sum_tasks(tasks)

    monkeypatch.setitem(METHODS, "of_features", of_features)
    for spec, expected in (
        ("dwa+pcgrad", nothing),
        ("double", nothing),
        ("double+thrice", nothing._replace(second_batch=True)),
        ("auto_lambda", nothing._replace(second_batch=True)),
        ("dtp+mgda", nothing._replace(indicators=True)),
        ("mgda", nothing),
        ((("mgda", {"wrt": "features"}),), nothing._replace(features=True)),
        ("over_features", nothing._replace(features=True)),
        ((("over_features", {"wrt": "parameters"}),), nothing),
        ("of_features", nothing._replace(features=True)),
    ):
        assert needs_of(spec) == expected, spec
    assert needs_of("mgda", options={"mgda": {"wrt": "features"}}).features
    assert not needs_of((("mgda", {"wrt": "parameters"}),), options={"mgda": {"wrt": "features"}}).features


def test_a_wrapper_without_a_declaration_is_refused():
    def undeclared(tasks, inner):
        return inner

    with pytest.raises(ValueError, match=r"'undeclared' has several positional parameters.*@declare\(\"wrapper\"\)"):
        build_weighting((undeclared,), TASKS, optax.identity())
    with pytest.raises(ValueError, match="unknown kind of weighting method 'wraper'; known: balancer, gradient_method"):
        declare("wraper")
