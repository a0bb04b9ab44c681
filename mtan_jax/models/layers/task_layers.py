"""Layers of networks in which each image belongs to one task: what tasks share, and what each has for itself.

Features are [g, b, h, w, c]: g groups of b images, all images of a group of one task; `tasks` [g] says of which. What
belongs to single tasks is one array with a leading axis over all tasks, under a name that begins with "own_", so what
is computed does not depend on their number. What training must not change is in the collection "frozen", which no
optimiser and no gradient sees.
"""

import zlib
from collections.abc import Callable, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Int

from mtan_jax.models.layers.batch_norm import BATCH_NORM_MOMENTUM, Activation, normalise, normalise_batch
from mtan_jax.models.numerics import FLOAT32, Numerics
from mtan_jax.models.ops.convolution import convolve
from mtan_jax.weighting.sharing import TASK_AXIS_PREFIX

FROZEN = "frozen"

he_normal = nn.initializers.variance_scaling(2.0, "fan_out", "normal")

Kernel = Float[Array, "k k c d"]
Kernels = Float[Array, "g k k c d"]
Groups = Float[Array, "g b h w c"]


class TaskLayer(nn.Module):
    """What the layers here share.

    Attributes:
        tasks: names of all tasks.
        numerics: see there.
    """

    tasks: tuple[str, ...]
    numerics: Numerics = FLOAT32

    def own(self, name: str, init: Any, *shape: int) -> Float[Array, "t ..."]:
        """A parameter for each task: its initial values depend on the task's name and on no other task."""

        def init_each(key: Array, shape: Sequence[int], dtype: Any) -> Array:
            keys = [jax.random.fold_in(key, zlib.crc32(task.encode())) for task in self.tasks]
            return jnp.stack([init(key, shape, dtype) for key in keys])

        return self.param(TASK_AXIS_PREFIX + name, init_each, shape, self.numerics.param_dtype)

    def shared(self, name: str, init: Any, *shape: int) -> Float[Array, "..."]:
        """A parameter that all tasks share."""
        return self.param(name, init, shape, self.numerics.param_dtype)

    def frozen(self, name: str, init: Any, *shape: int) -> Float[Array, "..."]:
        """An array that training leaves as it is."""

        def make() -> Array:
            return init(self.make_rng("params"), shape, self.numerics.param_dtype)

        return self.variable(FROZEN, name, make).value


class TaskNorm(TaskLayer):
    """Batch normalisation, and an activation: moments a group, running statistics a task.

    Features of different tasks have different statistics, so running averages over all tasks would suit none.

    Attributes:
        parameters: whether the tasks share scale and offset ("shared"), each has its own ("own"), or nothing is
            trained and the statistics stay too, in training as well ("frozen").
        momentum: share of the old in the running statistics.
        activation: what follows.
    """

    parameters: Literal["shared", "own", "frozen"] = "shared"
    momentum: float = BATCH_NORM_MOMENTUM
    activation: Activation = None

    @nn.compact
    def __call__(self, x: Groups, tasks: Int[Array, "g"], *, train: bool) -> Groups:
        channels, dtype = x.shape[-1], self.numerics.param_dtype
        zeros, ones = nn.initializers.zeros, nn.initializers.ones
        if self.parameters == "frozen":
            scale, bias = self.frozen("scale", ones, channels), self.frozen("bias", zeros, channels)
            moments = self.frozen("mean", zeros, channels), self.frozen("var", ones, channels)
            fixed = [value[None] for value in (*moments, scale, bias)]
            return normalise(x, fixed[0], fixed[1], fixed[2], fixed[3], self.activation)
        if self.parameters == "own":
            scale, bias = self.own("scale", ones, channels)[tasks], self.own("bias", zeros, channels)[tasks]
        else:
            scale, bias = self.shared("scale", ones, channels)[None], self.shared("bias", zeros, channels)[None]
        shape = (len(self.tasks), channels)
        mean = self.variable("batch_stats", TASK_AXIS_PREFIX + "mean", jnp.zeros, shape, dtype)
        variance = self.variable("batch_stats", TASK_AXIS_PREFIX + "var", jnp.ones, shape, dtype)
        if not train:
            return normalise(x, mean.value[tasks], variance.value[tasks], scale, bias, self.activation)
        initialising = self.is_initializing()
        y, found = normalise_batch(x, scale, bias, None if initialising else self.numerics.axis_name, self.activation)
        if not initialising:
            for running, new in zip((mean, variance), found, strict=True):
                mixed = self.momentum * running.value[tasks] + (1 - self.momentum) * new
                running.value = jnp.asarray(running.value).at[tasks].set(mixed.astype(dtype))
        return y


