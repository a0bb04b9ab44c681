"""Layers of networks whose images belong to one task each, against slow formulas written from their definitions."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from mtan_jax.models import IMAGE_ARCHITECTURES, Numerics
from mtan_jax.models.backbones.wide_resnet import LAST_MOMENTUM, Layers, wide_resnet
from mtan_jax.models.layers.task_layers import (
    FROZEN,
    MASK_START,
    MASK_THRESHOLD,
    CombinedConv,
    FrozenConv,
    LowRankConv,
    MaskedConv,
    OwnConv,
    ParallelConv,
    SeriesConv,
    SharedConv,
    TaskConvNorm,
    TaskNorm,
)
from mtan_jax.models.ops.batch_norm import EPSILON
from mtan_jax.models.stage import Trunk

NAMES = ("hues", "bars", "corners")
FLOAT64 = Numerics(None, jnp.float64, jnp.float64)
CONVS = (SharedConv, OwnConv, FrozenConv, SeriesConv, ParallelConv, LowRankConv, CombinedConv, MaskedConv)
CHOSEN = np.array([2, 0])  # the tasks of the groups
BEFORE, AFTER = 3, 4  # channels


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


@pytest.fixture
def x():
    """Two groups of two images of 5x4."""
    return np.random.default_rng(0).normal(size=(2, 2, 5, 4, BEFORE))


def randomised(variables, seed=1):
    """The same arrays with random values."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: jnp.asarray(rng.normal(size=leaf.shape)), variables)


def variables_of(layer, x, **options):
    return layer.init(jax.random.key(0), jnp.asarray(x), jnp.asarray(CHOSEN), **options)


