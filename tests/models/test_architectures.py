"""Every architecture on every backbone: the authors' parameter counts, and a few steps of training."""

import functools
import re
import runpy

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import tiny_problem

from mtan_jax import models, steps, tasks
from mtan_jax.commands.summary import count, count_parts
from mtan_jax.config import default_config
from mtan_jax.models import IMAGE_BACKBONES, build_model, layers, numerics, ops, pairs
from mtan_jax.runtime import parallel
from mtan_jax.weighting import build_weighting

NYUV2 = (tasks.semantic(13), tasks.depth(), tasks.normal())
SINGLE = {"semantic": 24_981_069, "depth": 24_980_289, "normal": 24_980_419}
STAN = {"semantic": 38_185_805, "depth": 38_185_025, "normal": 38_185_155}
# Counted on the authors' classes (SegNet, 13 classes), less the three log-variances that some of them hold.
SEGNET_TOTALS = {
    "mtan": 44_229_076 - 3,
    "single": sum(SINGLE.values()),
    "stan": sum(STAN.values()),
    "split": 25_055_188 - 3,
    "split_wide": 43_934_164 - 3,
    "split_deep": 50_807_764 - 3,
    "dense": 123_743_995 - 3,
    "cross_stitch": 74_941_807 - 3,
}
RESNET_MTAN, RESNET_HEADS = 92_347_921, 48_380_689  # MTANDeepLabv3 and its decoders: 13 classes, depth, normals
# Of torchvision's resnet50, resnet101 (less the last layer) and of vgg16_bn's convolutions and BatchNorms; of SegNet,
# the authors' single network for depth less its head.
BACKBONE_TOTALS = {
    "segnet": SINGLE["depth"] - (64 * 64 * 9 + 64 + 65),
    "resnet50": 25_557_032 - 2_049_000,
    "resnet101": 44_549_160 - 2_049_000,
    "vgg16": 14_723_136,
}
# "plain" is of the tests; networks for images with one task each are trained in test_many.py.
ALL_PAIRS = [pair for pair in pairs() if pair[0] != "plain" and pair[1] not in IMAGE_BACKBONES]


def make(arch, backbone="segnet", task_list=NYUV2, width=1.0, axis_name=None):
    config = default_config().model
    config.arch, config.backbone, config.width = arch, backbone, width
    return build_model(config, task_list, axis_name)


def params_of(model):
    init = functools.partial(model.init, train=False)
    return jax.eval_shape(init, jax.random.key(0), jnp.zeros((1, 64, 64, 3)))["params"]


@pytest.mark.parametrize("arch", SEGNET_TOTALS)
def test_parameter_totals_are_the_authors(arch):
    assert count(params_of(make(arch))) == SEGNET_TOTALS[arch]


@pytest.mark.parametrize("backbone", BACKBONE_TOTALS)
def test_parameter_totals_of_backbones(backbone):
    assert count(params_of(make("split", backbone))["backbone"]) == BACKBONE_TOTALS[backbone]


def test_no_network_is_missing_from_the_tables():
    registered = runpy.run_path(models.registry.__file__)  # as it is without what tests and users add
    assert SEGNET_TOTALS.keys() == registered["ARCHITECTURES"].keys()
    assert BACKBONE_TOTALS.keys() == registered["BACKBONES"].keys()


@pytest.mark.parametrize(("arch", "totals"), [("single", SINGLE), ("stan", STAN)])
def test_parameters_of_one_task(arch, totals):
    for task in NYUV2:
        assert count(params_of(make(arch, task_list=(task,)))) == totals[task.name]


def test_two_tasks_of_cityscapes():
    assert count(params_of(make("mtan", task_list=(tasks.semantic(7), tasks.depth())))) == 41_206_984


@pytest.mark.parametrize("backbone", ["resnet50", pytest.param("resnet101", marks=pytest.mark.long)])
def test_networks_on_resnet(backbone):
    """MTAN is the authors'; the others are made of parts that are theirs or torchvision's."""
    alone = BACKBONE_TOTALS[backbone]
    totals = {
        "mtan": RESNET_MTAN - BACKBONE_TOTALS["resnet50"] + alone,
        "split": alone + RESNET_HEADS,
        "single": 3 * alone + RESNET_HEADS,
        "cross_stitch": 3 * alone + RESNET_HEADS + 3 * 3,
    }
    assert {arch: count(params_of(make(arch, backbone))) for arch in totals} == totals


def test_parts():
    names = tuple(task.name for task in NYUV2)
    heads = sum(64 * 64 * 9 + 64 + 65 * channels for channels in (13, 1, 3))
    shared = SINGLE["depth"] - (64 * 64 * 9 + 64 + 65)
    assert count_parts(params_of(make("split")), names) == {"shared": shared, "heads": heads}
    single = count_parts(params_of(make("single")), names)
    assert single == {"per-task backbones": 3 * shared, "heads": heads}
    stitched = count_parts(params_of(make("cross_stitch")), names)
    assert stitched == {"per-task backbones": 3 * shared, "heads": heads, "shared": 27}
    mtan = count_parts(params_of(make("mtan")), names)
    assert mtan.keys() == {"shared", "attention", "heads"}
    assert (mtan["heads"], sum(mtan.values())) == (heads, SEGNET_TOTALS["mtan"])
    # Of one task, MTAN's parts that all tasks share and STAN's that nobody shares are as large.
    stan = count_parts(params_of(make("stan")), names)
    assert stan == {"per-task backbones": 3 * mtan["shared"], "attention": mtan["attention"], "heads": heads}


