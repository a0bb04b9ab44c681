"""The parts of an attention module: masks, and the feature extractors between stages (Liu et al. 2019, section 3.2)."""

from collections.abc import Iterable

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Int

from mtan_jax.models import ops
from mtan_jax.models.layers.conv import ConvNorm
from mtan_jax.models.numerics import FLOAT32, Numerics
from mtan_jax.models.stage import Stage


class AttentionMask(nn.Module):
    """The mask of one task at one stage, in 0..1 (equation 2 of the paper).

    The mask is sigmoid(BN(W' relu(BN(W [u ; f(a)])))), where W is the 1x1 convolution of g and W' that of h (see
    `MTAN`).

    Attributes:
        hidden: channels between the two layers.
        features: channels of the mask.
        numerics: of both layers.
    """

    hidden: int
    features: int
    numerics: Numerics = FLOAT32

    @nn.compact
    def __call__(
        self, look: Float[Array, "b h w c"], attended: Float[Array, "b h w e"] | None, *, train: bool
    ) -> Float[Array, "b h w d"]:
        """Computes the mask.

        Args:
            look: u, features of the shared network.
            attended: f(a), computed from the task's attended features of the previous stage, with the height and width
                of `look`; None at the first stage.
            train: whether this is training.
        """
        inputs = [look] if attended is None else [look, attended]
        x = ConvNorm(self.hidden, 1, activation="relu", numerics=self.numerics, name="hidden")(inputs, train=train)
        return ConvNorm(self.features, 1, activation="sigmoid", numerics=self.numerics, name="output")(x, train=train)


class TaskAttention(nn.Module):
    """The masks of one task at all stages, each named after its stage."""

    numerics: Numerics = FLOAT32

    @nn.compact
    def __call__(
        self, name: str, stage: Stage, attended: Float[Array, "b h w e"] | None, *, train: bool
    ) -> Float[Array, "b h w d"]:
        """Computes the mask at the stage of this name; call it once per stage."""
        mask = AttentionMask(stage.hidden, stage.gate.shape[-1], self.numerics, name=name)
        return mask(stage.look, attended, train=train)


class SharedExtractor:
    """f: the feature extractor that all tasks share between two stages, and the change of resolution there.

    It runs after the mask, or before the mask if the stage doubles the resolution. Its BatchNorms see each task's
    features in turn, as in the authors' code. Create it in a compact method: its module is named `shared_<stage>`.

    Args:
        name: the stage's name.
        stage: holds the shared module and the change of resolution.
        train: whether this is training.
        tasks: for features [g, b, h, w, c], the task index of each group of images. None for features [b, h, w, c].

    Raises:
        ValueError: attended features have another height or width than the stage, or `shared_pools` is set but the
            shared module does not pool.
    """

    def __init__(self, name: str, stage: Stage, *, train: bool, tasks: Int[Array, "g"] | None = None):
        self._name, self._stage, self._train, self._tasks = name, stage, train, tasks
        self._module = stage.shared(name=f"shared_{name}") if stage.shared else None

    def before_mask(self, attended: Float[Array, "*g b h w e"] | None) -> Float[Array, "*g b H W d"] | None:
        """Brings the attended features of the previous stage to this stage's resolution."""
        if attended is None:
            return None
        if self._stage.resample == "up":
            attended = self._extract(ops.upsample(attended))
        if attended.shape[-3:-1] != self._stage.look.shape[-3:-1]:
            raise ValueError(
                f"stage {self._name!r} is {_size(self._stage.look)}, but the attended features from the previous stage "
                f"are {_size(attended)}; set resample='down' if the next stage has half the size of this one, "
                "resample='up' if this stage has double the size of the previous one, and shared_pools=True if "
                "`shared` pools"
            )
        return attended

    def after_mask(self, attended: Float[Array, "*g b h w e"]) -> Float[Array, "*g b H W d"]:
        """Extracts features for the next stage, at half the resolution if the stage says "down"."""
        if self._stage.resample != "up":
            attended = self._extract(attended)
        if self._stage.shared_pools and attended.shape[-3] == self._stage.look.shape[-3]:
            raise ValueError(
                f"stage {self._name!r} has shared_pools=True, but its shared module keeps the size "
                f"{_size(self._stage.look)}; let it pool, as ConvNorm(pool=True) does"
            )
        if self._stage.resample == "down" and not self._stage.shared_pools:
            attended, _ = ops.max_pool(attended)
        return attended

    def _extract(self, x: Float[Array, "*g b h w e"]) -> Float[Array, "*g b H W d"]:
        if self._module is None:
            return x
        if self._tasks is not None:
            grouped: Array = self._module(x, train=self._train, tasks=self._tasks)
            return grouped
        extracted: Array = self._module(x[None], train=self._train)[0]
        return extracted


def sow_masks(module: nn.Module, stage: str, masks: Iterable[Float[Array, "b h w d"]]) -> None:
    """Stores a stage's masks [t, b, h, w, d] under its name in the collection "masks", if that is mutable."""
    if module.is_mutable_collection("masks"):
        module.sow("masks", stage, jnp.stack(list(masks)), reduce_fn=lambda _, new: new, init_fn=lambda: None)


def _size(x: Float[Array, "*n h w c"]) -> str:
    return "x".join(map(str, x.shape[-3:-1]))