class TaskConv(TaskLayer):
    """A convolution, padded by half its size; subclasses say what of it belongs to whom.

    Attributes:
        features: channels of the output.
        kernel_size: height and width of the kernel.
        stride: of height and width.
    """

    features: int = 0
    kernel_size: int = 3
    stride: int = 1

    def kernel_shape(self, x: Groups) -> tuple[int, int, int, int]:
        """Shape of the kernel for an input."""
        return (self.kernel_size, self.kernel_size, x.shape[-1], self.features)

    def convolve(self, x: Groups, kernel: Kernel) -> Groups:
        """All groups with one kernel."""
        flat = convolve(x.reshape(-1, *x.shape[2:]), kernel.astype(x.dtype), stride=self.stride)
        return flat.reshape(*x.shape[:2], *flat.shape[1:])

    def convolve_frozen(self, x: Groups) -> Groups:
        """All groups with a frozen kernel and bias."""
        kernel = self.frozen("kernel", he_normal, *self.kernel_shape(x))
        return _add(self.convolve(x, kernel), self.frozen("bias", nn.initializers.zeros, self.features))

    def convolve_each(self, x: Groups, kernels: Kernels) -> Groups:
        """Each group with a kernel of its own."""
        # One by one: a batched convolution becomes a grouped one, which XLA for CPUs runs many times slower.
        outputs = [convolve(x[i], kernels[i].astype(x.dtype), stride=self.stride) for i in range(x.shape[0])]
        return jnp.stack(outputs)


def _pointwise(x: Groups, kernels: Float[Array, "g c d"]) -> Groups:
    return jnp.einsum("gbhwc,gcd->gbhwd", x, kernels.astype(x.dtype))


def _add(x: Groups, bias: Float[Array, "*g c"]) -> Groups:
    return x + jnp.expand_dims(jnp.atleast_2d(bias), (1, 2, 3)).astype(x.dtype)


class SharedConv(TaskConv):
    """All tasks share kernel and bias."""

    @nn.compact
    def __call__(self, x: Groups, tasks: Int[Array, "g"]) -> Groups:
        del tasks
        kernel = self.shared("kernel", he_normal, *self.kernel_shape(x))
        return _add(self.convolve(x, kernel), self.shared("bias", nn.initializers.zeros, self.features))


class OwnConv(TaskConv):
    """Each task has a kernel and a bias of its own: networks side by side."""

    @nn.compact
    def __call__(self, x: Groups, tasks: Int[Array, "g"]) -> Groups:
        kernels = self.own("kernel", he_normal, *self.kernel_shape(x))[tasks]
        return _add(self.convolve_each(x, kernels), self.own("bias", nn.initializers.zeros, self.features)[tasks])


class FrozenConv(TaskConv):
    """Kernel and bias are never trained."""

    @nn.compact
    def __call__(self, x: Groups, tasks: Int[Array, "g"]) -> Groups:
        del tasks
        return self.convolve_frozen(x)


