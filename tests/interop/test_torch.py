"""PyTorch's weights as variables: files that do not fit, torchvision's backbones, and the program's own flags."""

import functools
import json
import pathlib
import re
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util
from helpers import toy_config, toy_sets_config
from reference.seeded import seeded_image, seeded_state

from mtan_jax import tasks
from mtan_jax.commands import export
from mtan_jax.config import default_config
from mtan_jax.experiment import Experiment, initial_weights
from mtan_jax.interop import files, torch
from mtan_jax.interop.files import WeightsError
from mtan_jax.interop.names import layouts
from mtan_jax.models import BACKBONES, Numerics, build_model, pairs
from mtan_jax.models.stage import Trunk

ROOT = pathlib.Path(__file__).parents[2]

TASKS = (tasks.semantic(3), tasks.depth(), tasks.normal())


def template_of(arch, backbone, task_list=TASKS, width=0.05):
    config = default_config().model
    config.arch, config.backbone, config.width = arch, backbone, width
    model = build_model(config, task_list)
    init = functools.partial(model.init, train=False)
    shapes = jax.eval_shape(init, jax.random.key(0), jnp.zeros((1, 64, 64, 3)))
    return {name: shapes[name] for name in ("params", "batch_stats")}


def random_variables(template):
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(leaf.dtype), template)


def names_of(task_list):
    return tuple(task.name for task in task_list)


def authors_file(arch="mtan", backbone="segnet", task_list=TASKS):
    """A template, its one layout of the authors, and a file that fits."""
    template = template_of(arch, backbone, task_list)
    layout = layouts(arch, backbone, names_of(task_list))[0]
    return template, layout, torch.to_state_dict(random_variables(template), layout)


AUTHORS = [(arch, "segnet") for arch, backbone in pairs() if backbone == "segnet" and arch != "plain"]
AUTHORS += [("mtan", "resnet50"), ("mtan", "resnet101")]


@pytest.mark.parametrize(("arch", "backbone"), AUTHORS)
def test_export_then_import_is_exact(arch, backbone):
    task_list = TASKS[:1] if arch in ("single", "stan") else TASKS
    template = template_of(arch, backbone, task_list)
    variables, layout = random_variables(template), layouts(arch, backbone, names_of(task_list))[0]
    back = traverse_util.unflatten_dict(torch.to_variables(torch.to_state_dict(variables, layout), template, (layout,)))
    assert jax.tree.structure(back) == jax.tree.structure(variables)
    jax.tree.map(np.testing.assert_array_equal, back, variables)


def test_a_network_of_image_sets(tmp_path):
    """MTAN on Wide ResNet: the authors keep one row of running statistics for all tasks."""
    config = toy_sets_config.get_config()
    config.data.data_dir = str(tmp_path)
    experiment = Experiment.from_config(config)
    template = {name: experiment.abstract_variables[name] for name in ("params", "batch_stats")}
    (layout,) = initial_weights.weight_layouts(experiment.config.model, experiment.task_names)
    variables = random_variables(template)
    for path, array in traverse_util.flatten_dict(variables).items():
        if path[-1].startswith("own_"):
            array[:] = array[0]
    arrays = torch.to_state_dict(variables, layout)
    assert arrays["bn1.running_mean"].shape == (16,)
    assert arrays["linear.2.0.weight"].shape == (4, 16)
    experiment.config.model.init_from = str(tmp_path / "theirs.npz")
    files.write(tmp_path / "theirs.npz", arrays)
    jax.tree.map(np.testing.assert_array_equal, traverse_util.unflatten_dict(experiment.load_weights()), variables)
    export.check_export(experiment, "ours.npz")

    variables["batch_stats"]["backbone"]["group_2"]["norm"]["own_var"][1] += 1
    message = r"on wrn10_4 has one bn1\.running_var for all tasks, but this network has one per task .* and they differ"
    with pytest.raises(WeightsError, match=message):
        torch.to_state_dict(variables, layout)

    del arrays["encoder_att.1.3.4.running_mean"]
    arrays["shortcut.0.weight"] = np.zeros((1, 1, 1, 1))
    with pytest.raises(WeightsError) as error:
        torch.to_variables(arrays, template, (layout,))
    assert str(error.value).splitlines()[1:3] == [
        "  1 missing: encoder_att.1.3.4.running_mean",
        "  1 unknown: shortcut.0.weight",
    ]


def test_what_does_not_fit_is_listed():
    template, _, arrays = authors_file()
    del arrays["encoder_block.0.0.weight"], arrays["pred_task1.0.bias"]
    arrays["pred_task2.1.weight"] = np.zeros((5, 3, 1, 1), np.float32)
    arrays["decoder_att.3.0.0.weight"] = arrays["surprise"] = np.zeros(2, np.float32)
    with pytest.raises(WeightsError) as error:
        torch.to_variables(arrays, template, layouts("mtan", "segnet", names_of(TASKS)))
    assert str(error.value).splitlines() == [
        "the file does not match this network as the authors' mtan on segnet:",
        "  2 missing: encoder_block.0.0.weight, pred_task1.0.bias",
        "  1 of another shape: pred_task2.1.weight is [5, 3, 1, 1], not [1, 3, 1, 1]",
        "  2 unknown: decoder_att.3.0.0.weight, surprise",
        "  use the tasks, their order, the classes and the width of the file",
    ]


