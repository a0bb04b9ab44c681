"""MTAN for images of one task each against the authors' class: outputs stored by tests/reference/make_decathlon.py.

Theirs predicts probabilities and takes -log(p + 1e-20), ours log-probabilities: for p above 1e-5 the same to 1e-15.
"""

import functools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util
from reference.seeded import seeded_directions, seeded_image, seeded_labels, seeded_state

from mtan_jax.commands.summary import count, count_parts
from mtan_jax.interop import torch
from mtan_jax.interop.names import layouts
from mtan_jax.models import IMAGE_ARCHITECTURES, Numerics
from mtan_jax.models.backbones.wide_resnet import LAST_MOMENTUM, Layers, mean_over_positions, wide_resnet
from mtan_jax.models.layers.batch_norm import MOMENTUM
from mtan_jax.models.many_to_many import ManyToMany
from mtan_jax.tasks import classification

REFERENCE = pathlib.Path(__file__).parents[1] / "reference"
CLASSES = {
    "narrow": (5, 2, 7, 3, 4, 2, 6, 5, 3, 8),
    "full": (1000, 100, 100, 2, 47, 43, 1623, 10, 101, 102),
}
SHAPES = {"narrow": (16, 3 / 32), "full": (28, 1.0)}  # depth, and width: channels 2, 6, 12, 24; 16, 64, 128, 256
FLOAT64 = Numerics(None, jnp.float64, jnp.float64)
TRAINED = (3, 6)  # the tasks whose training is stored
ROWS = 4
SIZE = 72


@functools.cache
def read(network):
    with np.load(REFERENCE / "wrn_mtan.npz", allow_pickle=False) as arrays:
        return {name.removeprefix(f"{network}/"): arrays[name] for name in arrays if name.startswith(f"{network}/")}


class Network:
    """Ours, beside what is stored of the authors'."""

    def __init__(self, name, numerics=FLOAT64):
        self.stored = read(name)
        self.tasks = tuple(classification(f"set_{i}", classes) for i, classes in enumerate(CLASSES[name]))
        self.names = tuple(task.name for task in self.tasks)
        depth, width = SHAPES[name]
        layers = Layers(self.names, numerics, **IMAGE_ARCHITECTURES["mtan"])
        self.backbone = wide_resnet(depth, width, layers)
        (self.layout,) = layouts("mtan", f"wrn{depth}_4", self.names)
        image = jax.ShapeDtypeStruct((1, SIZE, SIZE, 3), numerics.dtype)
        shapes = jax.eval_shape(functools.partial(self.model().init, train=False), jax.random.key(0), image)
        self.template = {name: shapes[name] for name in ("params", "batch_stats")}

    def model(self, groups=1):
        return ManyToMany(self.backbone, self.tasks, attention=True, groups=groups)

    def state(self):
        """Their state_dict."""
        state = seeded_state(self.stored)
        return {name: state[name].reshape(shape) for name, shape in self.entries().items()}

    def entries(self):
        shapes = [tuple(int(size) for size in shape if size) for shape in self.stored["shapes"]]
        return dict(zip(map(str, self.stored["names"]), shapes, strict=True))

    def part(self, stored, *, running):
        """The entries that a flat array holds: statistics, or what is trained."""
        kept = {name: shape for name, shape in self.entries().items() if ("running" in name) == running}
        ends = np.cumsum([np.prod(shape, dtype=int) for shape in kept.values()])
        parts = np.split(self.stored[stored], ends[:-1])
        return {name: part.reshape(shape) for (name, shape), part in zip(kept.items(), parts, strict=True)}

    @functools.cached_property
    def variables(self):
        loaded = torch.to_variables(self.state(), self.template, (self.layout,))
        variables = traverse_util.unflatten_dict(loaded)
        assert jax.tree.structure(variables) == jax.tree.structure(self.template)
        return variables

    def predict(self, variables, image, tasks):
        return self.model().apply(variables, image, train=False, tasks=tasks)

    def train(self, params, batch_stats, image, tasks, labels, *, groups):
        """Mean losses of the groups [g], and (predictions, new batch_stats)."""
        variables = {"params": params, "batch_stats": batch_stats}
        model = self.model(groups)
        predictions, updates = model.apply(variables, image, train=True, tasks=tasks, mutable=["batch_stats"])
        rows = len(image) // groups
        losses = [task.loss(predictions[task.name], labels, tasks == i)[0] / rows for i, task in enumerate(self.tasks)]
        return jnp.stack(losses)[tasks[:groups]], (predictions, updates["batch_stats"])


