"""Adapters compressed across tasks by SVD: their values, and runs that start from them."""

import jax
import numpy as np
import pytest
from flax import traverse_util
from helpers import whole_run
from helpers.image_set_runs import (
    assert_same,
    assert_stopped_run_is_straight,
    flat,
    make_experiment,
    one_group,
    predict,
    take_steps,
)

from mtan_jax.experiment import warm_start
from mtan_jax.experiment.compression import factorize
from mtan_jax.interop.files import WeightsError
from mtan_jax.models import IMAGE_BACKBONES

TASKS = ("hues", "bars", "corners")
ORDER = ("corners", "hues", "bars")  # of the compressed network


def best_approximation(adapters, rank):
    """The rows of all matrices, projected onto the leading eigenvectors of their Gram matrix (Eckart, Young)."""
    rows = np.concatenate([np.asarray(matrix, np.float64) for matrix in adapters])
    vectors = np.linalg.eigh(rows.T @ rows).eigenvectors[:, -rank:]
    return (rows @ vectors @ vectors.T).reshape(np.shape(adapters))


@pytest.mark.parametrize("shape", [(3, 5, 7), (3, 8, 4), (2, 3, 16)])
@pytest.mark.parametrize("rank", [1, 3, None])
def test_factors_and_basis_are_the_best_approximation_of_their_rank(shape, rank):
    adapters = np.random.default_rng(0).normal(size=shape)
    rank = rank or shape[-1]
    factors, basis = factorize(adapters, rank)
    assert (factors.shape, basis.shape) == ((*shape[:2], rank), (rank, shape[-1]))
    found = np.stack([matrix @ basis for matrix in factors])
    np.testing.assert_allclose(found, best_approximation(adapters, rank), atol=1e-12)
    np.testing.assert_allclose(basis @ basis.T, np.eye(rank), atol=1e-12)
    # The error is that of the singular values that are dropped: none at full rank.
    singular = np.linalg.svd(adapters.reshape(-1, shape[-1]), compute_uv=False)
    np.testing.assert_allclose(np.square(found - adapters).sum(), np.square(singular[rank:]).sum(), atol=1e-12)


@pytest.fixture(scope="module")
def make(tmp_path_factory):
    """Makes an experiment on a backbone of three 3x3 convolutions and a shortcut."""
    data_dir = tmp_path_factory.mktemp("toy_sets")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(IMAGE_BACKBONES, "one_group", one_group)
        yield lambda arch, **fields: make_experiment(data_dir, arch, {"model.backbone": "one_group"} | fields)


@pytest.fixture(scope="module")
def source(make, tmp_path_factory):
    """A run of parallel adapters on a backbone trained on one set: its folder, experiment and last state."""
    base, folder = tmp_path_factory.mktemp("base"), tmp_path_factory.mktemp("parallel")
    whole_run.train_here(make("split", tasks=("hues",)), base)
    fields = {"mixing.order": "in_turn", "optimizer.learning_rate": 0.5}  # adapters of every task, and not small
    experiment = make("parallel_adapters", **fields, **{"model.init_from": str(base)})
    whole_run.train_here(experiment, folder)
    return folder, experiment, whole_run.read_state(experiment, folder)


def compressed(make, source, rank, **fields):
    fields = {"tasks": ORDER, "mixing.order": "in_turn"} | fields
    return make("parallel_svd", **fields, **{"model.init_from": str(source[0]), "model.adapter_rank": rank})


def test_full_rank_predicts_as_the_parallel_adapters(make, source):
    _, parallel_adapters, state = source
    experiment = compressed(make, source, 1.0)
    start = jax.device_get(experiment.init_state())
    zeros = jax.tree_util.tree_map_with_path(
        lambda path, leaf: np.zeros_like(leaf) if path[-1].key == "own_factor" else leaf, start.params
    )
    for task in TASKS:
        expected = predict(parallel_adapters, state, task)
        np.testing.assert_allclose(predict(experiment, start, task), expected, atol=1e-5)  # float32 rounding
        assert np.abs(predict(experiment, start.replace(params=zeros), task) - expected).max() > 1e-3


