"""Dilated ResNet-50 and -101 (He et al. 2016; Yu et al. 2017) with DeepLabv3's head, as in the MTAN authors' code."""

import functools

from flax import linen as nn
from jaxtyping import Array, Float

from mtan_jax.models.layers.conv import ConvNorm
from mtan_jax.models.layers.heads import DeepLabHead
from mtan_jax.models.numerics import FLOAT32, Numerics
from mtan_jax.models.stage import Backbone, Flow, Stage

LAYERS = {"resnet50": (3, 4, 6, 3), "resnet101": (3, 4, 23, 3)}
_EXPANSION = 4  # output channels of a bottleneck block per inner channel
_DILATIONS = ((1, 1), (1, 1), (1, 2), (2, 4))  # per layer: of the first block, of the other blocks
_STRIDES = (1, 2, 1, 1)  # per layer; the output has an eighth of the image's height and width

he_normal = nn.initializers.variance_scaling(2.0, "fan_out", "normal")  # as in torchvision


def resnet(name: str, width: float = 1.0, numerics: Numerics = FLOAT32) -> Backbone:
    """Makes a ResNet whose last two layers keep the resolution of the second, with dilation in place of strides.

    A mask is computed from the input of a layer's last bottleneck block and applied to the layer's output. Attended
    features pass bottleneck blocks that the tasks share; after the last layer they go straight to the heads.

    Args:
        name: "resnet50" or "resnet101".
        width: multiplies the channels.
        numerics: of all layers.

    Returns:
        A backbone with blocks layer_1 .. layer_4; layer_1 includes the stem (7x7 convolution and max-pooling).
    """
    features = [max(round(64 * 2**i * width), 1) for i in range(4)]
    blocks = {
        f"layer_{i + 1}": functools.partial(
            ResNetLayer,
            features=features[i],
            shared_features=features[i + 1] if i < 3 else None,
            length=LAYERS[name][i],
            stem=None if i else max(round(64 * width), 1),
            stride=_STRIDES[i],
            dilations=_DILATIONS[i],
            numerics=numerics,
        )
        for i in range(4)
    }
    head = functools.partial(DeepLabHead, features=max(round(256 * width), 1), numerics=numerics)
    return Backbone(blocks, head, 8, numerics)


class ResNetLayer(nn.Module):
    """Bottleneck blocks, preceded in the first layer by the stem with `stem` channels."""

    features: int
    shared_features: int | None
    length: int
    stem: int | None
    stride: int
    dilations: tuple[int, int]
    numerics: Numerics = FLOAT32

    @nn.compact
    def __call__(self, flow: Flow, *, train: bool) -> tuple[Stage, Flow]:
        x = flow.x
        if self.stem:
            stem = ConvNorm(self.stem, 7, 2, use_bias=False, kernel_init=he_normal, numerics=self.numerics, name="stem")
            x = nn.max_pool(stem(x, train=train), (3, 3), (2, 2), ((1, 1), (1, 1)))
        first, others = self.dilations
        for i in range(self.length):
            look = x
            stride, dilation = (1, others) if i else (self.stride, first)
            x = Bottleneck(self.features, stride, dilation, not i, self.numerics, name=f"block_{i}")(x, train=train)
        shared = self.shared_features and functools.partial(
            Bottleneck, self.shared_features, project=True, numerics=self.numerics
        )
        hidden = x.shape[-1] // _EXPANSION
        return Stage(look, x, hidden, shared or None, "down" if self.stem else None), Flow(x)


class Bottleneck(nn.Module):
    """Convolutions 1x1, 3x3 and 1x1 (to 4 * `features` channels), added to the input or its 1x1 projection."""

    features: int
    stride: int = 1
    dilation: int = 1
    project: bool = False
    numerics: Numerics = FLOAT32

    @nn.compact
    def __call__(self, x: Float[Array, "*t b h w c"], *, train: bool) -> Float[Array, "*t b H W d"]:
        layer = functools.partial(ConvNorm, use_bias=False, kernel_init=he_normal, numerics=self.numerics)
        y = layer(self.features, 1, name="layer_0")(x, train=train)
        y = layer(self.features, 3, self.stride, self.dilation, name="layer_1")(y, train=train)
        y = layer(_EXPANSION * self.features, 1, activation=None, name="layer_2")(y, train=train)
        if self.project:
            x = layer(_EXPANSION * self.features, 1, self.stride, activation=None, name="project")(x, train=train)
        return nn.relu(x + y)
