"""VGG-16 with BatchNorm (Simonyan and Zisserman 2015) as a fully convolutional network, with DeepLabv3's head."""

import functools

from mtan_jax.models.backbones.segnet import WIDTHS, Encoder, layers
from mtan_jax.models.layers.heads import DeepLabHead
from mtan_jax.models.numerics import FLOAT32, Numerics
from mtan_jax.models.stage import Backbone


def vgg16(width: float = 1.0, numerics: Numerics = FLOAT32) -> Backbone:
    """Makes the 13 convolutions of VGG-16, which are SegNet's encoder, without the last max-pooling.

    Args:
        width: multiplies the channels.
        numerics: of all layers.

    Returns:
        A backbone with blocks encoder_0 .. encoder_4; the last has a sixteenth of the image's height and width.
    """
    scaled = [max(round(w * width), 1) for w in WIDTHS]
    last = len(scaled) - 1
    blocks = {
        f"encoder_{i}": functools.partial(
            Encoder, scaled[i], scaled[i + 1] if i < last else None, layers(i), numerics=numerics
        )
        for i in range(len(scaled))
    }
    head = functools.partial(DeepLabHead, features=max(round(256 * width), 1), numerics=numerics)
    return Backbone(blocks, head, 2**last, numerics)
