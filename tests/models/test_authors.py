"""The network against the authors' own, narrow, in float64: outputs stored by tests/reference/make_segnet.py."""

import dataclasses
import functools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
import torch_names

from mtan_jax import tasks
from mtan_jax.models import ARCHITECTURES, Numerics, layers
from mtan_jax.models.backbones.resnet import resnet
from mtan_jax.models.backbones.segnet import segnet
from mtan_jax.models.heads import DeepLabHead

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


def ours(array):
    """Channels last, and a 1x1 convolution of the masks as a matrix."""
    return np.moveaxis(array, (0, 1), (-1, -2)) if array.ndim == 4 else array


def names_of(path, naming, task_names):
    """Names of the authors' arrays that one of ours holds; their cross-stitch weights are two arrays."""
    keys = tuple(key.key for key in path)
    return ["cs_unit_encoder", "cs_unit_decoder"] if keys == ("stitch",) else [naming(keys, task_names)]


def from_torch(template, stored, prefix, naming=torch_names.segnet_name, task_names=tiny.NAMES):
    def take(path, leaf):
        arrays = [ours(stored[prefix + name]) for name in names_of(path, naming, task_names)]
        return jnp.asarray(np.concatenate(arrays).reshape(leaf.shape))

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


def check_names(variables, stored, prefix, naming, task_names):
    used = [
        name
        for tree in variables.values()
        for path, _ in jax.tree_util.tree_leaves_with_path(tree)
        for name in names_of(path, naming, task_names)
    ]
    assert sorted(used) == sorted(name.removeprefix(prefix) for name in stored if name.startswith(prefix))


def test_every_array_of_theirs_is_used_once(network, stored):
    _, variables = network
    check_names(variables, stored, "state/", torch_names.segnet_name, tiny.NAMES)


def test_predictions_in_evaluation_mode(network, stored):
    model, variables = network
    found = jax.jit(lambda v, x: model.apply(v, x, train=False))(variables, channels_last(stored["image"]))
    for name in tiny.NAMES:
        assert relative(found[name], channels_last(stored[f"eval/{name}"])) < 1e-9


def run_training_mode(model, variables, task_list, stored):
    """Gradient of the sum of the losses; predictions, losses and running statistics."""
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
            for task in task_list:
                loss, count = task.loss(predictions[task.name], targets[task.name], jnp.ones(2, bool))
                losses[task.name] = loss / count
            return sum(losses.values()), (predictions, losses, updates["batch_stats"])

        return jax.grad(total, has_aux=True)(params)

    return run(variables["params"], channels_last(stored["image"]))


def assert_same_gradient(gradient, expected):
    for (path, found), wanted in zip(
        jax.tree_util.tree_leaves_with_path(gradient), jax.tree.leaves(expected), strict=True
    ):
        # A bias before a BatchNorm has no gradient but rounding: about 1e-17 on both sides.
        error, size = np.linalg.norm(found - wanted), np.linalg.norm(wanted)
        assert error < max(1e-7 * size, 1e-12), jax.tree_util.keystr(path)


def test_training_mode(network, stored):
    model, variables = network
    gradient, (predictions, losses, batch_stats) = run_training_mode(model, variables, TASKS, stored)
    for name in tiny.NAMES:
        assert relative(predictions[name], channels_last(stored[f"train/{name}"])) < 1e-9
        assert losses[name] == pytest.approx(stored[f"loss/{name}"], rel=1e-9)
    assert_same_gradient(gradient, from_torch(gradient, stored, "gradient/"))
    check_batch_stats(batch_stats, variables["batch_stats"], from_torch(batch_stats, stored, "after/"), size=64)


def shrunk(keys):
    """By how much the features that a BatchNorm sees are smaller than the image."""
    if keys[1] == "mean":  # of the pyramid of DeepLabv3: one pixel
        return 64
    stage = next((key for key in keys if key.startswith(("encoder_", "decoder_", "layer_"))), "")
    if not stage.startswith("layer_"):
        return 2 ** int(stage.split("_")[1]) if stage else 8
    if keys[2] == "stem":
        return 2
    # The first convolution of a block with a stride comes before it.
    return 4 if stage.startswith("layer_1") or keys[1:4] == ["layer_2", "block_0", "layer_0"] else 8


