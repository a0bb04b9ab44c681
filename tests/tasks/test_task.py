import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special

from mtan_jax.data.builder import DataInfo
from mtan_jax.tasks import TASKS, Task, build_tasks, depth, normal, semantic


@pytest.fixture
def data_info():
    return DataInfo(
        name="toy",
        image_size=(4, 6),
        classes=("ground", "sky", "thing"),
        palette=np.array([[128, 64, 128], [70, 130, 180], [220, 20, 60]], np.uint8),
        inverse_depth=False,
        depth_unit="m",
    )


def test_the_three_dense_tasks(data_info):
    tasks = build_tasks(["normal", "semantic", "depth"], data_info)
    assert [(task.name, task.channels) for task in tasks] == [("normal", 3), ("semantic", 3), ("depth", 1)]
    assert [task.name for task in build_tasks(list(TASKS), data_info)] == list(TASKS)


def test_a_task_of_ones_own_takes_its_place_among_names(data_info):
    edge = dataclasses.replace(depth(), name="edge", target="edge")
    tasks = build_tasks(["semantic", edge], data_info)
    assert tasks[1] is edge


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["semantic", "depht"], "Unknown task 'depht'; known tasks: semantic, depth, normal"),
        (["depth", "semantic", "depth"], "'depth' is given more than once"),
        (["depth", depth()], "'depth' is given more than once"),
        ([], "No tasks given; known tasks: semantic, depth, normal"),
    ],
)
def test_bad_lists_of_tasks(data_info, names, message):
    with pytest.raises(ValueError, match=message):
        build_tasks(names, data_info)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("name", "near/far", "'near/far'; expected a non-empty name without '/'"),
        ("name", "", "''; expected a non-empty name"),
        ("channels", 0, "channels=0 for 'depth'"),
        ("main_metric", "rmse", "'rmse' for 'depth'; expected one of abs_error, rel_error"),
    ],
)
def test_bad_fields(field, value, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(depth(), **{field: value})


@pytest.mark.parametrize("task", [semantic(3), depth(), normal()], ids=lambda task: task.name)
def test_loss_and_metric_take_what_the_activation_gives(task):
    rng = np.random.default_rng(0)
    outputs = jnp.asarray(rng.normal(size=(2, 4, 6, task.channels)), jnp.bfloat16)
    prediction = task.activation(outputs)
    assert prediction.dtype == jnp.float32
    target = prediction.argmax(axis=-1) if task.name == "semantic" else prediction
    total, count = task.loss(prediction, target, jnp.array([True, False]))
    assert count == 4 * 6
    if task.name != "semantic":
        np.testing.assert_allclose(total, 0, atol=1e-5)
    scores = task.metric().update(prediction, target, jnp.array([True, False])).compute()
    perfect = 1 if task.metric().higher_is_better[task.main_metric] else 0
    assert scores[task.main_metric] == pytest.approx(perfect, abs=1e-4)


def test_log_softmax_agrees_with_scipy():
    outputs = np.random.default_rng(0).normal(scale=20, size=(1, 3, 4, 7)).astype(np.float32)
    expected = scipy.special.log_softmax(outputs.astype(np.float64), axis=-1)
    np.testing.assert_allclose(semantic(7).activation(jnp.asarray(outputs)), expected, rtol=1e-6, atol=1e-5)


def test_unit_vectors_have_length_1_and_keep_their_direction():
    outputs = np.random.default_rng(0).normal(scale=5, size=(1, 3, 4, 3)).astype(np.float32)
    vectors = normal().activation(jnp.asarray(outputs))
    np.testing.assert_allclose(vectors, outputs / np.linalg.norm(outputs, axis=-1, keepdims=True), rtol=1e-6)


def test_a_zero_vector_gives_no_nan():
    outputs = jnp.zeros((1, 1, 1, 3))
    np.testing.assert_array_equal(normal().activation(outputs), outputs)
    gradient = jax.grad(lambda x: (normal().activation(x) * jnp.array([[[[1.0, 2, 3]]]])).sum())(outputs)
    assert np.isfinite(gradient).all()


def test_tasks_compare_equal_only_to_themselves_or_their_copies():
    task = depth()
    assert task == depth()
    assert isinstance(task, Task)
    assert hash(task) == hash(depth())
