"""What a backbone shows of itself to the modules that stand on it."""

import dataclasses
from typing import Literal

from jaxtyping import Array, Float


@dataclasses.dataclass(frozen=True)
class Stage:
    """One stage of a backbone.

    Attributes:
        name: unique in the backbone, such as "encoder_0"; parameters and masks are named after it.
        look: the features that a mask looks at.
        gate: the features that a mask gates; of look's height and width.
        features: channels of the convolution, shared by all tasks, that attended features pass on their way: after the
            mask in a "down" stage, before it in an "up" stage.
        resample: "down": attended features are max-pooled by 2 after the stage; "up": they are doubled before it.
    """

    name: str
    look: Float[Array, "b h w c"]
    gate: Float[Array, "b h w d"]
    features: int
    resample: Literal["down", "up"]