class SeriesConv(TaskConv):
    """A frozen convolution f followed by a residual adapter of the task's own: f(x) + A_t f(x), A_t of 1x1.

    Rebuffi, Bilen, Vedaldi 2018 (Efficient parametrization of multi-domain deep neural networks), equation (2). A_t
    begins at 0, as the network that is adapted.
    """

    @nn.compact
    def __call__(self, x: Groups, tasks: Int[Array, "g"]) -> Groups:
        y = self.convolve_frozen(x)
        adapters = self.own("adapter", nn.initializers.zeros, self.features, self.features)[tasks]
        return y + _pointwise(y, adapters)


class ParallelConv(TaskConv):
    """A frozen convolution f with a residual adapter of the task's own beside it: f(x) + A_t x, A_t of 1x1.

    Rebuffi, Bilen, Vedaldi 2018, equation (3). A_t begins at 0, as the network that is adapted.
    """

    @nn.compact
    def __call__(self, x: Groups, tasks: Int[Array, "g"]) -> Groups:
        y = self.convolve_frozen(x)
        adapters = self.own("adapter", nn.initializers.zeros, x.shape[-1], self.features)[tasks]
        return y + _pointwise(x[:, :, :: self.stride, :: self.stride], adapters)


class CombinedConv(TaskConv):
    """Each task's filters are linear combinations of the frozen ones: Deep Adaptation Networks.

    Rosenfeld, Tsotsos 2018 (Incremental learning through deep adaptation), equation (1): F_t = W_t F, with a bias of
    the task's own. W_t begins as the identity.
    """

    @nn.compact
    def __call__(self, x: Groups, tasks: Int[Array, "g"]) -> Groups:
        kernel = self.frozen("kernel", he_normal, *self.kernel_shape(x))
        combinations = self.own("combination", _identity, self.features, self.features)[tasks]
        # The filters are combined in place of the features: the same, at the cost of a kernel.
        kernels = jnp.einsum("hwcd,gde->ghwce", kernel, combinations)
        return _add(self.convolve_each(x, kernels), self.own("bias", nn.initializers.zeros, self.features)[tasks])


MASK_START, MASK_THRESHOLD = 1e-2, 5e-3


class MaskedConv(TaskConv):
    """Each task uses some of the frozen weights: Piggyback.

    Mallya, Davis, Lazebnik 2018 (Piggyback: adapting a single network to multiple tasks by learning to mask weights):
    a weight is kept where a real number of the task's own exceeds `MASK_THRESHOLD`; the numbers begin at `MASK_START`
    and get the gradient of the mask ("straight through"). What is needed of them after training is one bit a weight.
    """

    @nn.compact
    def __call__(self, x: Groups, tasks: Int[Array, "g"]) -> Groups:
        kernel = self.frozen("kernel", he_normal, *self.kernel_shape(x))
        scores = self.own("scores", nn.initializers.constant(MASK_START), *self.kernel_shape(x))[tasks]
        y = self.convolve_each(x, kernel[None] * binary_mask(scores))
        return _add(y, self.frozen("bias", nn.initializers.zeros, self.features))


@jax.custom_vjp
def binary_mask(scores: Float[Array, "..."]) -> Float[Array, "..."]:
    """1 where a score exceeds `MASK_THRESHOLD`, else 0; the gradient passes as if it were the identity."""
    return (scores > MASK_THRESHOLD).astype(scores.dtype)


binary_mask.defvjp(lambda scores: (binary_mask(scores), None), lambda _, cotangent: (cotangent,))


def _identity(key: Array, shape: Sequence[int], dtype: Any) -> Array:
    del key
    rows, columns = shape
    return jnp.eye(rows, columns, dtype=dtype)


class TaskConvNorm(TaskLayer):
    """Convolution, BatchNorm with statistics a task, ReLU; all tasks share the parameters."""

    features: int = 0

    @nn.compact
    def __call__(self, x: Groups, *, train: bool, tasks: Int[Array, "g"]) -> Groups:
        x = SharedConv(self.tasks, self.numerics, self.features, name="conv")(x, tasks)
        return TaskNorm(self.tasks, self.numerics, activation="relu", name="norm")(x, tasks, train=train)


Conv = Callable[..., TaskConv]