def convolve(x, kernel, stride):
    """Every output pixel is a sum over the window around it; x [b, h, w, c], kernel [k, k, c, d]."""
    side = len(kernel) // 2
    x = np.pad(x, ((0, 0), (side, side), (side, side), (0, 0)))
    height, width = (-(-(size - 2 * side) // stride) for size in x.shape[1:3])
    output = np.zeros((len(x), height, width, kernel.shape[-1]))
    for i, j in itertools.product(range(height), range(width)):
        window = x[:, stride * i : stride * i + len(kernel), stride * j : stride * j + len(kernel)]
        output[:, i, j] = np.tensordot(window, kernel, 3)
    return output


def by_hand(kind, arrays, x, task, stride):
    """One group, of one task; `arrays` by name."""
    arrays = {name: np.asarray(array) for name, array in arrays.items()}
    own = {name.removeprefix("own_"): array[task] for name, array in arrays.items() if name.startswith("own_")}
    if kind is OwnConv:
        return convolve(x, own["kernel"], stride) + own["bias"]
    kernel = arrays["kernel"]
    if kind is MaskedConv:
        return convolve(x, np.where(own["scores"] > MASK_THRESHOLD, kernel, 0), stride) + arrays["bias"]
    if kind is CombinedConv:
        # The features of the frozen filters, combined pixel by pixel.
        return np.einsum("bhwd,de->bhwe", convolve(x, kernel, stride), own["combination"]) + own["bias"]
    y = convolve(x, kernel, stride) + arrays["bias"]
    if kind is SeriesConv:
        return y + np.einsum("bhwd,de->bhwe", y, own["adapter"])
    if kind is ParallelConv:
        return y + convolve(x, own["adapter"][None, None], stride)
    if kind is LowRankConv:  # of rank 2 by default
        assert own["factor"].shape == (BEFORE, 2)
        return y + convolve(convolve(x, own["factor"][None, None], stride), arrays["basis"][None, None], 1)
    return y


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("size", [1, 3])
@pytest.mark.parametrize("kind", CONVS)
def test_convolutions(kind, size, stride, x):
    layer = kind(NAMES, FLOAT64, AFTER, kernel_size=size, stride=stride)
    variables = randomised(variables_of(layer, x))
    found = layer.apply(variables, x, CHOSEN)
    arrays = variables.get("params", {}) | variables.get(FROZEN, {})
    expected = np.stack([by_hand(kind, arrays, x[g], CHOSEN[g], stride) for g in range(2)])
    np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-12)


SHARED = {"params": {"kernel", "bias"}}
FROZEN_CONV = {"frozen": {"kernel", "bias"}}
ARRAYS = {
    SharedConv: SHARED,
    FrozenConv: FROZEN_CONV,
    OwnConv: {"params": {"own_kernel", "own_bias"}},
    SeriesConv: FROZEN_CONV | {"params": {"own_adapter"}},
    ParallelConv: FROZEN_CONV | {"params": {"own_adapter"}},
    LowRankConv: {"frozen": {"kernel", "bias", "basis"}, "params": {"own_factor"}},
    CombinedConv: {"frozen": {"kernel"}, "params": {"own_combination", "own_bias"}},
    MaskedConv: FROZEN_CONV | {"params": {"own_scores"}},
}


@pytest.mark.parametrize("kind", CONVS)
def test_what_is_trained_and_what_is_not(kind, x):
    """Frozen arrays are no parameters, so no gradient of them exists; those of absent tasks have a gradient of 0."""
    layer = kind(NAMES, FLOAT64, AFTER)
    variables = randomised(variables_of(layer, x))
    assert {name: set(arrays) for name, arrays in variables.items()} == ARRAYS[kind]
    params = variables.pop("params", {})

    @jax.grad
    def gradient(params):
        return jnp.square(layer.apply({"params": params, **variables}, x, CHOSEN)).sum()

    for name, array in gradient(params).items():
        if name.startswith("own_"):
            np.testing.assert_array_equal(array[1], 0)
            assert all((np.asarray(array[task]) != 0).any() for task in CHOSEN)


@pytest.mark.parametrize("kind", [SeriesConv, ParallelConv, LowRankConv, CombinedConv, MaskedConv])
def test_adapted_layers_begin_as_the_frozen_one(kind, x):
    """Adapters of 0, the identity, masks of 1: the frozen network's output, to the bit (adapters: -0 is 0)."""
    layer = kind(NAMES, FLOAT64, AFTER, stride=2)
    variables = variables_of(layer, x)
    bias = {"bias": randomised(jnp.zeros(AFTER)) if "bias" in variables[FROZEN] else jnp.zeros(AFTER)}
    frozen = variables[FROZEN] | bias
    variables = variables | {FROZEN: {name: frozen[name] for name in variables[FROZEN]}}
    expected = FrozenConv(NAMES, FLOAT64, AFTER, stride=2).apply({FROZEN: frozen}, x, CHOSEN)
    np.testing.assert_array_equal(layer.apply(variables, x, CHOSEN), expected)
    assert np.abs(expected).max() > 0.1


def test_a_mask_passes_its_gradient_straight_through(x):
    """The gradient of the scores is that of the mask's entries, be they 0 or 1."""
    layer = MaskedConv(NAMES, FLOAT64, AFTER)
    variables = randomised(variables_of(layer, x))
    kernel, scores = variables[FROZEN]["kernel"], variables["params"]["own_scores"]
    weights = np.random.default_rng(2).normal(size=(2, 2, 5, 4, AFTER))

    def total(params):
        return (layer.apply({"params": params, FROZEN: variables[FROZEN]}, x, CHOSEN) * weights).sum()

    found = jax.grad(total)(variables["params"])["own_scores"]
    assert {True, False} == set(np.asarray(scores > MASK_THRESHOLD).ravel().tolist())
    np.testing.assert_array_equal(found[1], 0)
    for g, task in enumerate(CHOSEN):
        for entry in itertools.product(*map(range, kernel.shape)):
            # The output is linear in an entry of the mask: the frozen weight there, alone, says how much.
            alone = np.zeros(kernel.shape)
            alone[entry] = kernel[entry]
            expected = (convolve(x[g], alone, 1) * weights[g]).sum()
            np.testing.assert_allclose(found[task][entry], expected, rtol=1e-9, atol=1e-12)
    assert MASK_START > MASK_THRESHOLD  # at first, everything passes


def moments(x):
    return x.mean((1, 2, 3)), x.var((1, 2, 3))


def normalised(x, mean, variance, scale, bias):
    """Each [g, c] or [c]."""
    mean, variance, scale, bias = (
        np.broadcast_to(array, (len(x), BEFORE))[:, None, None, None] for array in (mean, variance, scale, bias)
    )
    return (x - mean) / np.sqrt(variance + EPSILON) * scale + bias


def norm_and_variables(x, parameters, **options):
    layer = TaskNorm(NAMES, FLOAT64, parameters, **options)
    # Variances must be positive.
    return layer, jax.tree.map(lambda leaf: jnp.abs(leaf) + 0.1, randomised(variables_of(layer, x, train=False)))


@pytest.mark.parametrize("momentum", [0.9, LAST_MOMENTUM])
@pytest.mark.parametrize("parameters", ["shared", "own"])
def test_norm(parameters, momentum, x):
    """Moments a group, statistics a task: those of the absent task stay as they are, to the bit."""
    x = 3 * x + np.arange(2).reshape(2, 1, 1, 1, 1)
    layer, variables = norm_and_variables(x, parameters, momentum=momentum)
    prefix, rows = ("own_", CHOSEN) if parameters == "own" else ("", ...)
    affine = [np.asarray(variables["params"][prefix + name])[rows] for name in ("scale", "bias")]
    stored = {name: np.asarray(array) for name, array in variables["batch_stats"].items()}

    found = layer.apply(variables, x, CHOSEN, train=False)
    expected = normalised(x, stored["own_mean"][CHOSEN], stored["own_var"][CHOSEN], *affine)
    np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-12)

    found, updates = layer.apply(variables, x, CHOSEN, train=True, mutable=["batch_stats"])
    np.testing.assert_allclose(found, normalised(x, *moments(x), *affine), rtol=1e-12, atol=1e-12)
    for name, new in zip(("own_mean", "own_var"), moments(x), strict=True):
        after = np.asarray(updates["batch_stats"][name])
        np.testing.assert_array_equal(after[1], stored[name][1])
        np.testing.assert_allclose(after[CHOSEN], momentum * stored[name][CHOSEN] + (1 - momentum) * new, rtol=1e-12)


