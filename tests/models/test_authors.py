"""The network against the authors' own, narrow, in float64: outputs stored by tests/reference/make_segnet.py."""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from mtan_jax import tasks
from mtan_jax.models import layers

REFERENCE = pathlib.Path(__file__).parent.parent / "reference"
TASKS = (tasks.semantic(5), tasks.depth(), tasks.normal())
WIDTHS = (4, 6, 8, 12, 12)


@pytest.fixture(scope="module", autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


@pytest.fixture(scope="module")
def stored():
    with np.load(REFERENCE / "segnet_mtan.npz", allow_pickle=False) as arrays:
        return dict(arrays)


def torch_names(path):
    """From the path of one of our arrays to the name of the authors'."""
    leaf = {"kernel": "weight", "scale": "weight", "bias": "bias", "mean": "running_mean", "var": "running_var"}
    if path[0].startswith("head_"):
        number = tiny.NAMES.index(path[0].removeprefix("head_")) + 1
        return f"pred_task{number}.{path[1][-1]}.{leaf[path[-1]]}"
    part = {"conv": 0, "norm": 1}.get(path[3] if path[0] == "backbone" else path[2])
    if path[0] == "backbone":
        side, level, position = *path[1].split("_"), path[2].removeprefix("layer_")
        if position == "0":
            return f"{side}_block.{level}.{part}.{leaf[path[-1]]}"
        inner = "" if int(level) < 2 else f"{int(position) - 1}."
        return f"conv_block_{side[:3]}.{level}.{inner}{part}.{leaf[path[-1]]}"
    side, level, *shared = path[1].split("_")
    if shared:
        return f"{side}_block_att.{level}.{part}.{leaf[path[-1]]}"
    task = tiny.NAMES.index(path[2])
    where, _, name = path[3].partition("_")
    layer = {"hidden": 0, "output": 3}[where] + (name not in ("kernel", "conv_bias"))
    return f"{side}_att.{task}.{level}.{layer}.{leaf[name.removeprefix('conv_')]}"


def ours(array):
    """Channels last, and a 1x1 convolution of the masks as a matrix."""
    return np.moveaxis(array, (0, 1), (-1, -2)) if array.ndim == 4 else array


def from_torch(template, stored, prefix):
    def take(path, leaf):
        array = ours(stored[prefix + torch_names([key.key for key in path])])
        return jnp.asarray(array.reshape(leaf.shape))

    return jax.tree_util.tree_map_with_path(take, template)


@pytest.fixture(scope="module")
def network(stored):
    model = tiny.make_model(None, WIDTHS, jnp.float64, jnp.float64, TASKS)
    template = jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros((1, 64, 64, 3)), train=False))
    return model, {name: from_torch(tree, stored, "state/") for name, tree in template.items() if name != "masks"}


def channels_last(array):
    return np.moveaxis(array, 1, -1)


def relative(found, expected):
    return np.abs(np.asarray(found) - expected).max() / np.abs(expected).max()


def test_every_array_of_theirs_is_used_once(network, stored):
    _, variables = network
    used = [
        torch_names([key.key for key in path])
        for tree in variables.values()
        for path, _ in jax.tree_util.tree_leaves_with_path(tree)
    ]
    assert sorted(used) == sorted(name.removeprefix("state/") for name in stored if name.startswith("state/"))


def test_predictions_in_evaluation_mode(network, stored):
    model, variables = network
    found = jax.jit(lambda v, x: model.apply(v, x, train=False))(variables, channels_last(stored["image"]))
    for name in tiny.NAMES:
        assert relative(found[name], channels_last(stored[f"eval/{name}"])) < 1e-9


def test_training_mode(network, stored):
    model, variables = network
    targets = {
        "semantic": stored["target/semantic"],
        "depth": channels_last(stored["target/depth"]),
        "normal": channels_last(stored["target/normal"]),
    }

    @jax.jit
    def run(params, image):
        def total(params):
            predictions, updates = model.apply(
                {**variables, "params": params}, image, train=True, mutable=["batch_stats"]
            )
            losses = {}
            for task in TASKS:
                loss, count = task.loss(predictions[task.name], targets[task.name], jnp.ones(2, bool))
                losses[task.name] = loss / count
            return sum(losses.values()), (predictions, losses, updates["batch_stats"])

        return jax.grad(total, has_aux=True)(params)

    gradient, (predictions, losses, batch_stats) = run(variables["params"], channels_last(stored["image"]))
    for name in tiny.NAMES:
        assert relative(predictions[name], channels_last(stored[f"train/{name}"])) < 1e-9
        assert losses[name] == pytest.approx(stored[f"loss/{name}"], rel=1e-9)
    expected = from_torch(gradient, stored, "gradient/")
    for (path, found), wanted in zip(
        jax.tree_util.tree_leaves_with_path(gradient), jax.tree.leaves(expected), strict=True
    ):
        # A bias before a BatchNorm has no gradient but rounding: about 1e-17 on both sides.
        error, size = np.linalg.norm(found - wanted), np.linalg.norm(wanted)
        assert error < max(1e-7 * size, 1e-12), jax.tree_util.keystr(path)
    check_batch_stats(batch_stats, variables["batch_stats"], stored)


def check_batch_stats(found, before, stored):
    after = from_torch(found, stored, "after/")
    for (path, new), old, wanted in zip(
        jax.tree_util.tree_leaves_with_path(found), jax.tree.leaves(before), jax.tree.leaves(after), strict=True
    ):
        keys = [key.key for key in path]
        if keys[-1].endswith("var"):
            # PyTorch's running variance takes in the unbiased variance of the batch.
            kept = 0.9 ** (3 if keys[1].endswith("shared") else 1)
            level = keys[1].split("_")[1]
            pixels = 2 * (64 // 2 ** int(level)) ** 2
            new = kept * old + (new - kept * old) * pixels / (pixels - 1)
        assert relative(new, wanted) < 1e-9, jax.tree_util.keystr(path)


def test_layers():
    with np.load(REFERENCE / "layers.npz", allow_pickle=False) as arrays:
        stored = dict(arrays)
    image, indices = channels_last(stored["pool/input"]), channels_last(stored["pool/indices"])
    width = image.shape[2]
    positions = (indices // width % 2) * 2 + indices % width % 2
    (values, found), pullback = jax.vjp(layers.max_pool, jnp.asarray(image))
    np.testing.assert_array_equal(values, channels_last(stored["pool/output"]))
    np.testing.assert_array_equal(found, positions)
    cotangent = (jnp.asarray(channels_last(stored["pool/cotangent"])), np.zeros(found.shape, jax.dtypes.float0))
    np.testing.assert_array_equal(pullback(cotangent)[0], channels_last(stored["pool/gradient"]))
    unpool = lambda x: layers.max_unpool(x, jnp.asarray(positions, jnp.int8))  # noqa: E731
    check_layer(unpool, stored, "unpool", 0)
    for name in ("1x1", "2x3", "4x4", "5x8", "9x12"):
        check_layer(layers.upsample, stored, f"resize/{name}", 1e-14)


def check_layer(layer, stored, name, tolerance):
    values, pullback = jax.vjp(layer, jnp.asarray(channels_last(stored[f"{name}/input"])))
    np.testing.assert_allclose(values, channels_last(stored[f"{name}/output"]), atol=tolerance)
    gradient = pullback(jnp.asarray(channels_last(stored[f"{name}/cotangent"])))[0]
    np.testing.assert_allclose(gradient, channels_last(stored[f"{name}/gradient"]), atol=tolerance * 10)
