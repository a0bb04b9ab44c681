"""The networks against the authors' own, narrow, in float64: outputs stored by tests/reference/make_networks.py."""

import dataclasses
import functools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import traverse_util

from mtan_jax import tasks
from mtan_jax.interop import torch
from mtan_jax.interop.names import layouts
from mtan_jax.models import ARCHITECTURES, Numerics, ops
from mtan_jax.models.backbones.resnet import resnet
from mtan_jax.models.backbones.segnet import segnet
from mtan_jax.models.layers.heads import DeepLabHead

REFERENCE = pathlib.Path(__file__).parents[1] / "reference"
TASKS = (tasks.semantic(5), tasks.depth(), tasks.normal())
FLOAT64 = Numerics(None, jnp.float64, jnp.float64)
NARROW = (2, 3, 4, 5, 5)


@pytest.fixture(scope="module", autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


@functools.cache
def read(name):
    with np.load(REFERENCE / f"{name}.npz", allow_pickle=False) as arrays:
        return dict(arrays)


def channels_last(array):
    return np.moveaxis(array, 1, -1)


def relative(found, expected):
    return np.abs(np.asarray(found) - expected).max() / np.abs(expected).max()


class Network:
    """One of our networks beside what is stored of the authors'."""

    def __init__(self, model, arch, backbone, task_list, file):
        stored = read(file)
        self.model, self.tasks, self.image = model, task_list, channels_last(stored["image"])
        self.arch = arch
        names = tuple(task.name for task in task_list)
        self.layout = layouts(arch, backbone, names)[0]
        self.targets = {
            "semantic": stored["target/semantic"],
            "depth": channels_last(stored["target/depth"]),
            "normal": channels_last(stored["target/normal"]),
        }
        prefix = f"{arch}/"
        self.stored = {name.removeprefix(prefix): stored[name] for name in stored if name.startswith(prefix)}
        template = jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros((1, 64, 64, 3)), train=False))
        self.template = {name: template[name] for name in ("params", "batch_stats")}

    def their_entries(self, group):
        """The entries of the state_dict that a flat array holds, by name."""
        running = {"state": (True, False), "gradient": (False,), "after": (True,)}[group.rsplit("/", 1)[1]]
        names = [str(name) for name in self.stored["names"]]
        shapes = [tuple(size for size in shape if size) for shape in self.stored["shapes"]]
        kept = [(name, shape) for name, shape in zip(names, shapes, strict=True) if ("running" in name) in running]
        ends = np.cumsum([np.prod(shape, dtype=int) for _, shape in kept])
        parts = np.split(self.stored[group], ends[:-1])
        return {name: part.reshape(shape) for (name, shape), part in zip(kept, parts, strict=True)}

    def variables(self, weights):
        found = torch.to_variables(self.their_entries(f"{weights}/state"), self.template, (self.layout,))
        return traverse_util.unflatten_dict(found)

    @functools.cached_property
    def predict(self):
        return jax.jit(lambda variables: self.model.apply(variables, self.image, train=False))

    @functools.cached_property
    def run(self):
        """(params, batch_stats) -> gradient of the sum of the losses, (predictions, losses, new batch_stats)."""

        def total(params, batch_stats):
            variables = {"params": params, "batch_stats": batch_stats}
            predictions, updates = self.model.apply(variables, self.image, train=True, mutable=["batch_stats"])
            losses = {}
            for task in self.tasks:
                loss, count = task.loss(predictions[task.name], self.targets[task.name], jnp.ones(2, bool))
                losses[task.name] = loss / count
            return sum(losses.values()), (predictions, losses, updates["batch_stats"])

        return jax.jit(jax.grad(total, has_aux=True))

    def check(self, weights):
        """Predictions in both modes, losses, statistics, the gradient of every parameter."""
        variables, stored, prefix = self.variables(weights), self.stored, weights
        for name, found in self.predict(variables).items():
            assert relative(found[:, ::3, ::3], channels_last(stored[f"{prefix}/eval/{name}"])) < 1e-9
        gradient, (predictions, losses, batch_stats) = self.run(variables["params"], variables["batch_stats"])
        for name, found in predictions.items():
            assert relative(found[:, ::3, ::3], channels_last(stored[f"{prefix}/train/{name}"])) < 1e-9
            assert losses[name] == pytest.approx(stored[f"{prefix}/loss/{name}"], rel=1e-9)
        self.check_gradient(gradient, self.their_entries(f"{prefix}/gradient"))
        self.check_statistics(variables["batch_stats"], batch_stats, self.their_entries(f"{prefix}/after"))

    def check_gradient(self, gradient, expected):
        found = torch.to_state_dict({"params": gradient, "batch_stats": {}}, self.layout)
        assert found.keys() == expected.keys()
        for name, wanted in expected.items():
            # A bias before a BatchNorm has no gradient but rounding: about 1e-17 on both sides.
            error, size = np.linalg.norm(found[name] - wanted), np.linalg.norm(wanted)
            assert error < max(1e-7 * size, 1e-13), name

    def check_statistics(self, before, after, expected):
        old, new = (torch.to_state_dict({"params": {}, "batch_stats": tree}, self.layout) for tree in (before, after))
        assert new.keys() == expected.keys()
        for name, wanted in expected.items():
            found = new[name]
            if name.endswith("var"):
                # PyTorch's running variance takes in the unbiased variance of the batch.
                kept = 0.9 ** (len(self.tasks) if "_block_att" in name else 1)
                pixels = 2 * (self.image.shape[1] // shrunk(name)) ** 2
                found = kept * old[name] + (found - kept * old[name]) * pixels / (pixels - 1)
            assert relative(found, wanted) < 1e-9, name

    def check_adam(self):
        """Losses of ten steps from the trained weights."""
        params, batch_stats = (self.variables("trained")[name] for name in ("params", "batch_stats"))
        tx = optax.adam(1e-4)

        @jax.jit
        def update(params, opt_state, gradient):
            updates, opt_state = tx.update(gradient, opt_state)
            return optax.apply_updates(params, updates), opt_state

        opt_state = tx.init(params)
        for i, expected in enumerate(self.stored["adam"]):
            gradient, (_, losses, batch_stats) = self.run(params, batch_stats)
            found = [losses[task.name] for task in self.tasks]
            np.testing.assert_allclose(found, expected, rtol=1e-6, err_msg=f"step {i}")
            params, opt_state = update(params, opt_state, gradient)

    def check_round_trip(self):
        theirs = self.their_entries("random/state")
        back = torch.to_state_dict(self.variables("random"), self.layout)
        assert back.keys() == theirs.keys()
        for name, array in theirs.items():
            np.testing.assert_array_equal(back[name], array)


def shrunk(name):
    """By how much the features that a BatchNorm sees are smaller than the image."""
    if name.startswith("decoders."):  # DeepLabv3's; "mean" of its pyramid sees one pixel
        return 64 if ".convs.4." in name else 8
    first, *rest = name.split(".")
    if "layer" in first or first.startswith("encoder_block_att_") or first[:-1] == "encoder_att_":
        # The first convolution of a block with a stride comes before it.
        return 4 if "1" in first or (first == "shared_layer2_b" and rest[:2] == ["0", "bn1"]) else 8
    if first == "shared_conv":
        return 2
    level = {"encoder_block_t": 1, "decoder_block_t": 1, "encoder_att": 1, "decoder_att": 1}.get(first, 0)
    return 2 ** int(rest[level])


OPTIONS = {"split_wide": {"widths": (2, 3, 4, 5, 6)}, "split_deep": {"depth": 2}}
SEGNETS = ("mtan", "single", "stan", "split", "split_wide", "split_deep", "dense", "cross_stitch")
FAST = ("mtan",)


@functools.cache
def segnet_network(arch):
    task_list = TASKS[:1] if arch in ("single", "stan") else TASKS
    backbone = segnet(1.0, FLOAT64, **({"widths": NARROW} | OPTIONS.get(arch, {})))
    return Network(ARCHITECTURES[arch](backbone, task_list), arch, "segnet", task_list, "segnet_networks")


PARAMETERS = [pytest.param(arch, marks=() if arch in FAST else pytest.mark.long) for arch in SEGNETS]


@pytest.mark.parametrize("arch", PARAMETERS)
def test_segnets(arch):
    network = segnet_network(arch)
    network.check("random")
    network.check("trained")
    network.check_adam()


@pytest.mark.parametrize("arch", SEGNETS)
def test_round_trip_of_segnets_is_exact(arch):
    segnet_network(arch).check_round_trip()


@pytest.mark.slow
def test_resnet():
    backbone = resnet("resnet50", 1 / 32, FLOAT64)
    head = functools.partial(DeepLabHead, features=8, dropout=0.0, numerics=FLOAT64)
    model = ARCHITECTURES["mtan"](dataclasses.replace(backbone, head=head), TASKS)
    network = Network(model, "mtan", "resnet50", TASKS, "resnet_mtan")
    network.check_round_trip()
    network.check("random")
    network.check("trained")
    network.check_adam()


def test_layers():
    stored = read("layers")
    image, indices = channels_last(stored["pool/input"]), channels_last(stored["pool/indices"])
    width = image.shape[2]
    positions = (indices // width % 2) * 2 + indices % width % 2
    (values, found), pullback = jax.vjp(ops.max_pool, jnp.asarray(image))
    np.testing.assert_array_equal(values, channels_last(stored["pool/output"]))
    np.testing.assert_array_equal(found, positions)
    cotangent = (jnp.asarray(channels_last(stored["pool/cotangent"])), np.zeros(found.shape, jax.dtypes.float0))
    np.testing.assert_array_equal(pullback(cotangent)[0], channels_last(stored["pool/gradient"]))
    unpool = lambda x: ops.max_unpool(x, jnp.asarray(positions, jnp.int8))  # noqa: E731
    check_layer(unpool, stored, "unpool", 0)
    for name in ("1x1", "2x3", "4x4", "5x8", "9x12"):
        check_layer(ops.upsample, stored, f"resize/{name}", 1e-14)


def check_layer(layer, stored, name, tolerance):
    @jax.jit
    def run(x, cotangent):
        values, pullback = jax.vjp(layer, x)
        return values, pullback(cotangent)[0]

    values, gradient = run(*(channels_last(stored[f"{name}/{kind}"]) for kind in ("input", "cotangent")))
    np.testing.assert_allclose(values, channels_last(stored[f"{name}/output"]), atol=tolerance)
    np.testing.assert_allclose(gradient, channels_last(stored[f"{name}/gradient"]), atol=tolerance * 10)
