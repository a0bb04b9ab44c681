"""Gradients with respect to shared features: the networks, the step, and the methods that use them."""

import dataclasses
import functools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn
from helpers import tiny_config, tiny_problem
from helpers.weighting_problem import Problem

from mtan_jax import steps
from mtan_jax.experiment import Experiment
from mtan_jax.models import ARCHITECTURES, SHARE_FEATURES, Backbone, Flow, Head, Numerics, Stage
from mtan_jax.models.backbones.segnet import segnet
from mtan_jax.models.layers import ConvNorm
from mtan_jax.models.mtan import MTAN
from mtan_jax.models.predictions import predict
from mtan_jax.models.shared_features import abstract_features, hand_over
from mtan_jax.models.split import Separate, Split
from mtan_jax.models.stage import Trunk
from mtan_jax.reporting import metrics_file
from mtan_jax.runtime import parallel
from mtan_jax.weighting import GRADIENT_METHODS, TaskGradients, build_weighting, needs_of, task_weights
from mtan_jax.weighting.gradients import weighted

REFERENCE = pathlib.Path(__file__).parents[2] / "reference" / "features.npz"


def slow(*values):
    """Parameter values for the slow tests only, since each needs its own compilation."""
    return [pytest.param(value, marks=pytest.mark.long) for value in values]


each_method = pytest.mark.parametrize("method", ["imtl_g", *slow("mgda", "aligned_mtl")])


def gram_keeper(tasks, weights):
    """Constant weights; the state holds the Gram matrix that a method receives."""
    return weighted(
        "gram_keeper",
        tasks,
        lambda: jnp.zeros((len(tasks), len(tasks))),
        lambda stack, _: (weights, stack.gram.astype(jnp.float32)),
        shared="auto",
        backward="together",
        wrt="features",
    )


class FeatureProblem(Problem):
    """The small problem with the shared features tanh(x @ shared)."""

    def task_gradients(self, params, batch, axis_name=None):
        def task_losses(params, zeros):
            features = jnp.tanh(batch["x"] @ params["shared"]) + zeros
            error = features @ params["heads"] - batch["y"]
            total, count = (error**2 * batch["labelled"]).sum(0), batch["labelled"].sum(0)
            if axis_name is not None:
                total, count = jax.lax.psum((total, count), axis_name)
            return total / jnp.maximum(count, 1), count > 0

        zeros = jnp.zeros((len(batch["x"]), params["shared"].shape[1]))
        losses, pullback, present = jax.vjp(task_losses, params, zeros, has_aux=True)
        return TaskGradients(
            self.tasks,
            losses,
            present,
            jnp.ones_like(losses),
            lambda cotangent: pullback(cotangent)[0],
            axis_name=axis_name,
            feature_pullback=lambda cotangent: pullback(cotangent)[1],
        )

    def gram(self, step):
        """By hand: dL_k/dz = 2 error_k h_k / count_k."""
        batch = {key: value[step] for key, value in self.batches.items()}
        error = np.tanh(batch["x"] @ self.params["shared"]) @ self.params["heads"] - batch["y"]
        of_predictions = 2 * error * batch["labelled"] / np.maximum(batch["labelled"].sum(0), 1)
        gradients = np.einsum("bk,dk->kbd", of_predictions, self.params["heads"]).reshape(3, -1)
        return gradients @ gradients.T


@pytest.fixture(scope="module")
def feature_problem():
    return FeatureProblem()


# The methods.


