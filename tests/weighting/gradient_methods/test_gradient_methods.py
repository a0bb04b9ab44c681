"""Gradient methods against TorchJD and LibMTL (tests/reference/make_gradients.py), and the papers' guarantees."""

import functools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers.weighting_problem import Problem

from mtan_jax.weighting import GRADIENT_METHODS, TaskGradients, needs_of, task_weights
from mtan_jax.weighting.gradient_methods.graddrop import drop_signs
from mtan_jax.weighting.gradient_methods.gradvac import vaccinate
from mtan_jax.weighting.gradient_methods.pcgrad import project_conflicts

REFERENCE = pathlib.Path(__file__).parents[2] / "reference" / "gradients.npz"


@functools.cache
def stored():
    with np.load(REFERENCE, allow_pickle=False) as arrays:
        return dict(arrays)


@functools.cache
def stepper(name, tasks, options):
    tx = GRADIENT_METHODS[name](tasks, shared=lambda path: True, **dict(options))

    @jax.jit
    def step(gradients, losses, present, state):
        given = TaskGradients(tasks, losses, present, jnp.ones_like(losses), lambda cotangent: cotangent @ gradients)
        return tx.update(given, state)

    return tx, step


def combine(name, gradients, losses=None, present=None, **options):
    """The combined gradient of one set of gradients, and the weights, at the first step."""
    count = len(gradients)
    tx, step = stepper(name, tuple(f"task_{i}" for i in range(count)), tuple(options.items()))
    losses = jnp.ones(count) if losses is None else jnp.asarray(losses)
    present = jnp.ones(count, bool) if present is None else jnp.asarray(present)
    gradients = jnp.asarray(gradients)
    update, state = step(gradients, losses, present, tx.init(gradients[0]))
    return np.asarray(update), np.asarray(task_weights(state))


def relative(found, expected):
    return np.linalg.norm(found - expected) / np.linalg.norm(expected)


# Each number of tasks needs its own compilation.
each_count = pytest.mark.parametrize(
    "tasks", [pytest.param(2, marks=pytest.mark.long), 3, pytest.param(10, marks=pytest.mark.long)]
)

# (method, options, name in the file, bound on the relative error). The bounds are the tolerances of the reference
# solvers: LibMTL's CAGrad and FairGrad use SciPy's default tolerance, its MGDA clips weights to 0.001 to 0.999.
CASES = [
    ("imtl_g", {}, "torchjd/imtl_g", 1e-9),
    ("imtl_g", {}, "libmtl/imtl_g", 1e-9),
    ("aligned_mtl", {}, "libmtl/aligned_mtl", 1e-9),
    ("upgrad", {}, "torchjd/upgrad", 1e-4),
    ("dualproj", {}, "torchjd/dualproj", 1e-4),
    ("cagrad", {"rescale": "none", "times_tasks": False}, "torchjd/cagrad", 3e-4),
    ("cagrad", {"times_tasks": False}, "libmtl/cagrad", 5e-3),
    ("fairgrad", {}, "torchjd/fairgrad", 3e-3),
    ("conflict_free", {}, "torchjd/config", 1e-9),
    ("conflict_free", {}, "config/config", 1e-9),
]
# The same for methods with state, over 20 steps; the state of some is float32. LibMTL's search for SDMGrad amplifies
# rounding: 2e-3 was seen with 10 tasks, 1e-11 with 2 and 3.
SEQUENCES = [
    ("moco", {"rho": 0.1}, "libmtl/moco", 1e-6),
    ("db_mtl", {"beta_decay": 0.5}, "libmtl/db_mtl", 1e-6),
    ("sdmgrad", {}, "torchjd/sdmgrad", 1e-6),
    ("sdmgrad", {"rate": 5.0}, "libmtl/sdmgrad", 5e-3),
    ("excess_mtl", {"step_size": 0.1, "variant": "paper", "warmup_steps": 5}, "torchjd/excess_mtl", 1e-5),
    ("excess_mtl", {"step_size": 0.1}, "libmtl/excess_mtl", 1e-5),
    (
        "gradnorm",
        {"variant": "libmtl", "steps_per_epoch": 4, "weight_rate": 0.05},
        "libmtl/gradnorm",
        1e-5,
    ),
]


