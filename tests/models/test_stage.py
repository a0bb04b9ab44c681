"""What a backbone of a user's own may get wrong, and what it is told."""

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
    masks = shapes(lambda x: Stage(x, x, hidden=5, resample="down"))["params"]["attention"]
    assert masks["coarse"]["depth"]["hidden_kernel"].shape == (4 + 4, 5)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda x: Stage(x[:, ::2], x, hidden=5),
            r"Stage\.look is \(1, 4, 16, 4\) and gate \(1, 8, 16, 4\): a mask has the height and width of both",
        ),
        (lambda x: Stage(x, x, hidden=5, resample="half"), r"resample is 'half'; known: 'down', 'up', None"),
        (
            lambda x: Stage(x, x, 5, ConvNorm, shared_pools=True),
            r"shared_pools needs resample='down' and something shared",
        ),
        (
            lambda x: Stage(x, x, 5, resample="down", shared_pools=True),
            r"shared_pools needs resample='down' and something shared",
        ),
        (
            lambda x: Stage(x, x, 5, functools.partial(ConvNorm, 4), "down", shared_pools=True),
            r"stage 'fine' has shared_pools=True, but what it shares keeps the size of 8x16: it has to pool",
        ),
        (
            lambda x: Stage(x, x, hidden=5),
            r"stage 'coarse' is 4x8, but the features attended to before it come as 8x16: a stage that is followed by "
            r"half the size needs resample='down', one of double the size resample='up' itself",
        ),
    ],
)
def test_stages_that_do_not_fit(make, message):
    with pytest.raises(ValueError, match=message):
        shapes(make)