@functools.cache
def narrow():
    return Network("narrow")


@pytest.fixture(scope="module", autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def images(rows, dtype=jnp.float64):
    return jnp.asarray(np.moveaxis(seeded_image(rows, SIZE, SIZE), 1, -1), dtype)


def batch_of(k):
    """Images, tasks and labels that task k is trained on."""
    first = ROWS * TRAINED.index(k)
    labels = seeded_labels(ROWS, CLASSES["narrow"][k])
    return images(2 * ROWS)[first : first + ROWS], jnp.full(ROWS, k, jnp.int32), jnp.asarray(labels)


def relative(found, expected):
    return np.abs(np.asarray(found) - expected).max() / np.abs(expected).max()


def test_predictions_of_all_tasks():
    network = narrow()
    predict = jax.jit(network.predict)
    for k, name in enumerate(network.names):
        found = predict(network.variables, images(2 * ROWS)[:ROWS], jnp.full(ROWS, k, jnp.int32))[name]
        assert relative(np.exp(found), network.stored[f"eval/{k}"]) < 1e-9


@functools.cache
def steps():
    """The first step of each task in `TRAINED`, in a batch of both: rows take turns, and one task's loss counts."""
    network = narrow()
    batches = [[np.asarray(part) for part in batch_of(k)] for k in TRAINED]
    image, tasks, labels = (np.stack(parts, 1).reshape(-1, *parts[0].shape[1:]) for parts in zip(*batches, strict=True))

    @functools.partial(jax.grad, has_aux=True)
    def gradient(params, batch_stats, weights):
        losses, others = network.train(params, batch_stats, image, tasks, labels, groups=2)
        return (weights * losses).sum(), (losses, *others)

    run = jax.jit(gradient)
    params, batch_stats = (network.variables[name] for name in ("params", "batch_stats"))
    return {k: run(params, batch_stats, jnp.eye(2)[i]) for i, k in enumerate(TRAINED)}


@pytest.mark.parametrize("k", TRAINED)
def test_first_step(k):
    """Predictions, losses, the gradient of every parameter, statistics: those of a batch of the task alone."""
    network, place = narrow(), TRAINED.index(k)
    gradient, (losses, predictions, batch_stats) = steps()[k]
    check_training(losses[place], predictions[network.names[k]][place::2], k)
    check_statistics(batch_stats, k, present=TRAINED)
    found = torch.to_state_dict({"params": gradient, "batch_stats": {}}, network.layout)
    expected = network.part(f"gradient/{k}", running=False)
    assert found.keys() == expected.keys()
    for name, wanted in expected.items():
        # Stored as float32. A bias before a BatchNorm has no gradient but rounding: about 1e-16 on both sides.
        error, size = np.linalg.norm(found[name] - wanted), np.linalg.norm(wanted)
        assert error < max(1e-7 * size, 1e-12), name


@pytest.mark.long
def test_eager_equals_jit():
    """One operation after the other: the whole network in both modes, a batch of one task."""
    network, k = narrow(), TRAINED[0]
    image, tasks, labels = batch_of(k)
    params, batch_stats = (network.variables[name] for name in ("params", "batch_stats"))
    with jax.disable_jit():
        losses, (predictions, batch_stats) = network.train(params, batch_stats, image, tasks, labels, groups=1)
        of_eval = network.predict(network.variables, image, tasks)[network.names[k]]
    check_training(losses[0], predictions[network.names[k]], k)
    check_statistics(batch_stats, k, present=(k,))
    jitted = steps()[k][1][1]
    for name, found in predictions.items():
        assert relative(found, jitted[name][::2]) < 1e-12
    assert relative(np.exp(of_eval), network.stored[f"eval/{k}"]) < 1e-9


def check_training(loss, prediction, k):
    stored = narrow().stored
    assert relative(np.exp(prediction), stored[f"train/{k}"]) < 1e-9
    assert loss == pytest.approx(stored[f"loss/{k}"].mean(), rel=1e-9)
    _, _, labels = batch_of(k)
    np.testing.assert_allclose(-prediction[np.arange(ROWS), labels], stored[f"loss/{k}"], rtol=1e-9)


def check_statistics(batch_stats, k, present):
    """Task k's of what each task has, and its attention; what is of absent tasks is as it was, to the bit."""
    network = narrow()
    before, after = (traverse_util.flatten_dict(tree) for tree in (network.variables["batch_stats"], batch_stats))
    theirs = network.part(f"after/{k}", running=True)
    seen, absent = set(), [i for i in range(10) if i not in present]
    for path, found in after.items():
        (entry,) = network.layout.names(path)
        old, found, expected = np.asarray(before[path]), np.asarray(found), theirs[entry]
        if path[-1].startswith("own_"):
            np.testing.assert_array_equal(found[absent], old[absent])
            old, found = old[k], found[k]
        elif (task := path[0].removeprefix("attention_")) != network.names[k]:
            if network.names.index(task) in absent:
                np.testing.assert_array_equal(found, old)
                np.testing.assert_array_equal(expected, old)
            continue
        seen.add(entry)
        if entry.endswith("var"):
            # PyTorch's running variance takes in the unbiased variance of the batch.
            kept = (LAST_MOMENTUM if entry.startswith("bn1.") else MOMENTUM) * old
            pixels = ROWS * (SIZE // shrunk(entry)) ** 2
            found = kept + (found - kept) * pixels / (pixels - 1)
        assert relative(found, expected) < 1e-9, entry
    of_others = sum(name.startswith("encoder_att.") and f"att.{k}." not in name for name in theirs)
    assert len(seen) == len(theirs) - of_others


def shrunk(entry):
    """By how much the features that a BatchNorm sees are smaller than the image."""
    first, *rest = entry.split(".")
    if first == "bn1":
        return 8
    if first.startswith("layer"):
        group = int(first.removeprefix("layer"))
        return 2 ** (group - 1 if rest[0] == "0" else group)  # the second convolution of a group has the stride
    return 2 ** int(rest[1] if first == "encoder_att" else rest[0])


def test_their_file_there_and_back():
    network = narrow()
    theirs = network.state()
    back = torch.to_state_dict(network.variables, network.layout)
    assert back.keys() == theirs.keys()
    for name, array in theirs.items():
        np.testing.assert_array_equal(back[name], array)


def test_statistics_in_which_tasks_differ_have_no_place_in_their_file():
    network = narrow()
    _, (_, _, batch_stats) = steps()[TRAINED[0]]  # losses, predictions, statistics
    variables = {"params": network.variables["params"], "batch_stats": batch_stats}
    message = r"has one \S+running_\w+ for all tasks, but this network has one per task .* and they differ"
    with pytest.raises(torch.WeightsError, match=message):
        torch.to_state_dict(variables, network.layout)


def test_parameters_of_wrn_28_4_and_ten_tasks():
    """Counted on the authors' class."""
    network = Network("full")
    params = network.template["params"]
    assert count(params) == sum(
        np.prod(shape, dtype=int) for name, shape in network.entries().items() if "running" not in name
    )
    assert count(params) == 10_237_656
    assert count(params["backbone"]) == 5_850_528
    shared = [tree for name, tree in params.items() if name.startswith("shared_")]
    assert count(shared) == 969_792
    for name in network.names:
        assert count(params[f"attention_{name}"]) == 261_344
    parts = {"shared": 5_850_528 + 969_792, "attention": 2_613_440, "heads": 803_896}
    assert count_parts(params, network.names) == parts


@pytest.mark.long
@pytest.mark.parametrize("mode", ["eval", "train"])
def test_full_size_in_float32(mode):
    """WRN-28-4 and the ten sets' numbers of classes, two images of 72x72: log-probabilities from theirs in float64.

    Found: 1.4e-6 at most; PyTorch's own in float32: 1.0e-6.
    """
    with jax.enable_x64(False):
        network = Network("full", Numerics())
        image, train = images(2, jnp.float32), mode == "train"

        # Optimised, as outside the tests: otherwise long sums are rounded worse.
        @functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 3})
        def predict(variables, tasks):
            return network.model().apply(variables, image, train=train, tasks=tasks, mutable=["batch_stats"])[0]

        for k in TRAINED if train else range(10):
            found = np.asarray(predict(network.variables, jnp.full(2, k, jnp.int32))[network.names[k]])
            error = np.abs(found.astype(np.float64) - np.log(network.stored[f"{mode}/{k}"])).max()
            assert error < 5 * network.stored[f"error/{mode}/{k}"] < 1e-5