def test_long_lists_are_cut():
    template, layout, arrays = authors_file()
    with pytest.raises(WeightsError, match=r"25 unknown: x0, x1, x10, .* and 5 more"):
        torch.to_variables({**arrays, **{f"x{i}": np.zeros(1) for i in range(25)}}, template, (layout,))


@pytest.mark.parametrize("wrong", [np.array(["a", "b", "c"]), np.zeros(3, np.int8), np.array([1.0, np.nan, 2.0])])
def test_weights_are_finite_numbers(wrong):
    template, layout, arrays = authors_file()
    arrays["encoder_block.0.0.bias"] = wrong
    with pytest.raises(WeightsError, match=r"1 not numeric or not finite: encoder_block\.0\.0\.bias"):
        torch.to_variables(arrays, template, (layout,))


def test_entries_that_every_such_file_has_besides():
    template, layout, arrays = authors_file()
    expected = torch.to_variables(arrays, template, (layout,))
    more = {"logsigma": np.zeros(3), "encoder_block.0.1.num_batches_tracked": np.array(5)}
    parallel = {f"module.{name}": array for name, array in {**arrays, **more}.items()}  # of PyTorch's DataParallel
    found = torch.to_variables(parallel, template, layouts("mtan", "segnet", names_of(TASKS)))
    assert found.keys() == expected.keys()
    for path, array in expected.items():
        np.testing.assert_array_equal(found[path], array)


def test_a_file_of_something_else(tmp_path):
    template, _, _ = authors_file()
    path = tmp_path / "other.npz"
    np.savez(path, a=np.zeros(1), b=np.zeros(2))
    message = re.escape(
        f"{path}: expected entries of the authors' mtan on segnet or torchvision's vgg16_bn; found a, b"
    )
    with pytest.raises(WeightsError, match=message):
        torch.load(path, template, layouts("mtan", "segnet", names_of(TASKS)))
    with pytest.raises(WeightsError, match="no PyTorch layout is known"):
        torch.to_variables({"a": np.zeros(1)}, template, ())


def test_the_authors_single_networks_hold_one_task():
    template = template_of("single", "segnet")
    _, _, arrays = authors_file("single", task_list=TASKS[:1])
    with pytest.raises(WeightsError, match=r"one file per task: set config\.tasks to one task"):
        torch.to_variables(arrays, template, layouts("single", "segnet", names_of(TASKS)))


def torchvision_file(name):
    """A state_dict of torchvision's with seeded weights, and their network's last features."""
    with np.load(ROOT / "tests" / "reference" / "torchvision.npz", allow_pickle=False) as stored:
        return seeded_state(stored, f"{name}/"), stored[f"{name}/features"]


NAMES = {"vgg16": "vgg16_bn", "resnet50": "resnet50", "resnet101": "resnet101"}


@pytest.mark.parametrize("backbone", [pytest.param(b, marks=() if b == "vgg16" else pytest.mark.long) for b in NAMES])
def test_torchvision(backbone):
    """The entries of torchvision's files, all of them; and the features that their network computes from them."""
    arrays, features = torchvision_file(NAMES[backbone])
    with jax.enable_x64(True):
        made = BACKBONES[backbone](1.0, Numerics(None, jnp.float64, jnp.float64))
        trunk = Trunk(made)
        image = jnp.asarray(np.moveaxis(seeded_image(1, 64, 96), 1, -1), jnp.float64)
        shapes = jax.eval_shape(functools.partial(trunk.init, train=False), jax.random.key(0), image)
        arrays |= {"fc.weight": np.zeros(1), "classifier.0.bias": np.zeros(1), "x.num_batches_tracked": np.zeros(1)}
        template = {name: {"backbone": tree} for name, tree in shapes.items()}
        loaded = torch.to_variables(arrays, template, layouts("split", backbone, ("semantic",)))
        variables = {name: tree["backbone"] for name, tree in traverse_util.unflatten_dict(loaded).items()}
        assert jax.tree.structure(variables) == jax.tree.structure(shapes)
        run = jax.jit(lambda variables: tuple(trunk.apply(variables, image, train=False).values())[-1].gate)
        found = np.moveaxis(np.asarray(run(variables)), -1, 1)[:, ::16]
    assert np.abs(found - features).max() < 1e-9 * np.abs(features).max()