def check_batch_stats(found, before, after, *, size):
    for (path, new), old, wanted in zip(
        jax.tree_util.tree_leaves_with_path(found), jax.tree.leaves(before), jax.tree.leaves(after), strict=True
    ):
        keys = [key.key for key in path]
        if keys[-1].endswith("var"):
            # PyTorch's running variance takes in the unbiased variance of the batch.
            shared = keys[0] == "attention" and keys[1].endswith("_shared")
            kept = 0.9 ** (len(tiny.NAMES) if shared else 1)
            pixels = 2 * (size // shrunk(keys)) ** 2
            new = kept * old + (new - kept * old) * pixels / (pixels - 1)
        assert relative(new, wanted) < 1e-9, jax.tree_util.keystr(path)


FLOAT64 = Numerics(None, jnp.float64, jnp.float64)
NARROW = (2, 3, 4, 5, 5)
OTHERS = {
    "single": (torch_names.segnet_alone_name, {}),
    "stan": (torch_names.segnet_alone_name, {}),
    "split": (torch_names.segnet_name, {}),
    "split_wide": (torch_names.segnet_name, {"widths": (2, 3, 4, 5, 6)}),
    "split_deep": (functools.partial(torch_names.segnet_name, depth=2), {"depth": 2}),
    "dense": (torch_names.segnet_blocks_name, {}),
    "cross_stitch": (torch_names.segnet_blocks_name, {}),
}


@pytest.fixture(scope="module")
def stored_networks():
    with np.load(REFERENCE / "segnet_networks.npz", allow_pickle=False) as arrays:
        return dict(arrays)


FAST = ("single", "split_deep", "cross_stitch")


@pytest.mark.parametrize("arch", [pytest.param(a, marks=() if a in FAST else pytest.mark.slow) for a in OTHERS])
def test_other_networks(arch, stored_networks):
    naming, options = OTHERS[arch]
    task_list = TASKS[:1] if arch in ("single", "stan") else TASKS
    names = tuple(task.name for task in task_list)
    stored = {name.removeprefix(f"{arch}/"): array for name, array in stored_networks.items()}
    backbone = segnet(1.0, FLOAT64, **({"widths": NARROW} | options))
    gradient = check_network(ARCHITECTURES[arch](backbone, task_list), task_list, stored, naming)
    assert_same_gradient(gradient, from_torch(gradient, stored, "gradient/", naming, names))


def check_network(model, task_list, stored, naming):
    """Checks all but the gradient of the sum of the losses, which it returns."""
    names, size = tuple(task.name for task in task_list), stored["image"].shape[-1]
    template = jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros((1, size, size, 3)), train=False))
    variables = {
        name: from_torch(tree, stored, "state/", naming, names) for name, tree in template.items() if name != "masks"
    }
    check_names(variables, stored, "state/", naming, names)
    found = jax.jit(lambda v, x: model.apply(v, x, train=False))(variables, channels_last(stored["image"]))
    for name in names:
        assert relative(found[name][:, ::3, ::3], channels_last(stored[f"eval/{name}"])) < 1e-9
    gradient, (predictions, losses, batch_stats) = run_training_mode(model, variables, task_list, stored)
    for name in names:
        assert relative(predictions[name][:, ::3, ::3], channels_last(stored[f"train/{name}"])) < 1e-9
        assert losses[name] == pytest.approx(stored[f"loss/{name}"], rel=1e-9)
    after = from_torch(batch_stats, stored, "after/", naming, names)
    check_batch_stats(batch_stats, variables["batch_stats"], after, size=size)
    return gradient


@pytest.mark.slow
def test_resnet():
    with np.load(REFERENCE / "resnet_mtan.npz", allow_pickle=False) as arrays:
        stored = dict(arrays)
    backbone = resnet("resnet50", 1 / 32, FLOAT64)
    head = functools.partial(DeepLabHead, features=8, dropout=0.0, numerics=FLOAT64)
    model = ARCHITECTURES["mtan"](dataclasses.replace(backbone, head=head), TASKS)
    gradient = check_network(model, TASKS, stored, torch_names.resnet_name)
    assert_same_gradient(gradient, from_torch(gradient, stored, "gradient/", torch_names.resnet_name))


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
