"""Networks whose images belong to one task each, in whole runs: what is trained, what stays, what is taken over."""

import dataclasses
import functools
import itertools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util
from helpers import toy_sets_config, whole_run
from helpers.decathlon_release import write_official
from helpers.image_set_runs import (
    assert_same,
    assert_stopped_run_is_straight,
    flat,
    make_experiment,
    one_group,
    predict,
    take_steps,
)
from helpers.toy_sets import SIZE

from mtan_jax import steps
from mtan_jax.experiment import checks, warm_start
from mtan_jax.interop.files import WeightsError
from mtan_jax.models import IMAGE_ARCHITECTURES, IMAGE_BACKBONES, build_model
from mtan_jax.runtime import parallel
from mtan_jax.tasks import classification
from mtan_jax.training import evaluation
from mtan_jax.weighting import METHODS, TaskGradients

HUES_AGAIN = dataclasses.replace(classification("again", 3), target="hues")
# "parallel_svd" starts from parallel adapters; see tests/experiment/test_compression.py.
FROM_A_BACKBONE = tuple(arch for arch in IMAGE_ARCHITECTURES if arch != "parallel_svd")
FROZEN = ("feature_extraction", "series_adapters", "parallel_adapters", "deep_adaptation", "piggyback")


def long(*values, fast):
    """A case of a test that others stand for, unless its first value is among those."""
    return pytest.param(*values, marks=[] if values[0] in fast else pytest.mark.long)


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    return tmp_path_factory.mktemp("toy_sets")


@pytest.fixture(scope="module")
def make(data_dir):
    """Makes an experiment: `make("mtan", **{"mixing.tasks_per_step": 2})`."""

    def make(arch, **fields):
        return make_experiment(data_dir, arch, fields)

    return make


@pytest.fixture(scope="module")
def base(make, tmp_path_factory):
    """The working directory of a run on one set, and its last state."""
    folder = tmp_path_factory.mktemp("base")
    experiment = make("split", tasks=("hues",))
    whole_run.train_here(experiment, folder)
    return folder, whole_run.read_state(experiment, folder)


@pytest.mark.parametrize("arch", [long(arch, fast=("piggyback",)) for arch in FROM_A_BACKBONE])
def test_every_network_trains_and_frozen_arrays_are_those_of_the_base_bit_for_bit(arch, make, base):
    folder, base_state = base
    experiment = make(arch, **{"model.init_from": str(folder), "mixing.order": "in_turn"})
    start = jax.device_get(experiment.init_state())
    state, _ = take_steps(experiment, 3)
    assert int(state.window.bad_step) == 0
    assert (state.window.loss_count == 4).all()  # each set had its turn
    assert_same(flat(state.frozen), flat(start.frozen))
    trained = flat(base_state.params)
    statistics = {name.replace("own_", ""): array[0] for name, array in flat(base_state.batch_stats).items()}
    frozen = flat(state.frozen)
    assert any(name.endswith("kernel") for name in frozen) == (arch in FROZEN)
    assert_same(frozen, {name: (trained | statistics)[name] for name in frozen})
    changed = {name for name, array in flat(state.params).items() if (array != flat(start.params)[name]).any()}
    # A mask's biases in front of a BatchNorm are never added (docs/design.md): they have no gradient.
    untouched = {
        name
        for name in flat(state.params).keys() - changed
        if not (name.startswith("attention_") and name.endswith("conv/conv/bias"))
    }
    # The gradient of all that is trained is not 0 somewhere, but for adapters behind a ReLU that lets nothing through.
    assert len(untouched) <= 0.1 * len(changed), sorted(untouched)