def test_torchvision_fills_every_backbone_of_the_network():
    task_list = TASKS[:2]
    for arch, copies in (("cross_stitch", 2), ("single", 2), ("stan", 2), ("mtan", 1), ("split", 1)):
        template = template_of(arch, "vgg16", task_list)
        layout = layouts(arch, "vgg16", names_of(task_list))[0]
        one = template_of("split", "vgg16", task_list)
        arrays = torch.to_state_dict(random_variables(one), layouts("split", "vgg16", names_of(task_list))[0])
        found = torch.to_variables(arrays, template, (layout,))
        assert len(found) == copies * len(arrays)
        if copies > 1:
            with pytest.raises(WeightsError, match=r"has one features\.0\.\w+, but this network has several"):
                torch.to_state_dict(random_variables(template), layout)


@pytest.mark.slow
def test_start_from_a_file_and_export_again(tmp_path, run_main, capsys, caplog):
    """By the program's flags: what is exported, imported by a run of another seed, is exported again to the bit."""
    data = f"--config.data.data_dir={tmp_path / 'data'}"
    common = (f"--config={ROOT}/configs/streets.py:smoke,width=0.03", data, "--checkpoint=initial")
    first, second = tmp_path / "first.npz", tmp_path / "second.safetensors"
    run_main(*common, f"--workdir={tmp_path / 'a'}", "--mode=export", f"--output={first}")
    arguments = (*common, f"--workdir={tmp_path / 'b'}", f"--config.model.init_from={first}", "--config.seed=7")
    with caplog.at_level("INFO"):
        run_main(*arguments, "--mode=export", f"--output={second}")
    arrays, again = files.read(first), files.read(second)
    assert arrays.keys() == again.keys()
    assert all((arrays[name] == again[name]).all() for name in arrays)
    assert f"{len(arrays)} of the network's {len(arrays)} arrays are from {first}" in caplog.text
    run_main(*common, f"--workdir={tmp_path / 'c'}", "--config.seed=7", "--mode=export", f"--output={second}")
    assert (files.read(second)["encoder_block.0.0.weight"] != arrays["encoder_block.0.0.weight"]).any()
    capsys.readouterr()
    run_main(*arguments, "--mode=eval")
    assert np.isfinite(list(json.loads(capsys.readouterr().out).values())).all()


def test_what_is_wrong_with_a_file_shows_before_the_data_are_prepared(tmp_path, run_main):
    data = tmp_path / "data"
    common = (f"--config={ROOT}/configs/streets.py:smoke,arch=split", f"--config.data.data_dir={data}")
    with pytest.raises(SystemExit, match=r"error: .*missing\.npz does not exist"):
        run_main(*common, f"--workdir={tmp_path}", f"--config.model.init_from={tmp_path / 'missing.npz'}")
    with pytest.raises(SystemExit, match=r"error: .*missing\.npz does not exist"):
        run_main(
            *(*common, f"--workdir={tmp_path}", f"--config.model.init_from={tmp_path / 'missing.npz'}"),
            *("--mode=eval", "--checkpoint=initial"),
        )
    with pytest.raises(SystemExit, match="error: --output is needed"):
        run_main(*common, f"--workdir={tmp_path}", "--mode=export")
    with pytest.raises(SystemExit, match=r"error: .*weights\.txt: expected a file name that ends in"):
        run_main(*common, f"--workdir={tmp_path}", "--mode=export", "--output=weights.txt")
    assert not data.exists()


@pytest.mark.long
def test_a_run_that_started_from_a_file_resumes_without_it(tmp_path, run_main):
    data = f"--config.data.data_dir={tmp_path / 'data'}"
    common = (f"--config={ROOT}/configs/streets.py:smoke,arch=split,width=0.03", data, "--config.seed=3")
    weights = tmp_path / "weights.npz"
    initial = ("--mode=export", "--checkpoint=initial", "--config.seed=0", f"--output={weights}")
    run_main(*common[:2], f"--workdir={tmp_path / 'none'}", *initial)
    workdir, start = f"--workdir={tmp_path / 'run'}", f"--config.model.init_from={weights}"
    run_main(*common, workdir, start)
    run_main(*common, workdir, "--mode=export", f"--output={tmp_path / 'straight.npz'}")
    last = tmp_path / "run" / "checkpoints" / "4"
    shutil.rmtree(last)
    weights.unlink()
    run_main(*common, workdir, start)
    assert last.is_dir()
    run_main(*common, workdir, "--mode=export", f"--output={tmp_path / 'resumed.npz'}")
    straight, resumed = files.read(tmp_path / "straight.npz"), files.read(tmp_path / "resumed.npz")
    assert all((straight[name] == resumed[name]).all() for name in straight)


def test_a_network_that_pytorch_does_not_have(tmp_path, run_main):
    toy = (f"--config={toy_config.__file__}", f"--config.data.data_dir={tmp_path}", f"--workdir={tmp_path}")
    with pytest.raises(
        SystemExit, match="error: plain on segnet cannot be exported: none of its variables belong to torchvision"
    ):
        run_main(*toy, "--mode=export", "--output=weights.npz", "--checkpoint=initial")