@pytest.mark.parametrize("step", [2, *slow(0)])  # at step 2 a task is absent
def test_gram_matrix_is_that_of_the_formula_on_one_and_four_devices(feature_problem, step):
    tx = gram_keeper(Problem.tasks, jnp.ones(3))
    batch = {key: value[step] for key, value in feature_problem.batches.items()}

    def run(params, batch, axis_name=None):
        return tx.update(feature_problem.task_gradients(params, batch, axis_name), tx.init(params))[1].inner

    expected = feature_problem.gram(step)
    assert (expected[1] == 0).all() == (step == 2)
    lengths = np.sqrt(np.diag(expected))
    one = run(feature_problem.params, batch)
    four = jax.pmap(functools.partial(run, axis_name="devices"), "devices", in_axes=(None, 0), out_axes=None)(
        feature_problem.params, {key: value.reshape(4, 2, *value.shape[1:]) for key, value in batch.items()}
    )
    for found in (one, four):
        assert (np.abs(found - expected) <= 1e-5 * lengths * lengths[:, None]).all()


@each_method
def test_scan_on_one_device_is_pmap_on_four(method, feature_problem):
    tx = optax.chain(GRADIENT_METHODS[method](Problem.tasks, wrt="features"), optax.sgd(0.01))

    def step(carry, batch):
        params, state = carry
        updates, new_state = tx.update(feature_problem.task_gradients(params, batch), state, params)
        params = optax.apply_updates(params, updates)
        return (params, new_state), (params, task_weights(new_state))

    start = (feature_problem.params, tx.init(feature_problem.params))
    _, (all_params, all_weights) = jax.jit(lambda carry: jax.lax.scan(step, carry, feature_problem.batches))(start)
    assert np.abs(all_params["heads"][-1] - feature_problem.params["heads"]).max() > 1e-3
    for i, (params, state) in enumerate(feature_problem.train(tx, devices=4)):
        np.testing.assert_allclose(task_weights(state), all_weights[i], rtol=1e-4, atol=1e-5)
        for key in params:
            np.testing.assert_allclose(params[key], all_params[key][i], atol=2e-5)


@each_method
@pytest.mark.parametrize("backward", ["together", *slow("one_by_one")])
def test_all_parameters_have_the_gradient_of_the_weighted_losses_from_one_pass(method, backward, feature_problem):
    batch = {key: value[0] for key, value in feature_problem.batches.items()}
    original, calls = feature_problem.task_gradients(feature_problem.params, batch), []

    def pullback(cotangent):
        calls.append(cotangent)
        return original.pullback(cotangent)

    given = dataclasses.replace(original, weights=jnp.array([2.0, 1.0, 0.5]), pullback=pullback)
    tx = GRADIENT_METHODS[method](Problem.tasks, wrt="features", backward=backward)
    gradient, state = jax.jit(lambda: tx.update(given, tx.init(feature_problem.params)))()
    assert len(calls) == 1
    assert calls[0].shape == (3,)  # under vmap the mapped axis is hidden
    weights = task_weights(state)
    assert np.ptp(weights) > 0.05

    def total(params):
        sums, counts = feature_problem.sums(params, batch)
        return (weights * sums / counts).sum()

    expected = jax.grad(total)(feature_problem.params)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), gradient, expected)
    # The method gives the same weights for this Gram matrix if it comes from parameters.
    scaled = feature_problem.gram(0) * np.outer(given.weights, given.weights)
    rows = jnp.asarray(np.linalg.cholesky(scaled), jnp.float32)
    same = TaskGradients(given.tasks, given.losses, given.present, jnp.ones(3), lambda cotangent: cotangent @ rows)
    other = GRADIENT_METHODS[method](Problem.tasks, shared=lambda path: True)
    _, found = jax.jit(lambda: other.update(same, other.init(None)))()
    np.testing.assert_allclose(weights, task_weights(found) * given.weights, rtol=2e-4, atol=1e-5)