@pytest.mark.parametrize("absent_tasks", ["rest", "step"])
@pytest.mark.parametrize(
    "arch", [long(arch, fast=("series_adapters",)) for arch in ("mtan", "series_adapters", "single")]
)
def test_what_belongs_to_absent_tasks_rests(arch, absent_tasks, make, base):
    fields = {"model.init_from": str(base[0]), "mixing.order": "in_turn", "optimizer.absent_tasks": absent_tasks}
    experiment = make(arch, **fields)
    first, _ = take_steps(experiment, 3)
    second, batches = take_steps(experiment, 4)
    assert set(batches[3]["task"]) == {0}  # only the first set has examples in the fourth step

    def of_task(state, i):
        found = {}
        for tree, label in ((state.params, "params"), (state.opt_state, "opt_state")):
            for path, leaf in jax.tree.leaves_with_path(tree):
                name = label + jax.tree_util.keystr(path)
                task = experiment.task_names[i]
                if "own_" in name:
                    found[name] = np.asarray(leaf)[i]
                elif f"'{task}'" in name or f"head_{task}'" in name or f"attention_{task}'" in name:
                    found[name] = np.asarray(leaf)
        return found

    for i, task in enumerate(experiment.task_names):
        before, after = of_task(first, i), of_task(second, i)
        assert any("opt_state" in name for name in before)
        same = [name for name in before if before[name].tobytes() == after[name].tobytes()]
        if i > 0 and absent_tasks == "rest":
            assert len(same) == len(before), task
        else:
            assert len(same) < 0.5 * len(before), task  # momentum and decay go on
    statistics = [flat(state.batch_stats) for state in (first, second)]
    for name, array in statistics[0].items():
        if "own_" in name:
            assert array[1:].tobytes() == statistics[1][name][1:].tobytes()
            assert array[0].tobytes() != statistics[1][name][0].tobytes()


@pytest.mark.parametrize(
    ("name", "options", "decay"), [("sgd", {"momentum": 0.9}, 0.1), ("adamw", {"weight_decay": 0.1}, 0.0)]
)
def test_decay_leaves_what_belongs_to_tasks_that_are_not_trained_on(name, options, decay, make):
    fields = {"optimizer.absent_tasks": "step", "optimizer.weight_decay": decay, "optimizer.name": name}
    experiment = make("mtan", **fields, **{"mixing.tasks": ("hues", "bars"), "optimizer.options": options})
    params = {"backbone": {"kernel": jnp.ones(2), "own_scale": jnp.ones((3, 2))}}
    params |= {f"head_{task}": {"kernel": jnp.ones(2)} for task in experiment.task_names}
    zeros = jax.tree.map(jnp.zeros_like, params)
    present = jnp.array([True, False, False])  # the turn of "hues"
    given = TaskGradients(experiment.task_names, jnp.ones(3), present, jnp.ones(3), lambda cotangent: zeros)
    updates, _ = experiment.tx.update(given, experiment.tx.init(params), params, present=present)
    moved = {name: update.any() for name, update in flat(updates).items()}
    heads = {"head_hues/kernel": True, "head_bars/kernel": True, "head_corners/kernel": False}
    assert moved == {"backbone/kernel": True, "backbone/own_scale": True, **heads}
    np.testing.assert_array_equal(updates["backbone"]["own_scale"].any(axis=1), list(heads.values()))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arch", "groups"), [long(*pair, fast=("mtan",)) for pair in (("mtan", 2), ("piggyback", 1), ("single", 2))]
)
def test_4_devices_are_1(arch, groups, make, base):
    # One step of plain descent: more of them magnify rounding through BatchNorms of few pixels.
    fields = {"model.init_from": str(base[0]), "mixing.tasks_per_step": groups, "batch_size": 16}
    experiment = make(arch, **fields, **{"optimizer.options": {}, "optimizer.learning_rate": 1.0})
    several, batches = take_steps(experiment, 1)
    model = build_model(experiment.config.model, experiment.tasks, None, groups)
    step = steps.make_train_step(
        *(model, experiment.tasks, experiment.tx), key=jax.random.key(experiment.config.seed), groups=groups
    )
    one = jax.device_get(jax.jit(step)(jax.device_get(experiment.init_state()), batches[0]))
    np.testing.assert_array_equal(several.window.loss_count, one.window.loss_count)
    np.testing.assert_allclose(several.window.loss_total, one.window.loss_total, rtol=1e-5)
    for field in ("params", "batch_stats", "frozen"):
        found, expected = flat(getattr(several, field)), flat(getattr(one, field))
        largest = max((np.abs(array).max() for array in expected.values()), default=0)
        for name, array in found.items():
            np.testing.assert_allclose(array, expected[name], atol=2e-5 * largest, err_msg=name)