def sets(tasks, name):
    keys = (f"{tasks}/gradients", f"{tasks}/losses", f"{tasks}/orders", f"{tasks}/{name}")
    return list(zip(*(stored()[key] for key in keys), strict=True))


@each_count
@pytest.mark.parametrize(("method", "options", "name", "bound"), CASES, ids=[f"{c[0]}-{c[2]}" for c in CASES])
def test_numbers(method, options, name, bound, tasks):
    with jax.enable_x64(True):
        for gradients, losses, _, expected in sets(tasks, name):
            assert relative(combine(method, gradients, losses, **options)[0], expected) < bound


@each_count
@pytest.mark.parametrize(("method", "options", "name", "bound"), SEQUENCES, ids=[f"{c[0]}-{c[2]}" for c in SEQUENCES])
def test_numbers_of_methods_with_state(method, options, name, bound, tasks):
    """Compares the combined gradient, or the weights if the file holds weights."""
    with jax.enable_x64(True):
        tx, step = stepper(method, tuple(f"task_{i}" for i in range(tasks)), tuple(options.items()))
        state = tx.init(jnp.zeros(12))
        for gradients, losses, _, expected in sets(tasks, name):
            update, state = step(jnp.asarray(gradients), jnp.asarray(losses), jnp.ones(tasks, bool), state)
            found = update if len(expected) == 12 else task_weights(state)
            assert relative(np.asarray(found), expected) < bound


@each_count
def test_graddrop(tasks):
    with jax.enable_x64(True):
        for gradients, numbers, expected in zip(
            *(stored()[f"{tasks}/{name}"] for name in ("gradients", "uniform", "torchjd/graddrop")), strict=True
        ):
            found = drop_signs(jnp.asarray(gradients), jnp.asarray(numbers), 0.2)
            np.testing.assert_allclose(found, expected, rtol=1e-9)


@pytest.mark.parametrize("scale", ["median", "rmse"])
@each_count
def test_scales_of_aligned_mtl(tasks, scale):
    with jax.enable_x64(True):
        for gradients, _, _, expected in sets(tasks, f"torchjd/aligned_mtl/{scale}"):
            # TorchJD averages where the authors sum.
            assert relative(combine("aligned_mtl", gradients, scale=scale)[0], tasks * expected) < 1e-9


@each_count
def test_mgda_is_at_most_as_long_as_the_reference(tasks):
    """The reference solvers converge slowly; where they converged, to 0.2 %, the combination agrees."""
    with jax.enable_x64(True):
        close = 0
        for gradients, _, _, theirs in sets(tasks, "torchjd/mgda"):
            ours, weights = combine("mgda", gradients)
            assert (weights >= 0).all()
            assert weights.sum() == pytest.approx(1, abs=1e-6)
            assert np.linalg.norm(ours) <= np.linalg.norm(theirs) * (1 + 1e-6)
            close += relative(ours, theirs) < 2e-3
        assert close >= 14


@pytest.mark.parametrize("kind", ["none", "l2", "loss", "loss+"])
@pytest.mark.parametrize("tasks", [2, 3])
def test_mgda_divides_gradients_as_libmtl_does(tasks, kind):
    with jax.enable_x64(True):
        for gradients, losses, _, expected in sets(tasks, f"libmtl/mgda/{kind}"):
            assert relative(combine("mgda", gradients, losses, normalize=kind)[0], expected) < 3e-2


@each_count
def test_nash_mtl(tasks):
    """The equation itself, and TorchJD's result where its solver converged."""
    with jax.enable_x64(True):
        compared = 0
        for gradients, _, _, expected in sets(tasks, "torchjd/nash_mtl"):
            found, weights = combine("nash_mtl", gradients, max_norm=None)
            gram = gradients @ gradients.T
            np.testing.assert_allclose(gram @ weights * weights, 1, atol=5e-3)
            theirs = np.linalg.lstsq(gradients.T, expected)[0]
            if np.abs(gram @ theirs * theirs - 1).max() < 1e-3:
                compared += 1
                assert relative(found, expected) < 2e-3
        assert compared >= {2: 15, 3: 15, 10: 5}[tasks]