@each_method
def test_an_absent_task_has_no_effect(method, feature_problem):
    batch = {key: value[2] for key, value in feature_problem.batches.items()}  # no label for the second task
    given = feature_problem.task_gradients(feature_problem.params, batch)
    tx = GRADIENT_METHODS[method](Problem.tasks, wrt="features")
    gradient, state = jax.jit(lambda: tx.update(given, tx.init(None)))()
    left = jnp.array([0, 2])

    def of_three(cotangent):
        return jnp.zeros(3).at[left].set(cotangent)

    two = TaskGradients(
        *(("semantic", "normal"), given.losses[left], given.present[left], jnp.ones(2)),
        lambda cotangent: given.pullback(of_three(cotangent)),
        feature_pullback=lambda cotangent: given.feature_pullback(of_three(cotangent)),
    )
    tx = GRADIENT_METHODS[method](two.tasks, wrt="features")
    expected, alone = jax.jit(lambda: tx.update(two, tx.init(None)))()
    np.testing.assert_allclose(task_weights(state)[left], task_weights(alone), rtol=1e-4, atol=1e-6)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5), gradient, expected)


# Reference values of LibMTL and of the authors of Aligned-MTL (tests/reference/make_features.py).


@functools.cache
def stored():
    with np.load(REFERENCE, allow_pickle=False) as arrays:
        return dict(arrays)


def sets(tasks, rows, name):
    for i in range(20):
        problem = {key: stored()[f"{tasks}/{rows}/{key}"][i] for key in ("x", "y", "shared", "heads", "scale")}
        yield problem, stored()[f"{tasks}/{rows}/{name}"][i]


@functools.cache
def network_step(method, options, sum_rows):
    """Returns a function from a problem to its parameter gradient, the weights and the stack."""

    @jax.jit
    def step(problem):
        tasks = tuple(str(i) for i in range(len(problem["heads"])))

        def task_losses(params, zeros):
            error = (jnp.tanh(problem["x"] @ params["shared"]) + zeros) @ params["heads"].T - problem["y"]
            return problem["scale"] * (error**2).mean(0)

        params = {key: problem[key] for key in ("shared", "heads")}
        zeros = jnp.zeros((len(problem["x"]), problem["heads"].shape[1]))
        losses, pullback = jax.vjp(task_losses, params, zeros)
        given = TaskGradients(
            *(tasks, losses, jnp.ones(len(tasks), bool), jnp.ones(len(tasks)), lambda c: pullback(c)[0]),
            feature_pullback=lambda c: pullback(c)[1].sum(0) if sum_rows else pullback(c)[1],
        )
        tx = GRADIENT_METHODS[method](tasks, wrt="features", **dict(options))
        gradient, state = tx.update(given, tx.init(None))
        features = jax.vmap(given.feature_gradient)(jnp.eye(len(tasks))).reshape(len(tasks), -1)
        made_of = {"losses": losses, "gram": features @ features.T, "plain": given.gradient(jnp.ones(len(tasks)))}
        return gradient, task_weights(state), made_of

    return step


def run(method, problem, sum_rows=False, **options):
    return jax.device_get(network_step(method, tuple(options.items()), sum_rows)(problem))


def relative(found, expected):
    return np.linalg.norm(found - expected) / np.linalg.norm(expected)


each_size = pytest.mark.parametrize(
    ("tasks", "rows"),
    [(k, b) if (k, b) == (3, 8) else pytest.param(k, b, marks=pytest.mark.long) for k in (2, 3, 10) for b in (1, 8)],
)

# float64 rounding only, but the Gram matrices have condition numbers of 8e8, 2e7 and 1e12. Seen: 3.1e-12, 2.7e-11,
# 6.9e-7.
BOUND = {2: 1e-10, 3: 1e-9, 10: 5e-6}


@pytest.mark.parametrize("method", ["imtl_g", *slow("aligned_mtl")])
@each_size
def test_numbers_of_libmtl(method, tasks, rows):
    """LibMTL first sums gradients over the rows of a batch; with one row the two agree."""
    with jax.enable_x64(True):
        differences = []
        for problem, expected in sets(tasks, rows, f"libmtl/{method}/gradient"):
            assert relative(run(method, problem, sum_rows=True)[0]["shared"], expected) < BOUND[tasks]
            differences.append(relative(run(method, problem)[0]["shared"], expected))
    assert (np.median(differences) > 0.05) == (rows > 1)