@pytest.mark.parametrize("arch", [long(arch, fast=("series_adapters",)) for arch in (*FROZEN, "single")])
def test_a_task_added_later_leaves_the_others_predictions_as_they_are(arch, make, base, tmp_path):
    earlier = make(arch, tasks=("hues", "bars"), **{"model.init_from": str(base[0])})
    whole_run.train_here(earlier, tmp_path / "two")
    state = whole_run.read_state(earlier, tmp_path / "two")
    fields = {"model.init_from": str(tmp_path / "two"), "mixing.tasks": ("corners",)}
    later = make(arch, tasks=("bars", "corners", "hues"), **fields)  # in another order
    new_state, batches = take_steps(later, 5)
    assert {int(task) for batch in batches for task in batch["task"]} == {1}
    assert np.isfinite(new_state.window.loss_total).all()
    for task in ("hues", "bars"):
        before, after = predict(earlier, state, task), predict(later, new_state, task)
        assert before.tobytes() == after.tobytes()
    start = predict(later, jax.device_get(later.init_state()), "corners")
    assert np.abs(start - predict(later, new_state, "corners")).max() > 1e-3  # and the new one has learnt something


@pytest.mark.parametrize("arch", ["series_adapters", pytest.param("mtan", marks=pytest.mark.long)])
@pytest.mark.slow
def test_wide_heads_of_other_tasks_leave_predictions_as_they_are(arch):
    """Log-probabilities of one task, to the last bit, with the heads of more and more classes beside it."""
    config = toy_sets_config.get_config().model
    config.arch, config.width = arch, 1.0  # 256 features, as in the real network
    image = jax.random.normal(jax.random.key(1), (4, 16, 16, 3))
    found, first = [], {}
    for others in ((), (47,), (1000, 47)):
        tasks = (classification("first", 100), *(classification(f"other{n}", n) for n in others))
        model = build_model(config, tasks)
        variables = flat(jax.device_get(jax.jit(functools.partial(model.init, train=False))(jax.random.key(0), image)))
        first = first or variables
        for name, array in first.items():
            variables[name] = np.concatenate([array, variables[name][1:]]) if "own_" in name else array
        tree = traverse_util.unflatten_dict(variables, sep="/")
        found.append(jax.device_get(jax.jit(functools.partial(model.apply, train=False))(tree, image)["first"]))
    for other in found[1:]:
        assert other.tobytes() == found[0].tobytes()


@pytest.mark.parametrize("arch", ["mtan", "series_adapters"])
def test_convolutions_do_not_grow_with_the_tasks(arch):
    config = toy_sets_config.get_config().model
    config.arch = arch
    counts = []
    for count in (2, 5):
        tasks = tuple(classification(f"task{i}", 3 + i) for i in range(count))
        model = build_model(config, tasks)
        image = np.zeros((4, 16, 16, 3), np.float32)
        shapes = jax.eval_shape(functools.partial(model.init, train=False), jax.random.key(0), image)

        def loss(params, others, tasks, model=model, image=image):
            variables = {**others, "params": params}
            predictions, _ = model.apply(variables, image, train=True, tasks=tasks, mutable=["batch_stats"])
            return sum(prediction.sum() for prediction in predictions.values())

        others = {name: tree for name, tree in shapes.items() if name != "params"}
        text = jax.jit(jax.grad(loss)).lower(shapes["params"], others, np.zeros(4, np.int32)).as_text()
        counts.append(text.count("stablehlo.convolution"))
    assert counts[0] == counts[1] >= 19


def test_a_shared_network_does_change(make, base):
    later = make("split", **{"model.init_from": str(base[0]), "mixing.tasks": ("corners",)})
    start = jax.device_get(later.init_state())
    state, _ = take_steps(later, 3)
    assert np.abs(predict(later, start, "hues") - predict(later, state, "hues")).max() > 1e-3