@pytest.mark.long
@pytest.mark.parametrize(("dtype", "allowed"), [("float64", 1e-7), ("float32", 2e-2)])
def test_first_step_at_full_size(dtype, allowed):
    """The gradient of every parameter, told by its products with eight random directions, and the loss.

    Errors are shares of the parameter's gradient, or of 1e-5 of the largest where its own is smaller: a bias before a
    BatchNorm has none but rounding. Two images in training mode have few values a channel: where float32 turns one
    rectifier of millions, all gradients before it are off by some 1e-3 (found: 8e-3 at most for one of the tasks, with
    a median of 4e-6, and 6e-3 with one of 3e-3; PyTorch's own: 9e-4 and 2e-3, with medians of 3e-6; biases before a
    BatchNorm apart, of which it has errors of 1e-2).
    """
    double = dtype == "float64"
    with jax.enable_x64(double):
        network = Network("full", FLOAT64 if double else Numerics())
        image, params, batch_stats = images(2, jnp.dtype(dtype)), *map(network.variables.get, ("params", "batch_stats"))

        @functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 3})
        @functools.partial(jax.value_and_grad, has_aux=True)
        def first_step(params, batch_stats, labels, tasks):
            losses, others = network.train(params, batch_stats, image, tasks, labels, groups=1)
            return losses[0], others

        for k in TRAINED:
            labels = jnp.asarray(seeded_labels(2, CLASSES["full"][k]))
            (loss, _), gradient = first_step(params, batch_stats, labels, jnp.full(2, k, jnp.int32))
            assert loss == pytest.approx(float(network.stored[f"loss/{k}"]), rel=min(allowed, 1e-5))
            found = torch.to_state_dict({"params": gradient, "batch_stats": {}}, network.layout)
            names = [name for name in network.entries() if "running" not in name]
            assert sorted(found) == sorted(names)
            sizes = np.maximum(network.stored[f"size/{k}"], 1e-5 * network.stored[f"size/{k}"].max())
            for name, size, wanted in zip(names, sizes, network.stored[f"products/{k}"], strict=True):
                array = np.asarray(found[name], np.float64).ravel()
                error = np.sqrt(np.mean((seeded_directions(name, array.size) @ array - wanted) ** 2))
                assert error < allowed * size, name


@pytest.mark.parametrize(
    ("height", "width", "seen"), [(9, 9, (8, 8)), (12, 12, (12, 12)), (9, 15, (8, 15)), (8, 4, (8, 4))]
)
def test_all_positions_count_but_for_the_authors_image_size(height, width, seen):
    """12x12 positions (96x96 pixels) lost more than half of themselves."""
    x = np.random.default_rng(0).normal(size=(2, 3, height, width, 5))
    expected = [[[x[g, b, : seen[0], : seen[1], c].mean() for c in range(5)] for b in range(3)] for g in range(2)]
    np.testing.assert_allclose(mean_over_positions(jnp.asarray(x, jnp.float32)), expected, atol=1e-6)