@each_count
def test_pcgrad(tasks):
    with jax.enable_x64(True):
        for gradients, _, order, expected in sets(tasks, "torchjd/pcgrad"):
            coefficients = jax.jit(project_conflicts)(
                jnp.asarray(gradients @ gradients.T), jnp.ones(tasks, bool), jnp.asarray(order)
            )
            assert relative(np.asarray(coefficients).sum(0) @ gradients, expected) < 1e-9


@each_count
def test_gradvac(tasks):
    with jax.enable_x64(True):
        goals = jnp.zeros((tasks, tasks))
        for gradients, _, order, expected in sets(tasks, "torchjd/gradvac"):
            gram = jnp.asarray(gradients @ gradients.T)
            coefficients, goals = jax.jit(vaccinate)(gram, jnp.ones(tasks, bool), jnp.asarray(order), goals, 0.5)
            assert (
                relative(np.asarray(coefficients).sum(0) @ gradients, expected) < 1e-5
            )  # TorchJD adds 1e-8 to divisors


# Properties of all gradient methods.

# FORUM reads a second batch; it is tested in test_forum.py.
each_method = pytest.mark.parametrize("method", [name for name in GRADIENT_METHODS if not needs_of(name).second_batch])
RANDOM = ("pcgrad", "gradvac")


def gradients_of(tasks, seed=0):
    return np.random.default_rng(seed).normal(size=(tasks, 20)).astype(np.float32)


@each_method
def test_one_task_has_its_plain_gradient(method):
    gradients = gradients_of(1)
    options = {"cagrad": {"rescale": "none", "c": 0.0}, "nash_mtl": {"max_norm": None}}.get(method, {})
    found, _ = combine(method, gradients, **options)
    direction = found / np.linalg.norm(found)
    np.testing.assert_allclose(direction, gradients[0] / np.linalg.norm(gradients[0]), atol=1e-5)
    # These also choose a length: 1, 1 / |g|^(1/3), half the loss, a tenth of the gradient of its logarithm.
    if method not in ("nash_mtl", "fairgrad", "moco", "db_mtl"):
        np.testing.assert_allclose(found, gradients[0], rtol=1e-4)


@each_method
def test_order_of_the_tasks_does_not_matter(method):
    if method in RANDOM:
        pytest.skip("equal in distribution only: the random order is drawn by position")
    gradients, order = gradients_of(4), [2, 0, 3, 1]
    found, weights = combine(method, gradients)
    again, moved = combine(method, gradients[order])
    np.testing.assert_allclose(again, found, atol=2e-4 * np.abs(found).max())
    np.testing.assert_allclose(moved, weights[order], atol=2e-4 * np.abs(weights).max())


def hard_gradients():
    random = gradients_of(3)
    for scale in (1e-6, 1.0, 1e6):
        yield scale * random
        yield scale * np.stack([random[0], np.zeros(20, np.float32), random[2]])
        yield scale * np.stack([random[0], 2 * random[0], random[2]])
        yield scale * np.stack([random[0], -random[0], random[2]])
    yield np.zeros((3, 20), np.float32)
    yield random * np.array([[1e-6], [1.0], [1e6]], np.float32)


@each_method
def test_hard_gradients_give_finite_answers(method):
    for gradients in hard_gradients():
        found, weights = combine(method, gradients, losses=np.array([1e-6, 1.0, 1e6], np.float32))
        assert np.isfinite(found).all()
        assert np.isfinite(weights).all()


@each_method
def test_absent_tasks_have_no_effect(method):
    if method in RANDOM:
        pytest.skip("the random order is drawn by position")
    gradients = gradients_of(3)
    given = gradients.copy()
    given[1] = 0
    found, weights = combine(method, given, present=[True, False, True])
    expected, others = combine(method, gradients[[0, 2]])
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(weights[[0, 2]], others, rtol=1e-3, atol=1e-5)


