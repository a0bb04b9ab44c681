"""Optimizers against the formulas of their papers, written out."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtan_jax.config import default_config
from mtan_jax.steps import duration
from mtan_jax.steps.learning_rate import build_schedule
from mtan_jax.steps.optimizer import build_optimizer

# In float32, 1 - 0.999**t has a relative error of up to 3e-5 in the first steps.
ROUNDING = 3e-5
GRADIENTS = np.array([[0.3, -2.0], [0.1, 4.0], [-0.2, 1.0], [0.5, 0.0], [1e-4, -3.0], [0.2, 2.0], [-0.1, 0.5]])


def make_config(**fields):
    config = default_config().optimizer
    for name, value in fields.items():
        config[name] = value
    return config


def make_schedule(total_steps=100, **fields):
    to_steps = functools.partial(duration.to_steps, epochs_to_steps=lambda epochs: epochs * 3, batch_size=10)
    return build_schedule(make_config(**fields), total_steps, to_steps)


def follow(config, schedule):
    """The parameters, from 0, after each step."""
    tx = build_optimizer(config, schedule)
    params = jnp.zeros(2)
    state, path = tx.init(params), []
    for gradient in jnp.asarray(GRADIENTS, jnp.float32):
        updates, state = tx.update(gradient, state, params)
        params += updates
        path.append(params)
    return np.array(path)


def adam(rates):
    """Kingma and Ba (2015), algorithm 1."""
    m, v, param, path = np.zeros(2), np.zeros(2), np.zeros(2), []
    for t, (gradient, rate) in enumerate(zip(GRADIENTS, rates, strict=True), start=1):
        m = 0.9 * m + 0.1 * gradient
        v = 0.999 * v + 0.001 * gradient**2
        param = param - rate * (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8)
        path.append(param)
    return np.array(path)


def test_adam_with_a_rate_that_is_halved_after_each_epoch():
    # 30 examples in batches of 10: steps 1 to 3 at the full rate, 4 to 6 at half of it, 7 at a quarter.
    config = make_config(learning_rate=0.1, schedule="halve", halve_every="1 epochs")
    schedule = make_schedule(learning_rate=0.1, schedule="halve", halve_every="1 epochs")
    expected = adam([0.1, 0.1, 0.1, 0.05, 0.05, 0.05, 0.025])
    np.testing.assert_allclose(follow(config, schedule), expected, rtol=ROUNDING)


def test_sgd_with_momentum_and_decoupled_weight_decay():
    schedule = make_schedule(learning_rate=0.1)
    velocity, param, path = np.zeros(2), np.zeros(2), []
    for gradient in GRADIENTS:
        velocity = gradient + 0.9 * velocity
        param = param - 0.1 * velocity
        path.append(param)
    config = make_config(name="sgd", learning_rate=0.1)
    config.options = {"momentum": 0.9}
    np.testing.assert_allclose(follow(config, schedule), path, rtol=2e-6, atol=1e-7)
    config = make_config(name="adamw", learning_rate=0.1)
    config.options = {"weight_decay": 0.5}
    first, second = follow(config, schedule)[:2]
    np.testing.assert_allclose(first, adam([0.1] * 7)[0], rtol=ROUNDING)
    moved = adam([0.1] * 7)[1] - adam([0.1] * 7)[0]
    np.testing.assert_allclose(second, first + moved - 0.1 * 0.5 * first, rtol=ROUNDING)


@pytest.mark.parametrize("options", [{}, {"mask": lambda params: {"kernel": False, "own_scores": True}}])
def test_adamw_decays_no_scores_of_masks_unless_told_to(options):
    config = make_config(name="adamw")
    config.options = {"weight_decay": 0.5} | options
    tx = build_optimizer(config, lambda step: 0.1)
    params = {"kernel": jnp.ones(2), "own_scores": jnp.full(2, 0.01)}
    updates, _ = tx.update(jax.tree.map(jnp.zeros_like, params), tx.init(params), params)
    decayed = "own_scores" if options else "kernel"
    for name, update in updates.items():
        np.testing.assert_allclose(update, -0.1 * 0.5 * params[name] * (name == decayed))


def test_clipping_divides_by_the_norm_where_it_is_too_large():
    config = make_config(name="sgd", learning_rate=1.0, clip_norm=1.0)
    path = follow(config, lambda step: 1.0)
    np.testing.assert_allclose(path[0], -GRADIENTS[0] / math.hypot(0.3, 2.0), rtol=1e-6)
    np.testing.assert_allclose(path[3] - path[2], [-0.5, 0], atol=1e-6)  # its norm is 0.5


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"name": "adma"}, r"config\.optimizer\.name='adma' is unknown; known: adam, adamw, sgd"),
        ({"clip_norm": 0.0}, r"config\.optimizer\.clip_norm=0\.0; expected a positive number or None"),
        (
            {"options": {"momentum": 0.9}},
            r"config\.optimizer\.options\.momentum is no option of adam; known: b1, b2, eps, ",
        ),
    ],
)
def test_optimizer_messages(fields, message):
    with pytest.raises(ValueError, match=message):
        build_optimizer(make_config(**fields), lambda step: 0.1)