@pytest.mark.parametrize("train", [False, True])
def test_a_frozen_norm_uses_stored_statistics(train, x):
    layer, variables = norm_and_variables(x, "frozen")
    assert set(variables) == {FROZEN}
    found, updates = layer.apply(variables, x, CHOSEN, train=train, mutable=True)
    frozen = variables[FROZEN]
    np.testing.assert_allclose(
        found, normalised(x, frozen["mean"], frozen["var"], frozen["scale"], frozen["bias"]), rtol=1e-12, atol=1e-12
    )
    jax.tree.map(np.testing.assert_array_equal, updates, variables)


def test_convolution_norm_and_relu(x):
    layer = TaskConvNorm(NAMES, FLOAT64, AFTER)
    variables = randomised(layer.init(jax.random.key(0), jnp.asarray(x), train=False, tasks=CHOSEN))
    found, _ = layer.apply(variables, x, train=True, tasks=CHOSEN, mutable=["batch_stats"])
    params = variables["params"]
    y = np.stack([by_hand(SharedConv, params["conv"], x[g], 0, 1) for g in range(2)])
    mean, variance = (values[:, None, None, None] for values in moments(y))
    norm = {name: np.asarray(array) for name, array in params["norm"].items()}
    expected = (y - mean) / np.sqrt(variance + EPSILON) * norm["scale"] + norm["bias"]
    np.testing.assert_allclose(found, np.maximum(expected, 0), rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("names", [("corners", "hues", "bars"), ("bars",), (*NAMES[::-1], "other")])
@pytest.mark.parametrize("kind", [OwnConv, SeriesConv])
def test_initial_values_of_a_task_do_not_depend_on_others(kind, names, x):
    """Nor do those of what tasks share; and tasks begin differently."""
    one, other = (traverse_util.flatten_dict(variables_of(kind(tasks, FLOAT64, AFTER), x)) for tasks in (NAMES, names))
    assert one.keys() == other.keys()
    for path, array in one.items():
        if not path[-1].startswith("own_"):
            np.testing.assert_array_equal(array, other[path])
            continue
        for task in set(NAMES) & set(names):
            np.testing.assert_array_equal(other[path][names.index(task)], array[NAMES.index(task)])
        assert path[-1] != "own_kernel" or not np.array_equal(array[0], array[1])


# What tasks have of their own in whole networks, besides copies: at first, these change nothing.
NEUTRAL = {
    "own_adapter": lambda shape: np.zeros(shape),
    "own_factor": lambda shape: np.zeros(shape),
    "basis": lambda shape: np.ones(shape),
    "own_combination": lambda shape: np.broadcast_to(np.eye(*shape[1:]), shape),
    "own_scores": lambda shape: np.full(shape, MASK_START),
}


@pytest.mark.parametrize(
    "arch", ["single", "series_adapters", "parallel_adapters", "parallel_svd", "deep_adaptation", "piggyback"]
)
def test_adapted_networks_begin_as_the_frozen_one(arch):
    """Of "single", each task's own network, begun as a copy of the frozen one, is it too."""
    rng = np.random.default_rng(0)
    image = rng.normal(size=(2, 2, 16, 16, 3))
    frozen = {
        path: np.abs(rng.normal(size=leaf.shape)) + 0.1 if path[-1] == "var" else rng.normal(size=leaf.shape)
        for path, leaf in shapes_of("feature_extraction", image).items()
    }
    copied = {path[1:]: array for path, array in frozen.items()}
    adapted = {}
    for path, leaf in shapes_of(arch, image).items():
        plain = (*path[1:-1], path[-1].removeprefix("own_"))
        adapted[path] = np.broadcast_to(copied[plain], leaf.shape) if plain in copied else NEUTRAL[path[-1]](leaf.shape)
    found, expected = features(arch, adapted, image), features("feature_extraction", frozen, image)
    assert (np.asarray(expected) > 0).any(axis=(1, 2, 3, 4)).all()
    assert np.abs(found - expected).max() < 1e-12 * np.abs(expected).max()


def trunk_of(arch):
    return Trunk(wide_resnet(10, 1 / 16, Layers(NAMES, FLOAT64, **IMAGE_ARCHITECTURES[arch])))


def shapes_of(arch, image):
    init = functools.partial(trunk_of(arch).init_with_output, train=False, tasks=CHOSEN)
    return traverse_util.flatten_dict(jax.eval_shape(lambda key: init(key, image)[1], jax.random.key(0)))


def features(arch, variables, image):
    run = functools.partial(trunk_of(arch).apply, train=False, tasks=CHOSEN)
    return jax.jit(lambda variables: tuple(run(variables, image).values())[-1].gate)(
        traverse_util.unflatten_dict(variables)
    )