@pytest.mark.slow
def test_a_network_taken_over_predicts_the_same(make, base):
    folder, state = base
    original = make("split", tasks=("hues",))
    for arch in ("split", "single", *FROZEN):
        adapted = make(arch, tasks=("bars", "hues"), **{"model.init_from": str(folder)})
        found = predict(adapted, jax.device_get(adapted.init_state()), "hues")
        np.testing.assert_allclose(found, predict(original, state, "hues"), atol=1e-5, err_msg=arch)


@pytest.mark.slow
@pytest.mark.parametrize("method", [long(method, fast=("pcgrad",)) for method in ("pcgrad", "mgda", "nash_mtl")])
def test_gradient_methods_pass_backwards_only_for_tasks_that_are_there(method, make):
    experiment = make("mtan", **{"mixing.tasks_per_step": 2, "weighting": method, "batch_size": 16})
    stream = experiment.train_batches(0)
    batch = evaluation.without_ids(next(stream))
    stream.close()
    state = jax.device_get(experiment.init_state())
    model = build_model(experiment.config.model, experiment.tasks, None, 2)
    made = functools.partial(steps.make_train_step, model, experiment.tasks, key=jax.random.key(0))
    methods = {}
    methods["chosen"] = jax.jit(made(experiment.tx, groups=2))(state, batch)
    # With `groups` unknown to the step, the method takes a pass for every task; the absent one's gradient is 0.
    methods["all"] = jax.jit(made(experiment.tx, groups=None))(state, batch)
    found, expected = flat(methods["chosen"].params), flat(methods["all"].params)
    for name, array in found.items():
        np.testing.assert_allclose(array, expected[name], atol=1e-6, err_msg=name)


def with_method(make, arch, method, groups):
    weights = {"hues": 1.0, "bars": 2.0, "corners": 0.5}
    options = {"weights": weights} if method in ("static", "schedule") else {}
    return make(arch, **{"weighting": ((method, options),), "mixing.tasks_per_step": groups, "batch_size": 8})


@pytest.mark.parametrize("arch", ["feature_extraction", "deep_adaptation"])
def test_steps_leave_frozen_arrays_bit_for_bit(arch, make, monkeypatch):
    monkeypatch.setitem(IMAGE_BACKBONES, "one_group", one_group)
    experiment = make(arch, **{"model.backbone": "one_group", "mixing.order": "in_turn"})
    key, count = jax.random.key(0), len(experiment.tasks)
    create = functools.partial(steps.create_state, experiment.model, experiment.tx, image_size=SIZE, num_tasks=count)
    start = jax.device_get(jax.jit(create)(key))  # random values do as well as trained ones
    state, _ = take_steps(experiment, 2, parallel.place_state(start))
    assert_same(flat(state.frozen), flat(start.frozen))
    changed = {name for name, array in flat(state.params).items() if (array != flat(start.params)[name]).any()}
    combination = "backbone/group_0/block_0/conv_0/own_combination"
    own = {"feature_extraction": "head_bars/kernel", "deep_adaptation": combination}
    assert {"head_hues/kernel", own[arch]} <= changed


@pytest.mark.parametrize("method", [long(method, fast=("pcgrad",)) for method in ("pcgrad", "dwa", "nash_mtl")])
def test_methods_take_a_step_of_several_sets(method, make, monkeypatch):
    monkeypatch.setitem(IMAGE_BACKBONES, "one_group", one_group)
    fields = {"model.backbone": "one_group", "mixing.tasks_per_step": 2, "batch_size": 8}
    experiment = make("split", weighting=method, **fields)
    start = jax.device_get(experiment.init_state())
    state, batches = take_steps(experiment, 1)
    assert int(state.window.bad_step) == 0
    there = np.isin(np.arange(3), batches[0]["task"])
    assert there.sum() == 2
    np.testing.assert_array_equal(state.window.loss_count, 4 * there)
    moved = {name: (array != flat(start.params)[name]).any() for name, array in flat(state.params).items()}
    assert {name: there[i] for i, name in enumerate(experiment.task_names)} == {
        name: moved[f"head_{name}/kernel"] for name in experiment.task_names
    }
    assert moved["backbone/stem/conv/kernel"]
    assert (np.abs(state.window.weights[there]) > 0).all()


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.long
def test_every_method_takes_steps_of_one_set_and_of_several(method, groups, make):
    experiment = with_method(make, "mtan", method, groups)
    stream = experiment.train_batches(0)
    batch = parallel.place_batch(evaluation.without_ids(next(stream)))
    stream.close()
    state = jax.eval_shape(experiment.train_step, experiment.abstract_state(), batch)
    for (path, found), wanted in zip(
        jax.tree.leaves_with_path(state), jax.tree.leaves(experiment.abstract_state()), strict=True
    ):
        assert (found.shape, found.dtype) == (wanted.shape, wanted.dtype), path


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.long
def test_every_method_trains_with_one_set_a_step_and_with_several(method, groups, make):
    state, _ = take_steps(with_method(make, "split", method, groups), 4)
    assert int(state.window.bad_step) == 0
    assert np.isfinite(state.window.weights).all()