@pytest.mark.parametrize("scale", ["min", *slow("median", "rmse")])
@each_size
def test_numbers_of_the_authors_of_aligned_mtl(scale, tasks, rows):
    name = "aligned_mtl" if scale == "min" else f"aligned_mtl/{scale}"
    with jax.enable_x64(True):
        for problem, expected in sets(tasks, rows, f"samsung/{name}/gradient"):
            assert relative(run("aligned_mtl", problem, scale=scale)[0]["shared"], expected) < BOUND[tasks]


@pytest.mark.long
@each_size
def test_heads_get_the_weighted_gradient_but_the_plain_one_in_libmtl(tasks, rows):
    with jax.enable_x64(True):
        for problem, expected in sets(tasks, rows, "libmtl/heads"):
            gradient, weights, made_of = run("mgda", problem)
            np.testing.assert_allclose(made_of["plain"]["heads"], expected, rtol=1e-9, atol=1e-12)
            np.testing.assert_allclose(gradient["heads"], weights[:, None] * expected, rtol=1e-5, atol=1e-9)


def normalised(kind, made_of):
    """The divisor of the gradients, and the normalized Gram matrix."""
    lengths = np.sqrt(np.diag(made_of["gram"]))
    divisor = {"none": 1, "l2": lengths, "loss": made_of["losses"], "loss+": lengths * made_of["losses"]}[kind]
    divisor = divisor * np.ones(len(lengths))
    return divisor, made_of["gram"] / np.outer(divisor, divisor)


@pytest.mark.parametrize("kind", ["loss+", *slow("none", "l2", "loss")])
@each_size
def test_numbers_of_mgda(kind, tasks, rows):
    """With features LibMTL and Sener and Koltun weigh gradients as they are, not divided; so theirs are w * divisor.

    Their solution for two tasks is exact but for weights of 0 and 1, which they make 0.001 and 0.999. For more they
    stop a slow iteration.
    """
    with jax.enable_x64(True):
        close = 0
        for problem, theirs in sets(tasks, rows, f"libmtl/mgda/{kind}/weights"):
            _, weights, made_of = run("mgda", problem, sum_rows=True, normalize=kind)
            divisor, gram = normalised(kind, made_of)
            ours = weights * divisor
            assert ours.sum() == pytest.approx(1, abs=1e-6)
            if tasks == 2:
                expected = np.clip(ours, 0.001, 0.999) if ours.min() < 1e-6 else ours
                np.testing.assert_allclose(theirs, expected, atol=1e-6)
            # Optimality: the shortest vector of a convex set has a nonnegative product with every feasible direction.
            assert ours @ gram @ (theirs - ours) >= -1e-6 * (ours @ gram @ ours)
            away = theirs - ours
            close += away @ gram @ away < 1e-4 * (theirs @ gram @ theirs)
        assert close >= (15 if tasks == 3 else 0)


@pytest.mark.long
@each_size
def test_mgda_compares_the_gradients_of_all_rows(tasks, rows):
    with jax.enable_x64(True):
        differences = [
            relative(run("mgda", problem)[0]["shared"], expected)
            for problem, expected in sets(tasks, rows, "samsung/mgda/gradient")
        ]
    assert sum(difference < 1e-3 for difference in differences) >= {2: 12, 3: 16, 10: 3}[tasks]


# The networks.


class Block(nn.Module):
    """A backbone block as a user writes it; with `alike`, a mask gates its own input."""

    alike: bool
    numerics: Numerics

    @nn.compact
    def __call__(self, flow, *, train):
        look = ConvNorm(4, 1, numerics=self.numerics, name="look")(flow.x, train=train)
        gate = look if self.alike else ConvNorm(4, 1, numerics=self.numerics, name="gate")(look, train=train)
        return Stage(look, gate, hidden=2), Flow(gate)