OWN_LENGTH = ("cagrad", "fairgrad", "nash_mtl", "db_mtl", "moco")
TRACKED = ("db_mtl", "moco")


@each_method
def test_one_task_per_step_gives_its_gradient_or_its_direction(method):
    """Three tasks in turn, twice; docs/decathlon.md lists the methods that rescale or average the gradient."""
    tx, step = stepper(method, ("task_0", "task_1", "task_2"), ())
    gradients, state = gradients_of(6), tx.init(jnp.zeros(20))
    for k, gradient in enumerate(gradients):
        present = np.arange(3) == k % 3
        found, state = step(present[:, None] * gradient, 2.0 * present / (k + 1), present, state)
        coefficients = gradients[k % 3 : k + 1 : 3] if method in TRACKED else gradient[None]
        factors, *_ = np.linalg.lstsq(coefficients.T, np.asarray(found))
        assert (factors > 0).all()
        np.testing.assert_allclose(found, factors @ coefficients, atol=1e-5)
        if method not in OWN_LENGTH:
            assert factors == pytest.approx(1, abs=1e-4)
        else:
            assert np.abs(np.linalg.norm(found) / np.linalg.norm(gradient) - 1) > 0.1


@pytest.mark.parametrize(
    ("method", "options"),
    [("mgda", {}), ("upgrad", {}), ("dualproj", {}), ("nash_mtl", {}), ("cagrad", {"c": 1.0}), ("fairgrad", {})],
)
@each_count
def test_the_update_conflicts_with_no_task(method, options, tasks):
    for gradients in stored()[f"{tasks}/gradients"].astype(np.float32):
        found, _ = combine(method, gradients, **options)
        cosines = gradients @ found / np.linalg.norm(gradients, axis=1) / max(np.linalg.norm(found), 1e-30)
        assert cosines.min() > -1e-3


def test_cagrad_stays_in_its_ball():
    for c in (0.2, 0.5, 0.9):
        for gradients in stored()["3/gradients"].astype(np.float32):
            found, _ = combine("cagrad", gradients, c=c, rescale="none", times_tasks=False)
            mean = gradients.mean(0)
            assert np.linalg.norm(found - mean) <= c * np.linalg.norm(mean) * (1 + 1e-4)


def chain(method):
    shared = lambda path: path[0] == "shared"  # noqa: E731
    return optax.chain(GRADIENT_METHODS[method](Problem.tasks, shared=shared), optax.adam(0.01))


@each_method
def test_scan_on_one_device_is_pmap_on_four(method, problem):
    """The scan sees whole batches and no axis, and refuses a state whose structure, shapes or types change."""
    tx = chain(method)

    def step(carry, batch):
        params, state = carry
        updates, new_state = tx.update(problem.task_gradients(params, batch), state, params)
        params = optax.apply_updates(params, updates)
        return (params, new_state), (params, task_weights(new_state))

    start = tx.init(problem.params)
    _, one = jax.jit(lambda carry: jax.lax.scan(step, carry, problem.batches))((problem.params, start))
    for i, (params, state) in enumerate(problem.train(tx, devices=4)):
        np.testing.assert_allclose(task_weights(state), one[1][i], rtol=5e-4, atol=1e-4)
        for key in params:
            np.testing.assert_allclose(params[key], one[0][key][i], atol=2e-4)


@each_method
def test_resumed_in_the_middle_is_the_same(method, problem):
    tx = chain(method)

    @jax.jit
    def step(params, state, batch):
        updates, state = tx.update(problem.task_gradients(params, batch), state, params)
        return optax.apply_updates(params, updates), state

    def run(params, state, steps):
        for i in steps:
            params, state = step(params, state, {key: value[i] for key, value in problem.batches.items()})
        return params, state

    start = (problem.params, tx.init(problem.params))
    straight = run(*start, range(6))
    stopped = jax.device_get(run(*start, range(3)))
    jax.tree.map(np.testing.assert_array_equal, run(*stopped, range(3, 6)), straight)
    compiled = step._cache_size()
    run(*straight, range(6))
    assert step._cache_size() == compiled


