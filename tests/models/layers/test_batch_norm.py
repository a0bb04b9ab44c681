"""BatchNorm by hand, over devices and tasks, and its gradient that is written out."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtan_jax.models import numerics, ops
from mtan_jax.models.layers import batch_norm


def test_batch_norm_by_hand():
    x = np.random.default_rng(0).normal(2, 3, (4, 3, 5, 2))
    norm = batch_norm.BatchNorm()
    variables = norm.init(jax.random.key(0), jnp.asarray(x, jnp.float32), train=False)
    found, updates = norm.apply(variables, jnp.asarray(x, jnp.float32), train=True, mutable=["batch_stats"])
    mean, variance = x.mean((0, 1, 2)), x.var((0, 1, 2))
    np.testing.assert_allclose(found, (x - mean) / np.sqrt(variance + 1e-5), atol=1e-5)
    np.testing.assert_allclose(updates["batch_stats"]["mean"], 0.1 * mean, rtol=1e-5)
    np.testing.assert_allclose(updates["batch_stats"]["var"], 0.9 + 0.1 * variance, rtol=1e-5)


def test_batch_norm_with_task_axis_is_one_batch_norm_after_another():
    x = jax.random.normal(jax.random.key(0), (3, 2, 4, 5, 6)) * 3 + 1
    norm = batch_norm.BatchNorm()
    variables = norm.init(jax.random.key(1), x[0], train=False)
    scale, bias = jax.random.normal(jax.random.key(2), (2, 6))
    variables = {"params": {"scale": scale, "bias": bias}, "batch_stats": variables["batch_stats"]}
    found, updates = norm.apply(variables, x, train=True, mutable=["batch_stats"])
    running = variables["batch_stats"]
    for t in range(3):
        expected, new = norm.apply(
            {"params": variables["params"], "batch_stats": running}, x[t], train=True, mutable=["batch_stats"]
        )
        running = new["batch_stats"]
        np.testing.assert_allclose(found[t], expected, atol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), updates["batch_stats"], running)


@pytest.mark.parametrize("devices", [1, 4])
@pytest.mark.parametrize("pool", [False, True])
@pytest.mark.parametrize("activation", [None, "relu", "sigmoid"])
def test_gradient_of_batch_norm_is_that_of_its_formula(activation, pool, devices):
    """The gradient that is written out, against what JAX derives from moments, `normalize` and max-pooling."""
    rng = np.random.default_rng(0)
    with jax.enable_x64(True):
        x = jnp.asarray(rng.normal(2, 3, (devices, 2, 3, 4, 8, 6)))  # devices, tasks, examples, ...
        scale, bias = jnp.asarray(rng.normal(size=(2, 1, 6)))
        assert 0 < (scale < 0).sum() < scale.size
        cotangent = jnp.asarray(rng.normal(size=x.shape))
        cotangent = cotangent[..., ::2, ::2, :] if pool else cotangent
        axis_name = "d" if devices > 1 else None

        def written_out(x, scale, bias):
            return ops.normalize_batch(x, scale, bias, axis_name, activation, pool)[0]

        def derived(x, scale, bias):
            mean, variance = ops.batch_moments(x, axis_name)
            y = ops.normalize(x, mean, variance, scale, bias, activation)
            return ops.max_pool(y)[0] if pool else y

        def gradients(function):
            def of_device(x, cotangent):
                y, pullback = jax.vjp(function, x, scale, bias)
                return y, pullback(cotangent)

            if axis_name is None:
                return of_device(x[0], cotangent[0])
            return jax.pmap(of_device, axis_name)(x, cotangent)

        found, expected = gradients(written_out), gradients(derived)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-12), found, expected)


@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_pooling_before_batch_norm_gives_the_same_numbers(dtype, train):
    # To the last bit: rounding keeps the order too.
    x = (jax.random.normal(jax.random.key(0), (2, 6, 8, 16)) * 3 + 1).astype(dtype)
    scale, bias = jax.random.normal(jax.random.key(1), (2, 16))
    variables = {"params": {"scale": scale.at[3].set(0), "bias": bias}}
    variables |= batch_norm.BatchNorm().init(jax.random.key(2), x, train=False) | variables
    found, statistics = batch_norm.BatchNorm(activation="relu", pool=True).apply(
        variables, x, train=train, mutable=["batch_stats"]
    )
    expected, others = batch_norm.BatchNorm(activation="relu").apply(variables, x, train=train, mutable=["batch_stats"])
    np.testing.assert_array_equal(found, ops.max_pool(expected)[0])
    jax.tree.map(np.testing.assert_array_equal, statistics, others)


@pytest.mark.parametrize("pool", [False, True])
def test_batch_norm_keeps_the_type_of_the_computation(pool):
    x = jnp.linspace(-3, 5, 2 * 4 * 4 * 3).reshape(2, 4, 4, 3).astype(jnp.bfloat16)
    y, pullback = jax.vjp(lambda x: ops.normalize_batch(x, jnp.ones(3), jnp.zeros(3), None, "relu", pool)[0], x)
    assert y.dtype == pullback(y)[0].dtype == jnp.bfloat16
    kept = [leaf for leaf in jax.tree.leaves(pullback) if getattr(leaf, "size", 0) in (x.size, y.size)]
    assert {leaf.dtype for leaf in kept} - {jnp.dtype(jnp.int8)} == {jnp.dtype(jnp.bfloat16)}


def test_a_bias_that_is_not_added_counts_where_it_should():
    """BatchNorm of x with an offset is BatchNorm of x + offset, in training, in evaluation and in the statistics."""
    x, offset = jax.random.normal(jax.random.key(0), (2, 4, 5, 3)), jnp.array([1.0, -2.0, 0.5])
    norm = batch_norm.BatchNorm(activation="relu")
    variables = norm.init(jax.random.key(1), x, train=False)
    for train in (True, False):
        found, stats = norm.apply(variables, x, train=train, offset=offset, mutable=["batch_stats"])
        expected, expected_stats = norm.apply(
            variables, x + offset.reshape(1, 1, 1, -1), train=train, mutable=["batch_stats"]
        )
        np.testing.assert_allclose(found, expected, atol=1e-5)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), stats, expected_stats)


def test_batch_norm_is_the_same_on_one_and_four_devices():
    x = jax.random.normal(jax.random.key(0), (4, 2, 4, 4, 3)) + jnp.arange(4.0).reshape(4, 1, 1, 1, 1)
    variables = batch_norm.BatchNorm().init(jax.random.key(1), x[0], train=False)

    def apply(norm, x):
        return norm.apply(variables, x, train=True, mutable=["batch_stats"])

    whole, whole_stats = apply(batch_norm.BatchNorm(), x.reshape(8, 4, 4, 3))
    synchronised = jax.pmap(lambda x: apply(batch_norm.BatchNorm(numerics.Numerics("d")), x), axis_name="d")
    parts, part_stats = synchronised(x)
    np.testing.assert_allclose(parts.reshape(whole.shape), whole, atol=1e-5)
    for d in range(4):
        jax.tree.map(
            lambda a, b, d=d: np.testing.assert_allclose(a[d], b, atol=1e-6),
            part_stats["batch_stats"],
            whole_stats["batch_stats"],
        )
    # A choice that does nothing would pass the above too.
    alone, _ = jax.pmap(lambda x: apply(batch_norm.BatchNorm(), x))(x)
    assert np.abs(np.asarray(alone).reshape(whole.shape) - whole).max() > 0.1
