"""Gradients of several tasks in one batched pass of attention."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax import lax

from mtan_jax import tasks
from mtan_jax.models import Backbone, Flow, Stage
from mtan_jax.models.mtan import MTAN


class OneStage(nn.Module):
    """A block without layers: masks are computed from the image and applied to it."""

    @nn.compact
    def __call__(self, flow, *, train):
        return Stage(flow.x, flow.x, hidden=4), Flow(flow.x)


class NoHead(nn.Module):
    """Returns the attended features."""

    @nn.compact
    def __call__(self, x, *, train):
        return x


def no_head(*, channels, image_size, name):
    return NoHead(name=name)


def test_gradients_of_all_tasks_at_once_where_xla_sums_a_product_over_tasks_wrongly():
    # Named after a bug of XLA for CPUs in jaxlib 0.10.2: from `masks * gate` the shared features got the gradient of
    # the first task in place of the others' own. It needs arrays of some size.
    rng = np.random.default_rng(0)
    features = rng.normal(size=(4, 32, 64, 8)).astype(np.float32)
    cotangents = np.zeros((3, 3, *features.shape), np.float32)
    for i in range(3):
        cotangents[i, i] = rng.normal(size=features.shape)
    network = MTAN(
        Backbone({"only": OneStage}, no_head, multiple=1),
        tuple(dataclasses.replace(tasks.depth(), name=name, activation=lambda x: x) for name in "abc"),
    )
    variables = jax.jit(functools.partial(network.init, train=False))(jax.random.key(0), features)

    def gradients(of_each):
        def compute(features, cotangents):
            def apply(features):
                predictions, _ = network.apply(variables, features, train=True, mutable=["batch_stats"])
                return jnp.stack(list(predictions.values()))

            return of_each(lambda c: jax.vjp(apply, features)[1](c)[0], cotangents)

        return jax.jit(compute)(features, cotangents)

    together, one_by_one = gradients(lambda f, c: jax.vmap(f)(c)), gradients(lax.map)
    np.testing.assert_allclose(together, one_by_one, atol=1e-5 * float(jnp.abs(one_by_one).max()))