def small(axis_name=None, dtype=jnp.float32):
    numerics = Numerics(axis_name, dtype, dtype)
    blocks = {"first": functools.partial(Block, False, numerics), "second": functools.partial(Block, True, numerics)}
    return Backbone(blocks, functools.partial(Head, numerics=numerics), multiple=1, numerics=numerics)


def shapes_of(model):
    image = jnp.zeros((2, 4, 4, 3))
    variables = jax.eval_shape(functools.partial(model.init, train=False), jax.random.key(0), image)
    return variables, abstract_features(model, variables, image)


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_these_architectures_share_features(arch):
    backbone = segnet(1.0, widths=(2,)) if arch == "dense" else small()
    variables, features = shapes_of(ARCHITECTURES[arch](backbone, tiny_problem.TASKS))
    assert "perturbations" not in variables
    assert bool(features) == (arch in SHARE_FEATURES)
    shapes = [leaf.shape for leaf in jax.tree.leaves(features)]
    # An array that is both mask input and gated counts once. For dense, image and last block's output do not count.
    assert shapes == {"mtan": [(2, 4, 4, 4)] * 3, "dense": [(2, 2, 2, 2)]}.get(arch, [(2, 4, 4, 4)] * bool(features))
    assert not shapes_of(ARCHITECTURES[arch](backbone, tiny_problem.TASKS[:1]))[1]  # one task shares nothing


def test_features_are_passed_on_unchanged():
    class Network(nn.Module):
        @nn.compact
        def __call__(self, x):
            handed = hand_over(self, tiny_problem.TASKS, {"a": x, "b": x})
            assert (handed["a"] is x) == ("perturbations" not in self.variables)
            return handed

    x = jnp.ones((2, 3))
    variables = Network().init(jax.random.key(0), x)
    assert variables == {}
    Network().apply(variables, x)
    handed, given = Network().apply(variables, x, mutable=["perturbations"])
    jax.tree.map(lambda leaf: np.testing.assert_array_equal(leaf, x), handed)
    given = jax.tree.map(lambda zero: zero + 1, given)
    jax.tree.map(lambda leaf: np.testing.assert_array_equal(leaf, 2 * x), Network().apply(given, x))


class BehindSplit(nn.Module):
    """The layers after the shared features of `Split`, as a separate network."""

    backbone: Backbone
    tasks: tuple
    stages: object

    @nn.compact
    def __call__(self, image, *, train):
        *_, last = self.stages.values()
        features = dict.fromkeys(tiny_problem.NAMES, last.gate)
        return predict(self.backbone, self.tasks, features, image, train=train)


class BehindMTAN(MTAN):
    """The layers after the shared features of `MTAN`, as a separate network."""

    stages: object

    def shared_stages(self, image, *, train):
        return self.stages


def gram_by_hand(backbone, variables, batch, attention):
    """Runs the backbone, then differentiates the remaining layers with respect to its features."""
    variables = {collection: tree for collection, tree in variables.items() if "backbone" in tree}  # not empty ones
    trunk = {collection: tree["backbone"] for collection, tree in variables.items()}
    stages, _ = Trunk(backbone).apply(trunk, batch["image"], train=True, mutable=["batch_stats"])
    # In "second", `look` is `gate`; split reads only the last gate.
    features = {"second": [stages["second"].gate]}
    if attention:
        features["first"] = [stages["first"].look, stages["first"].gate]
    behind = {c: {key: v for key, v in tree.items() if key != "backbone"} for c, tree in variables.items()}

    def losses(features):
        shown = {
            name: dataclasses.replace(stages[name], look=features[name][0], gate=features[name][-1])
            for name in stages
            if name in features
        }
        network = (BehindMTAN if attention else BehindSplit)(backbone, tiny_problem.TASKS, shown)
        predictions, _ = network.apply(behind, batch["image"], train=True, mutable=["batch_stats"])
        terms = [
            task.loss(predictions[task.name], batch["targets"][task.target], batch["labelled"][task.target])
            for task in tiny_problem.TASKS
        ]
        return jnp.stack([total / count for total, count in terms])

    rows = [leaf.reshape(3, -1) for leaf in jax.tree.leaves(jax.jacrev(losses)(features))]
    return sum(row @ row.T for row in rows)