@each_method
def test_task_specific_parameters_and_backward_passes_one_by_one(method, problem):
    """Task-specific parameters get the gradient of the sum, and both values of `backward` agree."""
    make, batch = GRADIENT_METHODS[method], {key: value[0] for key, value in problem.batches.items()}

    @jax.jit
    def run(params):
        given = problem.task_gradients(params, batch)
        results = []
        for backward in ("together", "one_by_one"):
            tx = make(Problem.tasks, shared=lambda path: path[0] == "shared", backward=backward)
            results.append(tx.update(given, tx.init(params)))
        weights = jnp.ones(3)
        if method in ("nash_mtl", "fairgrad", "excess_mtl", "gradnorm", "epo"):
            weights = results[0][1].task_weights
        if method == "db_mtl":
            weights = 1 / given.losses
        return [gradient for gradient, _ in results], given.gradient(weights)["heads"]

    (together, one_by_one), of_heads = run(problem.params)
    np.testing.assert_allclose(together["heads"], of_heads, rtol=1e-4, atol=1e-6)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5), together, one_by_one)


@each_method
def test_messages(method):
    make = GRADIENT_METHODS[method]
    with pytest.raises(ValueError, match="without repeats"):
        make(("depth", "depth"))
    with pytest.raises(ValueError, match=f"{method} shared is 'heads'; expected 'auto', 'all', 'all_but_heads'"):
        make(("depth",), shared="heads")
    with pytest.raises(ValueError, match=f"{method} backward is 'both'; expected 'together'(,| or) 'one_by_one'"):
        make(("depth",), backward="both")
    tx = make(("depth",), shared=lambda path: False)
    given = TaskGradients(("depth",), jnp.ones(1), jnp.ones(1, bool), jnp.ones(1), lambda c: {"a": c})
    with pytest.raises(ValueError, match=r"selects none of the parameters \[a\]"):
        tx.update(given, tx.init(None))


@pytest.mark.parametrize(
    ("method", "options", "message"),
    [
        ("cagrad", {"c": -1.0}, "cagrad c is -1.0; expected a finite number of at least 0"),
        ("cagrad", {"rescale": "half"}, "cagrad rescale is 'half'; expected 'none', 'squared' or 'linear'"),
        ("mgda", {"normalize": "l1"}, "mgda normalize is 'l1'; expected 'none', 'l2', 'loss' or"),
        ("aligned_mtl", {"scale": "max"}, "aligned_mtl scale is 'max'; expected 'min', 'median' or 'rmse'"),
        ("fairgrad", {"alpha": 0.0}, "fairgrad alpha is 0.0; expected a finite number above 0"),
        ("gradvac", {"beta": 2.0}, "gradvac beta is 2.0; expected a number from 0 to 1"),
        ("nash_mtl", {"update_every": 0}, "nash_mtl update_every is 0; expected an integer of at least 1"),
        ("nash_mtl", {"max_norm": 0.0}, "nash_mtl max_norm is 0.0; expected a finite number above 0"),
        ("moco", {"beta": -1.0}, "moco beta is -1.0; expected a finite number of at least 0"),
        ("db_mtl", {"beta": 1.5}, "db_mtl beta is 1.5; expected a number from 0 to 1"),
        ("graddrop", {"leak": 2.0}, "graddrop leak is 2.0; expected a number from 0 to 1"),
        ("sdmgrad", {"pull": -1.0}, "sdmgrad pull is -1.0; expected a finite number of at least 0"),
        ("sdmgrad", {"iterations": 0}, "sdmgrad iterations is 0; expected an integer of at least 1"),
        ("excess_mtl", {"variant": "libmtl"}, "excess_mtl variant is 'libmtl'; expected 'authors' or 'paper'"),
        ("gradnorm", {"variant": "libmtl"}, "gradnorm has no learning rate; variant 'libmtl' needs"),
        ("gradnorm", {"alpha": "1"}, "gradnorm alpha is '1'; expected a finite number of at least 0"),
    ],
)
def test_bad_options(method, options, message):
    with pytest.raises(ValueError, match=message):
        GRADIENT_METHODS[method](("semantic", "depth"), **options)