def test_training_changes_what_is_per_task_and_no_frozen_array(make, source):
    _, _, source_state = source
    experiment = compressed(make, source, 0.5)
    start = jax.device_get(experiment.init_state())
    before, adapters, basis = flat(start.params), flat(source_state.params), flat(start.frozen)
    rows = [TASKS.index(task) for task in ORDER]
    factors = [name for name in before if name.endswith("own_factor")]
    assert len(factors) == 3
    for name in factors:
        matrices = adapters[name.replace("own_factor", "own_adapter")]
        shared = basis[name.replace("own_factor", "basis")]
        assert len(shared) == matrices.shape[-1] / 2
        found, expected = before[name] @ shared, best_approximation(matrices, len(shared))[rows]
        np.testing.assert_allclose(found, expected, atol=1e-6 * np.abs(matrices).max())
    for name, array in before.items():  # BatchNorm and heads continue
        if name not in factors:
            expected = adapters[name][rows] if "own_" in name else adapters[name]
            np.testing.assert_array_equal(array, expected, err_msg=name)

    state, _ = take_steps(experiment, 3)
    assert (state.window.loss_count == 4).all()  # each set had its turn
    assert_same(flat(state.frozen), basis)
    kernels = {name: array for name, array in basis.items() if not name.endswith("basis")}
    assert_same(kernels, flat(source_state.frozen))
    for name, array in flat(state.params).items():
        assert (array != before[name]).any(), name


def test_a_stopped_run_of_compressed_adapters_is_a_straight_one(make, source, tmp_path, monkeypatch):
    experiment = compressed(make, source, 0.5, **{"data.workers": 0, "mixing.order": "random"})
    assert_stopped_run_is_straight(experiment, tmp_path, monkeypatch)


@pytest.mark.slow
def test_a_task_added_to_compressed_adapters_leaves_the_others_predictions(make, source, tmp_path):
    base = str(tmp_path / "base")
    two = {"tasks": ("hues", "bars")}
    whole_run.train_here(make("parallel_adapters", **two, **{"model.init_from": str(source[0])}), tmp_path / "base")
    earlier = make("parallel_svd", **two, **{"model.init_from": base})
    whole_run.train_here(earlier, tmp_path / "two")
    state = whole_run.read_state(earlier, tmp_path / "two")
    fields = {"model.init_from": str(tmp_path / "two"), "mixing.tasks": ("corners",)}
    later = make("parallel_svd", tasks=("bars", "corners", "hues"), **fields)
    start = jax.device_get(later.init_state())
    new_state, _ = take_steps(later, 5)
    for task in two["tasks"]:
        assert predict(earlier, state, task).tobytes() == predict(later, new_state, task).tobytes()
    for name, array in flat(start.params).items():
        if name.endswith("own_factor"):
            np.testing.assert_array_equal(array[1], 0, err_msg=name)
            np.testing.assert_array_equal(array[[2, 0]], flat(state.params)[name])
    assert np.abs(predict(later, start, "corners") - predict(later, new_state, "corners")).max() > 1e-3


def test_sources_that_do_not_fit_are_named(make, source):
    with pytest.raises(ValueError, match=r"adapter_rank = 1\.5: .* must be above 0 and at most 1"):
        compressed(make, source, 1.5)
    with pytest.raises(ValueError, match=r"adapter_rank = 0\.0: .* must be above 0 and at most 1"):
        compressed(make, source, 0.0)
    with pytest.raises(WeightsError, match=r"tasks = hues, bars; .* are those of hues, bars, corners\. Compress them"):
        compressed(make, source, 0.5, tasks=("hues", "bars")).load_weights()
    _, parallel_adapters, _ = source
    base = parallel_adapters.config.model.init_from
    message = r"own_adapter does not exist, expected \(1, \d, \d\)\. Train parallel_adapters with the same"
    with pytest.raises(WeightsError, match=message):
        make("parallel_svd", **{"model.init_from": base}).load_weights()
    for arch, rank, message in (
        ("series_adapters", 0.5, r"own_adapter is \(3, 4, 4\), expected \(3, 2, 4\)\. Train parallel_adapters"),
        ("parallel_svd", 1.0, r"(basis|own_factor) is .* there, .* here; .* the same kind and rank of adapters"),
    ):
        wanted, there = (
            traverse_util.flatten_dict(dict(make(name, **fields).abstract_variables))
            for name, fields in (("parallel_svd", {}), (arch, {"model.adapter_rank": rank}))
        )
        arrays = {path: np.zeros(leaf.shape, leaf.dtype) for path, leaf in there.items()}
        with pytest.raises(WeightsError, match=message):
            warm_start.initialize_from(arrays, TASKS, wanted, TASKS)