@pytest.mark.long
def test_one_task_a_step_gives_a_gradient_method_the_plain_gradient(make):
    states = [take_steps(make("mtan", weighting=name), 1)[0] for name in ("equal", "pcgrad")]
    found, expected = (flat(state.params) for state in states)
    for name, array in found.items():
        np.testing.assert_allclose(array, expected[name], atol=1e-6, err_msg=name)


@pytest.mark.parametrize(
    ("arch", "fields"),
    [
        long("mtan", {"weighting": "dwa", "mixing.tasks_per_step": 2, "batch_size": 8}, fast=()),
        ("series_adapters", {}),
    ],
)
def test_a_stopped_run_is_a_straight_one(arch, fields, make, base, tmp_path, monkeypatch):
    experiment = make(arch, **fields, **{"model.init_from": str(base[0]), "data.workers": 0})
    assert_stopped_run_is_straight(experiment, tmp_path, monkeypatch)


@pytest.mark.slow
def test_program_evaluates_predicts_and_sums_up(run_main, data_dir, tmp_path, capsys):
    common = (
        "--config=tests/helpers/toy_sets_config.py",
        f"--workdir={tmp_path}",
        f"--config.data.data_dir={data_dir}",
    )
    run_main(*common)
    logged = [line for line in whole_run.read_metrics(tmp_path) if line["split"] == "val"][-1]
    capsys.readouterr()
    run_main(*common, "--mode=eval")
    found = json.loads(capsys.readouterr().out)
    assert found == {name: logged[name] for name in found}
    accuracies = [found[f"{name}/accuracy"] for name in ("hues", "bars", "corners")]
    assert found["mean/accuracy"] == pytest.approx(sum(accuracies) / 3)
    run_main(*common, "--mode=predict", "--count=3")
    for name, size in (("hues", 5), ("bars", 6), ("corners", 9)):
        lines = json.loads((tmp_path / "figures" / "val" / f"{name}.json").read_text())
        assert len(lines) == size
        right = sum(line["predicted"] == line["class"] for line in lines)
        assert right / size == pytest.approx(found[f"{name}/accuracy"])
        assert (tmp_path / "figures" / "val" / f"{name}.png").stat().st_size > 1000
    capsys.readouterr()
    run_main(*common, "--mode=summary")
    assert "mtan on wrn10_4" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="--split=test: hues has no such split; it has train, val"):
        run_main(*common, "--mode=predict", "--split=test")
    with pytest.raises(SystemExit, match="--split=test is for --mode=predict of sets of labelled images"):
        run_main(*common, "--mode=eval", "--split=test")


def test_program_writes_the_results_file_of_the_challenge(run_main, tmp_path):
    write_official(tmp_path / "raw", "svhn", 10)  # categories 900, 899, ...; test images 3000, 3001, 3002
    run_main(
        "--config=configs/decathlon.py:smoke,sets=svhn,arch=split,backbone=wrn10_4",
        f"--workdir={tmp_path / 'run'}",
        f"--config.data.data_dir={tmp_path / 'prepared'}",
        f"--config.data.raw_dir={tmp_path / 'raw'}",
        "--config.compilation_cache=",
        *("--mode=predict", "--split=test", "--checkpoint=initial"),
    )
    folder = tmp_path / "run" / "figures" / "test"
    lines = json.loads((folder / "svhn.json").read_text())
    assert sorted(line["id"] for line in lines) == ["svhn/test/3000", "svhn/test/3001", "svhn/test/3002"]
    assert json.loads((folder / "results.json").read_text()) == [
        {"image_id": int(line["id"][-4:]), "category_id": 901 - int(line["predicted"])} for line in lines
    ]


