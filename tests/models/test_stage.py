"""Errors in a user's own backbone, and their messages."""

import functools

import jax
import jax.numpy as jnp
import pytest
from flax import linen as nn

from mtan_jax import tasks
from mtan_jax.models import Backbone, Flow, Head, Stage
from mtan_jax.models.layers import ConvNorm
from mtan_jax.models.mtan import MTAN


class Pooled(nn.Module):
    """A convolution, then max-pooling; shows the stage that `make` makes of its features."""

    make: object

    @nn.compact
    def __call__(self, flow, *, train):
        x = nn.Conv(4, (3, 3))(flow.x)
        return self.make(x), Flow(nn.max_pool(x, (2, 2), (2, 2)))


def shapes(make):
    blocks = {name: functools.partial(Pooled, make) for name in ("fine", "coarse")}
    network = MTAN(Backbone(blocks, Head, 4), (tasks.depth(),))
    init = functools.partial(network.init, train=False)
    return jax.eval_shape(init, jax.random.key(0), jnp.zeros((1, 8, 16, 3)))


def test_layers_of_plain_flax_will_do():
    masks = shapes(lambda x: Stage(x, x, hidden=5, resample="down"))["params"]["attention_depth"]
    assert masks["coarse"]["hidden"]["conv"]["conv"]["kernel"].shape == (1, 1, 4 + 4, 5)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda x: Stage(x[:, ::2], x, hidden=5),
            r"Stage\.look is \(1, 4, 16, 4\) and Stage\.gate is \(1, 8, 16, 4\); they must have the same height",
        ),
        (lambda x: Stage(x, x, hidden=5, resample="half"), r"resample='half' is not one of 'down', 'up', None"),
        (
            lambda x: Stage(x, x, 5, ConvNorm, shared_pools=True),
            r"shared_pools=True needs resample='down' and a `shared` module that pools",
        ),
        (
            lambda x: Stage(x, x, 5, resample="down", shared_pools=True),
            r"shared_pools=True needs resample='down' and a `shared` module that pools",
        ),
        (
            lambda x: Stage(x, x, 5, functools.partial(ConvNorm, 4), "down", shared_pools=True),
            r"stage 'fine' has shared_pools=True, but its shared module keeps the size 8x16; let it pool",
        ),
        (
            lambda x: Stage(x, x, hidden=5),
            r"stage 'coarse' is 4x8, but the attended features from the previous stage are 8x16; set "
            r"resample='down' if the next stage has half the size of this one, resample='up' if this stage has ",
        ),
    ],
)
def test_stages_that_do_not_fit(make, message):
    with pytest.raises(ValueError, match=message):
        shapes(make)
