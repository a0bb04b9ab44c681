"""One small network with two tasks in each framework: parameters, and the losses as a function of them."""

import equinox as eqx
import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax import nnx

TASKS = ("depth", "normal")
WIDTH = 6


def make_batch(rows=16, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(rows, 4)).astype(np.float32)
    return {"x": x, "depth": np.sin(x[:, :1]) * 3, "normal": np.cos(x[:, 1:2]) - x[:, :1]}


def losses(predictions, batch):
    return {task: ((prediction - batch[task]) ** 2).mean() for task, prediction in predictions.items()}


def plain():
    rng = np.random.default_rng(1)
    params = {"trunk": jnp.asarray(rng.normal(size=(4, WIDTH)), jnp.float32)}
    params["heads"] = {task: jnp.asarray(rng.normal(size=(WIDTH, 1)), jnp.float32) for task in TASKS}

    def losses_of(params, batch):
        features = jnp.tanh(batch["x"] @ params["trunk"])
        return losses({task: features @ params["heads"][task] for task in TASKS}, batch)

    return params, losses_of


def linen():
    class Network(nn.Module):
        @nn.compact
        def __call__(self, x):
            features = nn.tanh(nn.Dense(WIDTH, name="trunk")(x))
            return {task: nn.Dense(1, name=f"decoder_{task}")(features) for task in TASKS}

    network = Network()
    params = network.init(jax.random.key(0), make_batch()["x"])["params"]
    return params, lambda params, batch: losses(network.apply({"params": params}, batch["x"]), batch)


def nnx_module():
    class Network(nnx.Module):
        def __init__(self, rngs):
            self.trunk = nnx.Linear(4, WIDTH, rngs=rngs)
            self.decoders = nnx.Dict({task: nnx.Linear(WIDTH, 1, rngs=rngs) for task in TASKS})

        def __call__(self, x):
            features = jnp.tanh(self.trunk(x))
            return {task: self.decoders[task](features) for task in TASKS}

    definition, params = nnx.split(Network(nnx.Rngs(0)), nnx.Param)
    return params, lambda params, batch: losses(nnx.merge(definition, params)(batch["x"]), batch)


def equinox():
    class Network(eqx.Module):
        trunk: eqx.nn.Linear
        decoder_depth: eqx.nn.Linear
        decoder_normal: eqx.nn.Linear

        def __call__(self, x):
            features = jnp.tanh(self.trunk(x))
            return {"depth": self.decoder_depth(features), "normal": self.decoder_normal(features)}

    keys = jax.random.split(jax.random.key(0), 3)
    network = Network(
        eqx.nn.Linear(4, WIDTH, key=keys[0]),
        eqx.nn.Linear(WIDTH, 1, key=keys[1]),
        eqx.nn.Linear(WIDTH, 1, key=keys[2]),
    )
    params, static = eqx.partition(network, eqx.is_inexact_array)
    return params, lambda params, batch: losses(jax.vmap(eqx.combine(params, static))(batch["x"]), batch)


def haiku():
    def network(x):
        features = jnp.tanh(hk.Linear(WIDTH, name="trunk")(x))
        return {task: hk.Linear(1, name=f"decoder_{task}")(features) for task in TASKS}

    transformed = hk.without_apply_rng(hk.transform(network))
    params = transformed.init(jax.random.key(0), make_batch()["x"])
    return params, lambda params, batch: losses(transformed.apply(params, batch["x"]), batch)


FRAMEWORKS = {"plain": plain, "linen": linen, "nnx": nnx_module, "equinox": equinox, "haiku": haiku}