@pytest.mark.long
def test_mini_decathlon_runs_small(run_main, tmp_path):
    data = f"--config.data.data_dir={tmp_path / 'prepared'}"
    common = ("--config=configs/mini_decathlon.py:smoke", data, f"--workdir={tmp_path / 'run'}")
    run_main(*common, "--config.compilation_cache=")
    lines = [line for line in whole_run.read_metrics(tmp_path / "run") if line["split"] == "val"]
    assert [line["step"] for line in lines] == [2, 4]
    names = ("objects", "shapes", "textures", "glyphs", "digits", "signs")
    for line in lines:
        accuracies = [line[f"{name}/accuracy"] for name in names]
        assert line["mean/accuracy"] == pytest.approx(sum(accuracies) / 6)
        assert all(accuracy * 32 == round(accuracy * 32) for accuracy in accuracies)  # of 32 images each


def test_score_is_relative_to_the_values_given(make, base):
    experiment = make("split", tasks=("hues",), **{"eval.single_task": (("hues/accuracy", 0.4),)})
    metrics = evaluation.evaluate(experiment, parallel.place_state(base[1]))
    expected = 1000 * max(0, 1 - (1 - metrics["hues/accuracy"]) / 1.2) ** 2
    assert metrics["decathlon/score"] == pytest.approx(expected)


@pytest.mark.parametrize(
    ("arch", "fields", "message"),
    [
        ("mtan", {"mixing.tasks": ("hues", "cars")}, r"mixing\.tasks has 'cars'; the tasks are hues, bars, corners"),
        ("mtan", {"mixing.tasks_per_step": 4}, r"mixing\.tasks_per_step = 4: expected a number from 1 to 3"),
        ("mtan", {"model.backbone": "segnet"}, r"'segnet' does not suit config\.data\.name = 'toy_sets'; use one of: "),
        ("dense", {}, r"arch = 'dense' does not exist on config\.model\.backbone = 'wrn10_4'"),
        ("mtan", {"optimizer.absent_tasks": "sleep"}, r"absent_tasks = 'sleep' is not known; known: step, rest"),
        ("mtan", {"optimizer.weight_decay": -1.0}, r"weight_decay=-1\.0; expected a finite number >= 0"),
        ("mtan", {"weighting": (("mgda", {"wrt": "features"}),)}, r"with wrt='features' is for dense tasks"),
        ("single", {"weighting": "pcgrad"}, r"pcgrad shared='all_but_heads' selects none of the parameters"),
        ("mtan", {"optimizer.name": "adam", "optimizer.options": {}}, r"with config\.optimizer\.name = 'adam'"),
        ("mtan", {"mixing.until": {"cars": 3}}, r"until has 'cars'; the tasks are hues.*--config\.mixing\.until=\{\}"),
        (
            "mtan",
            {"eval.single_task": (("hues/accuracy", 0.4),)},
            r"single_task = .*: expected the accuracy of every set",
        ),
        ("mtan", {"tasks": ("hues", "mean")}, r"'mean' is not a valid name of a set"),
        ("mtan", {"tasks": ("hues", HUES_AGAIN)}, r"task 'again' has the target 'hues'; a task on a set"),
    ],
)
def test_what_does_not_fit_is_named_before_data_are_read(arch, fields, message, make):
    with pytest.raises(ValueError, match=message):
        make(arch, **fields)


def test_dense_data_do_not_take_a_network_for_images(make):
    with pytest.raises(
        ValueError, match=r"'wrn10_4' does not suit config\.data\.name = 'streets'; use one of: segnet, "
    ):
        make("mtan", **{"data.name": "streets", "tasks": ("semantic",)})