WEIGHTS = jnp.array([1.0, 2.0, 0.5])
TX = optax.chain(gram_keeper(tiny_problem.NAMES, WEIGHTS), optax.sgd(1.0))


def train_once(model, *, devices=1, accumulate=1, tx=TX, features=True, apply=None):
    axis_name = None if devices == 1 else parallel.AXIS
    options = {"axis_name": axis_name, "accumulate": accumulate, "features": features}
    step = steps.make_train_step(apply or model, tiny_problem.TASKS, tx, key=jax.random.key(0), **options)
    state, batch = tiny_problem.make_state(model, tx), tiny_problem.make_batch()
    if devices == 1:
        return jax.device_get(jax.jit(step)(state, batch))
    return jax.device_get(parallel.map_train_step(step)(parallel.place_state(state), parallel.place_batch(batch)))


def assert_same(found, expected, tolerance):
    """Compares Gram matrices and parameters, relative to the largest element."""
    for a, b in ((found.opt_state[0].inner, expected.opt_state[0].inner), (found.params, expected.params)):
        pairs = list(zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))
        largest = max(np.abs(leaf).max() for _, leaf in pairs)
        assert max(np.abs(a - b).max() for a, b in pairs) < tolerance * largest


@pytest.mark.long
@pytest.mark.parametrize("arch", ["split", "mtan"])
def test_gram_matrix_of_a_network_is_that_of_the_layers_after_its_backbone(arch):
    model = ARCHITECTURES[arch](small(), tiny_problem.TASKS)
    state, batch = tiny_problem.make_state(model, TX), tiny_problem.make_batch()
    expected = jax.jit(lambda variables: gram_by_hand(small(), variables, batch, arch == "mtan"))(state.variables)
    found = train_once(model)
    lengths = np.sqrt(np.diag(expected))
    assert (np.abs(found.opt_state[0].inner - expected) <= 1e-4 * lengths * lengths[:, None]).all()
    # The step follows the gradient of the weighted losses.
    static = tiny_problem.make_tx(
        "static", optax.sgd(1.0), static={"weights": dict(zip(tiny_problem.NAMES, WEIGHTS, strict=True))}
    )
    plain = train_once(model, tx=static, features=False)
    moved = jax.tree.map(np.subtract, plain.params, jax.device_get(state.params))
    assert optax.tree.norm(jax.tree.map(np.subtract, found.params, plain.params)) < 1e-5 * optax.tree.norm(moved)


@pytest.mark.long
@pytest.mark.parametrize("arch", ["split", "mtan"])
def test_four_devices_are_one(arch):
    """Attention's BatchNorms mix the rows of all devices, so a device's features matter to the others' losses."""
    one, four = (
        train_once(ARCHITECTURES[arch](small(axis), tiny_problem.TASKS), devices=devices)
        for axis, devices in ((None, 1), (parallel.AXIS, 4))
    )
    assert_same(four, one, 2e-5)


@pytest.mark.long
def test_accumulation_includes_the_features_of_all_parts():
    model = Split(small(), tiny_problem.TASKS)

    class Frozen:  # the network in evaluation mode, where BatchNorm does not depend on the parts
        def apply(self, variables, image, train, mutable, rngs=None):
            chosen = [name for name in mutable if name != "batch_stats"]
            predictions, updates = model.apply(variables, image, train=False, mutable=chosen)
            return predictions, {**updates, "batch_stats": variables["batch_stats"]}

    class Whole(Frozen):
        def apply(self, variables, image, train, mutable, rngs=None):
            predictions, updates = super().apply(variables, image, train, mutable, rngs)
            return predictions, {name: updates[name] for name in mutable}

    whole, parts = (train_once(model, accumulate=n, apply=Whole()) for n in (1, 4))
    assert_same(parts, whole, 1e-5)