# Compiling all of them takes minutes.
FAST = [("split", "segnet")]
SLOW = [("cross_stitch", "segnet"), ("mtan", "resnet50")]
PAIRS = [
    pytest.param(*pair, marks=() if pair in FAST else pytest.mark.slow if pair in SLOW else pytest.mark.long)
    for pair in ALL_PAIRS
]


def fill(rng, path, leaf):
    """An initial value; to compile the real ones takes longer than all the rest."""
    name = path[-1].key if isinstance(path[-1], jax.tree_util.DictKey) else ""
    if path[0] == jax.tree_util.GetAttrKey("opt_state") or "mean" in name:
        value = np.zeros(leaf.shape)
    elif "scale" in name or "var" in name:
        value = np.ones(leaf.shape)
    else:
        value = 0.2 * rng.normal(size=leaf.shape) if name else np.zeros(leaf.shape)
    return jnp.asarray(value, leaf.dtype)


@pytest.mark.parametrize(("arch", "backbone"), PAIRS)
def test_every_pair_trains(arch, backbone):
    task_list = tiny_problem.TASKS[:2]
    model = make(arch, backbone, task_list, width=0.03)
    tx = build_weighting("equal", tiny_problem.NAMES[:2], optax.adam(1e-2))
    shapes = jax.eval_shape(lambda key: steps.create_state(model, tx, key, (32, 32), 2), jax.random.key(0))
    state = jax.tree_util.tree_map_with_path(functools.partial(fill, np.random.default_rng(0)), shapes)
    step = jax.jit(steps.make_train_step(model, task_list, tx, key=jax.random.key(1)))
    before, batch = state.params, tiny_problem.make_batch(rows=4, size=32)
    for _ in range(3):
        state = step(state, batch)
    assert (int(state.window.steps), int(state.window.bad_step)) == (3, 0)  # every loss and update was finite
    unread = {"decoder_0"} if arch == "dense" else set()
    for path, moved in jax.tree.leaves_with_path(jax.tree.map(lambda a, b: np.abs(a - b).max(), state.params, before)):
        keys = [key.key for key in path]
        # What BatchNorm takes away again has no gradient: not even that of rounding, of which Adam would make steps.
        rests = keys[-3:] == ["conv", "conv", "bias"] or keys[-1] in ("hidden_conv_bias", "output_conv_bias")
        rests |= bool(unread & set(keys)) and "backbone" in keys
        assert (moved == 0) == rests, jax.tree_util.keystr(path)


def test_a_pair_that_does_not_exist():
    with pytest.raises(
        ValueError, match=re.escape("'split_wide' does not exist on config.model.backbone = 'vgg16'")
    ) as error:
        make("split_wide", "vgg16")
    assert "mtan on resnet50" in str(error.value)
    assert "split_wide on segnet" in str(error.value)
    assert "dense on vgg16" not in str(error.value)


def test_tasks_that_share_nothing_do_not_change_one_another():
    both = make("single", task_list=NYUV2[:2], width=0.03)
    alone = make("single", task_list=NYUV2[:1], width=0.03)
    image = jax.random.uniform(jax.random.key(1), (1, 32, 32, 3))
    shapes = jax.eval_shape(functools.partial(both.init, train=False), jax.random.key(0), image)
    variables = jax.tree_util.tree_map_with_path(functools.partial(fill, np.random.default_rng(0)), shapes)
    semantic = {name: {"semantic": tree["semantic"]} for name, tree in variables.items()}
    np.testing.assert_array_equal(
        both.apply(variables, image, train=False)["semantic"], alone.apply(semantic, image, train=False)["semantic"]
    )


def test_dropout_is_the_same_on_one_and_four_devices():
    x = jnp.ones((8, 3, 2, 50))
    rngs = {"dropout": jax.random.key(3)}
    whole = layers.Dropout(0.3).apply({}, x, train=True, rngs=rngs)
    apart = layers.Dropout(0.3, numerics.Numerics(parallel.AXIS))
    parts = jax.pmap(lambda x: apart.apply({}, x, train=True, rngs=rngs), axis_name=parallel.AXIS)(
        x.reshape(4, 2, 3, 2, 50)
    )
    np.testing.assert_array_equal(parts.reshape(x.shape), whole)
    kept = np.asarray(whole) > 0
    assert abs(kept.mean() - 0.7) < 0.03  # four standard deviations of 2400 draws
    np.testing.assert_allclose(np.asarray(whole)[kept], 1 / 0.7, rtol=1e-6)
    assert not (kept[0] == kept[1]).all()
    np.testing.assert_array_equal(layers.Dropout(0.3).apply({}, x, train=False), x)


@pytest.mark.parametrize("size", [(5, 9), (3, 4), (1, 7), (8, 2)])
def test_resize_interpolates_between_corners(size):
    x = np.random.default_rng(0).normal(size=(2, 3, 4, 2))
    expected = x
    for axis, length in zip((1, 2), size, strict=True):
        n = x.shape[axis]
        places = np.linspace(0, n - 1, length)
        expected = np.apply_along_axis(lambda v, p=places, n=n: np.interp(p, np.arange(n), v), axis, expected)
    np.testing.assert_allclose(ops.resize(jnp.asarray(x, jnp.float32), size), expected, atol=1e-6)