def test_adapting_needs_a_network(make):
    message = r"arch = 'piggyback' adapts a pretrained network; .*--config\.model\.init_from"
    with pytest.raises(WeightsError, match=message):
        make("piggyback").load_weights()


def test_a_run_that_does_not_fit_is_named(make, base, tmp_path):
    with pytest.raises(
        WeightsError, match=r"backbone/.* is \(.*\) there, \(.*\) here; use the same config\.model\.backbone and"
    ):
        make("split", **{"model.init_from": str(base[0]), "model.width": 0.125}).init_state()
    with pytest.raises(WeightsError, match="there is no such working directory"):
        make("split", **{"model.init_from": str(tmp_path / "nowhere")}).load_weights()
    with pytest.raises(WeightsError, match=r"is not the working directory of a run: .*config\.json"):
        make("split", **{"model.init_from": str(tmp_path)}).init_state()


def shapes_of(make, arch, **fields):
    """Shapes of a network's variables by path, and the names of its tasks."""
    experiment = make(arch, **fields)
    return traverse_util.flatten_dict(dict(experiment.abstract_variables)), experiment.task_names


@pytest.mark.parametrize("arch", ["split", "piggyback"])
def test_a_run_of_another_depth_leaves_no_array_random_or_unused(arch, make):
    networks = {}
    for depth in ("wrn10_4", "wrn16_4"):
        shapes, tasks = shapes_of(make, arch, **{"model.backbone": depth})
        networks[depth] = {path: np.zeros(leaf.shape, leaf.dtype) for path, leaf in shapes.items()}, tasks, shapes
    (shallow, tasks, shallow_shapes), (deep, _, deep_shapes) = networks.values()
    such_as = "such as backbone/group_0/block_1/"
    with pytest.raises(
        WeightsError,
        match=rf"\d+ arrays of this network's backbone do not exist in the pretrained network, {such_as}",
    ):
        warm_start.initialize_from(shallow, tasks, deep_shapes, tasks)
    with pytest.raises(
        WeightsError,
        match=rf"\d+ arrays of the pretrained network's backbone do not exist in this network, {such_as}",
    ):
        warm_start.initialize_from(deep, tasks, shallow_shapes, tasks)


def test_any_network_of_the_same_backbone_is_taken_over_but_for_adaptations(make):
    networks = {arch: shapes_of(make, arch) for arch in IMAGE_ARCHITECTURES}
    adapters = {"series_adapters", "parallel_adapters"}
    for (arch, (source, tasks)), (other, (wanted, names)) in itertools.product(networks.items(), repeat=2):
        arrays = {path: np.zeros(leaf.shape, leaf.dtype) for path, leaf in source.items()}
        if {arch, other} == adapters:
            with pytest.raises(WeightsError, match=r"own_adapter is .* the same kind and rank of adapters if both"):
                warm_start.initialize_from(arrays, tasks, wanted, names)
        elif other == "parallel_svd" and arch not in ("parallel_adapters", other):
            with pytest.raises(WeightsError, match=r"'parallel_svd' compresses the adapters of a run of parallel_ad"):
                warm_start.initialize_from(arrays, tasks, wanted, names)
        else:
            found = warm_start.initialize_from(arrays, tasks, wanted, names)
            left = {path for path in wanted.keys() - found.keys() if path[1] == "backbone"}
            assert all(path[-1].removeprefix("own_") in warm_start.ADAPTATIONS for path in left)


def test_batches_that_devices_cannot_share_are_named(make):
    experiment = make("mtan", **{"mixing.tasks_per_step": 2, "batch_size": 4})
    with pytest.raises(
        ValueError, match=r"batch_size=4 is not divisible by 4 devices x 2 tasks per step; use a multiple of 8"
    ):
        checks.check_train_batch_size(experiment.config, experiment.data)


def test_epochs_become_shorter_where_a_set_is_left_out(make):
    experiment = make("mtan", **{"mixing.order": "whole_sets", "mixing.until": {"bars": 2}, "duration": "3 epochs"})
    # 12, 20 and 7 images in steps of 4: 3 + 5 + 2, twice, and once without the bars
    assert experiment.total_steps == 25
    assert experiment.lengths.steps_per_epoch == 10