@pytest.mark.long
def test_the_backward_pass_of_the_backbone_is_run_once():
    """XLA eliminates unused results: the backbone's part of each task's pass."""

    def flops(spec, **options):
        model = Split(segnet(1.0, widths=(4, 6)), tiny_problem.TASKS)
        tx = tiny_problem.make_tx(spec, optax.sgd(0.1), **({spec: options} if options else {}))
        step = steps.make_train_step(model, tiny_problem.TASKS, tx, key=jax.random.key(0), features=bool(options))
        compiled = jax.jit(step).lower(tiny_problem.make_state(model, tx), tiny_problem.make_batch()).compile()
        return compiled.cost_analysis()["flops"]

    once = flops("equal")
    assert flops("mgda") > 2 * once
    assert flops("mgda", wrt="features") < 1.5 * once


@pytest.mark.long
def test_a_run_from_its_configuration(run_main, tmp_path):
    run_main(
        f"--config={tiny_config.__file__}:arch=split",
        f"--workdir={tmp_path / 'run'}",
        f"--config.data.data_dir={tmp_path / 'data'}",
        "--config.weighting=mgda",
        "--config.weighting_options.mgda.wrt=features",
        "--config.duration=4 steps",
    )
    lines = [line for line in metrics_file.read_metrics(tmp_path / "run" / "metrics.jsonl") if line["split"] == "train"]
    weights = np.array([[line[f"weights/{task}"] for task in tiny_problem.NAMES] for line in lines])
    assert len(weights) == 2
    assert (weights > -1e-6).all()
    np.testing.assert_allclose(weights.sum(1), 1, atol=1e-4)
    assert np.ptp(weights) > 0.01


# Errors.


def test_needs():
    spec = ("equal", ("mgda", {"wrt": "features"}))
    assert needs_of(spec).features
    assert needs_of("imtl_g", options={"imtl_g": {"wrt": "features"}}).features
    assert not needs_of("mgda", options={"imtl_g": {"wrt": "features"}}).features
    build_weighting(spec, tiny_problem.NAMES, optax.sgd(0.1))


@each_method
def test_messages_of_the_methods(method):
    make = GRADIENT_METHODS[method]
    with pytest.raises(ValueError, match=f"{method} wrt is 'heads'; expected 'parameters' or 'features'"):
        make(("depth",), wrt="heads")
    with pytest.raises(ValueError, match=f"{method} shared is 'backbone' and wrt is 'features'; leave out shared"):
        make(("depth",), shared="backbone", wrt="features")
    given = TaskGradients(("depth",), jnp.ones(1), jnp.ones(1, bool), jnp.ones(1), lambda cotangent: cotangent)
    tx = make(("depth",), wrt="features")
    with pytest.raises(ValueError, match=r"no gradients with respect to features: task_gradients computes"):
        tx.update(given, tx.init(None))


def test_networks_without_shared_features_are_refused():
    model = Separate(Split, small(), tiny_problem.TASKS)
    with pytest.raises(ValueError, match=r"make_train_step\(features=True\): the tasks of Separate share no features"):
        train_once(model)
    config = tiny_config.get_config("arch=cross_stitch")
    config.weighting = (("mgda", {"wrt": "features"}),)
    message = (
        r"config\.weighting = .*features that tasks share: config\.model\.arch = 'cross_stitch' with 3 tasks has none; "
        r"use several tasks and one of mtan, split, split_wide, split_deep, dense"
    )
    with pytest.raises(ValueError, match=message):
        Experiment.from_config(config)
