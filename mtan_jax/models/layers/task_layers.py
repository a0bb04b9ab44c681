"""Layers of networks in which each image belongs to one task, with parameters shared between tasks or per task.

Features are [g, b, h, w, c]: g groups of b images, where all images of a group belong to one task; `tasks` [g] holds
each group's task index. Per-task parameters are one array with a leading axis over all tasks, named "own_...", so the
number of operations does not depend on the number of tasks. Parameters that are not trained are in the collection
"frozen", which neither gradients nor optimizers see.
"""

import zlib
from collections.abc import Sequence
from typing import Literal

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from mtan_jax.models import ops
from mtan_jax.models.layers.batch_norm import MOMENTUM
from mtan_jax.models.numerics import FLOAT32, Numerics
from mtan_jax.types import Initializer
from mtan_jax.weighting.sharing import TASK_AXIS_PREFIX

FROZEN = "frozen"

he_normal = nn.initializers.variance_scaling(2.0, "fan_out", "normal")

Kernel = Float[Array, "k k c d"]
Kernels = Float[Array, "g k k c d"]
Groups = Float[Array, "g b h w c"]


class TaskLayer(nn.Module):
    """Base of the layers here: makes per-task, shared and frozen parameters.

    Attributes:
        tasks: names of all tasks.
        numerics: types, and devices over which BatchNorm computes moments.
    """

    tasks: tuple[str, ...]
    numerics: Numerics = FLOAT32

    def own(self, name: str, init: Initializer, *shape: int) -> Float[Array, "t ..."]:
        """A parameter per task. Its initial values depend on the task's name and on no other task."""

        def init_each(key: Array, shape: tuple[int, ...], dtype: DTypeLike) -> Array:
            keys = [jax.random.fold_in(key, zlib.crc32(task.encode())) for task in self.tasks]
            return jnp.stack([init(key, shape, dtype) for key in keys])

        parameter: Array = self.param(TASK_AXIS_PREFIX + name, init_each, shape, self.numerics.param_dtype)
        return parameter

    def shared(self, name: str, init: Initializer, *shape: int) -> Float[Array, "..."]:
        """A parameter shared by all tasks."""
        parameter: Array = self.param(name, init, shape, self.numerics.param_dtype)
        return parameter

    def frozen(self, name: str, init: Initializer, *shape: int) -> Float[Array, "..."]:
        """An array that training does not change."""

        def make() -> Array:
            return init(self.make_rng("params"), shape, self.numerics.param_dtype)

        value: Array = self.variable(FROZEN, name, make).value
        return value


class TaskNorm(TaskLayer):
    """Batch normalization with moments per group and running statistics per task, and an activation.

    Features of different tasks have different statistics, so running averages over all tasks would fit none of them.

    Attributes:
        parameters: "shared": tasks share scale and bias; "own": scale and bias per task; "frozen": scale, bias and
            statistics are constants, in training too.
        momentum: weight of the old value in the running statistics.
        activation: applied to the normalized features.
    """

    parameters: Literal["shared", "own", "frozen"] = "shared"
    momentum: float = MOMENTUM
    activation: ops.Activation = None

    @nn.compact
    def __call__(self, x: Groups, tasks: Int[Array, "g"], *, train: bool) -> Groups:
        channels, dtype = x.shape[-1], self.numerics.param_dtype
        zeros, ones = nn.initializers.zeros, nn.initializers.ones
        if self.parameters == "frozen":
            scale, bias = self.frozen("scale", ones, channels), self.frozen("bias", zeros, channels)
            moments = self.frozen("mean", zeros, channels), self.frozen("var", ones, channels)
            fixed = [value[None] for value in (*moments, scale, bias)]
            return ops.normalize(x, fixed[0], fixed[1], fixed[2], fixed[3], self.activation)
        if self.parameters == "own":
            scale, bias = self.own("scale", ones, channels)[tasks], self.own("bias", zeros, channels)[tasks]
        else:
            scale, bias = self.shared("scale", ones, channels)[None], self.shared("bias", zeros, channels)[None]
        shape = (len(self.tasks), channels)
        mean = self.variable("batch_stats", TASK_AXIS_PREFIX + "mean", jnp.zeros, shape, dtype)
        variance = self.variable("batch_stats", TASK_AXIS_PREFIX + "var", jnp.ones, shape, dtype)
        if not train:
            return ops.normalize(x, mean.value[tasks], variance.value[tasks], scale, bias, self.activation)
        axis_name = None if self.is_initializing() else self.numerics.axis_name
        y, found = ops.normalize_batch(x, scale, bias, axis_name, self.activation)
        if not self.is_initializing():
            for running, new in zip((mean, variance), found, strict=True):
                mixed = self.momentum * running.value[tasks] + (1 - self.momentum) * new
                running.value = jnp.asarray(running.value).at[tasks].set(mixed.astype(dtype))
        return y


class TaskConv(TaskLayer):
    """Base of convolutions, padded by half the kernel's size; subclasses decide which parameters are per task.

    Attributes:
        features: channels of the output.
        kernel_size: height and width of the kernel.
        stride: in both directions.
    """

    features: int = 0
    kernel_size: int = 3
    stride: int = 1

    def __call__(self, x: Groups, tasks: Int[Array, "g"]) -> Groups:
        """Convolves each group with its task's kernel."""
        raise NotImplementedError

    def kernel_shape(self, x: Groups) -> tuple[int, int, int, int]:
        """Returns the kernel's shape for an input."""
        return (self.kernel_size, self.kernel_size, x.shape[-1], self.features)

    def convolve(self, x: Groups, kernel: Kernel) -> Groups:
        """Convolves all groups with one kernel."""
        flat = ops.conv(x.reshape(-1, *x.shape[2:]), kernel.astype(x.dtype), stride=self.stride)
        return flat.reshape(*x.shape[:2], *flat.shape[1:])

    def convolve_frozen(self, x: Groups) -> Groups:
        """Convolves all groups with a frozen kernel and adds a frozen bias."""
        kernel = self.frozen("kernel", he_normal, *self.kernel_shape(x))
        return ops.add_bias(self.convolve(x, kernel), self.frozen("bias", nn.initializers.zeros, self.features))

    def convolve_each(self, x: Groups, kernels: Kernels) -> Groups:
        """Convolves each group with a kernel of its own."""
        # One by one: a batched convolution becomes a grouped one, which XLA for CPUs runs many times slower.
        outputs = [ops.conv(x[i], kernels[i].astype(x.dtype), stride=self.stride) for i in range(x.shape[0])]
        return jnp.stack(outputs)


def _pointwise(x: Groups, kernels: Float[Array, "g c d"]) -> Groups:
    return jnp.einsum("gbhwc,gcd->gbhwd", x, kernels.astype(x.dtype))


class SharedConv(TaskConv):
    """All tasks share kernel and bias."""

    @nn.compact
    def __call__(self, x: Groups, tasks: Int[Array, "g"]) -> Groups:
        del tasks
        kernel = self.shared("kernel", he_normal, *self.kernel_shape(x))
        return ops.add_bias(self.convolve(x, kernel), self.shared("bias", nn.initializers.zeros, self.features))


class OwnConv(TaskConv):
    """A kernel and a bias per task, as in separate networks."""

    @nn.compact
    def __call__(self, x: Groups, tasks: Int[Array, "g"]) -> Groups:
        kernels = self.own("kernel", he_normal, *self.kernel_shape(x))[tasks]
        return ops.add_bias(
            self.convolve_each(x, kernels), self.own("bias", nn.initializers.zeros, self.features)[tasks]
        )


class FrozenConv(TaskConv):
    """Kernel and bias are not trained."""

    @nn.compact
    def __call__(self, x: Groups, tasks: Int[Array, "g"]) -> Groups:
        del tasks
        return self.convolve_frozen(x)


class SeriesConv(TaskConv):
    """A frozen convolution f followed by a per-task residual adapter: f(x) + A_t f(x), where A_t is 1x1.

    Rebuffi, Bilen, Vedaldi 2018 (Efficient parametrization of multi-domain deep neural networks), equation (2). A_t
    starts at 0, so the network initially equals the pretrained one.
    """

    @nn.compact
    def __call__(self, x: Groups, tasks: Int[Array, "g"]) -> Groups:
        y = self.convolve_frozen(x)
        adapters = self.own("adapter", nn.initializers.zeros, self.features, self.features)[tasks]
        return y + _pointwise(y, adapters)


class ParallelConv(TaskConv):
    """A frozen convolution f with a per-task residual adapter beside it: f(x) + A_t x, where A_t is 1x1.

    Rebuffi, Bilen, Vedaldi 2018, equation (3). A_t starts at 0, so the network initially equals the pretrained one.
    """

    @nn.compact
    def __call__(self, x: Groups, tasks: Int[Array, "g"]) -> Groups:
        y = self.convolve_frozen(x)
        adapters = self.own("adapter", nn.initializers.zeros, x.shape[-1], self.features)[tasks]
        return y + _pointwise(x[:, :, :: self.stride, :: self.stride], adapters)


class LowRankConv(TaskConv):
    """`ParallelConv` with adapters compressed across tasks: f(x) + A_t x, where A_t = F_t B.

    The tasks share the frozen basis B [r, d]; each task trains its factors F_t [c, r]. Rebuffi, Bilen, Vedaldi 2018,
    section 3.4; there alpha_t = A_t^T, beta = B^T and gamma_t = F_t. `mtan_jax.experiment.compression` computes both
    from trained adapters. The factors of a task that has none start at 0.

    Attributes:
        relative_rank: r / d, where d is the number of channels of the output.
    """

    relative_rank: float = 0.5

    @nn.compact
    def __call__(self, x: Groups, tasks: Int[Array, "g"]) -> Groups:
        y = self.convolve_frozen(x)
        rank = max(round(self.relative_rank * self.features), 1)
        factors = self.own("factor", nn.initializers.zeros, x.shape[-1], rank)[tasks]
        basis = self.frozen("basis", he_normal, rank, self.features)
        # Multiplying the matrices first stores no features of r channels for the backward pass.
        adapters = jnp.einsum("gcr,rd->gcd", factors, basis)
        return y + _pointwise(x[:, :, :: self.stride, :: self.stride], adapters)


class CombinedConv(TaskConv):
    """Per-task linear combinations of frozen filters: Deep Adaptation Networks.

    Rosenfeld, Tsotsos 2018 (Incremental learning through deep adaptation), equation (1): F_t = W_t F, with a bias per
    task. W_t starts as the identity.
    """

    @nn.compact
    def __call__(self, x: Groups, tasks: Int[Array, "g"]) -> Groups:
        kernel = self.frozen("kernel", he_normal, *self.kernel_shape(x))
        combinations = self.own("combination", _identity, self.features, self.features)[tasks]
        # Combining filters gives the same result as combining features, at a cost independent of the number of pixels.
        kernels = jnp.einsum("hwcd,gde->ghwce", kernel, combinations)
        return ops.add_bias(
            self.convolve_each(x, kernels), self.own("bias", nn.initializers.zeros, self.features)[tasks]
        )


MASK_START, MASK_THRESHOLD = 1e-2, 5e-3


class MaskedConv(TaskConv):
    """Per-task binary masks over frozen weights: Piggyback.

    Mallya, Davis, Lazebnik 2018 (Piggyback: adapting a single network to multiple tasks by learning to mask weights). A
    weight is used where the task's score exceeds `MASK_THRESHOLD`. Scores start at `MASK_START` and get the mask's
    gradient (straight-through estimator). After training, one bit per weight and task is needed.
    """

    @nn.compact
    def __call__(self, x: Groups, tasks: Int[Array, "g"]) -> Groups:
        kernel = self.frozen("kernel", he_normal, *self.kernel_shape(x))
        scores = self.own("scores", nn.initializers.constant(MASK_START), *self.kernel_shape(x))[tasks]
        y = self.convolve_each(x, kernel[None] * binary_mask(scores))
        return ops.add_bias(y, self.frozen("bias", nn.initializers.zeros, self.features))


@jax.custom_vjp
def binary_mask(scores: Float[Array, "..."]) -> Float[Array, "..."]:
    """1 where a score exceeds `MASK_THRESHOLD`, else 0. The gradient passes unchanged (straight-through estimator)."""
    return (scores > MASK_THRESHOLD).astype(scores.dtype)


def _mask_forward(scores: Array) -> tuple[Array, None]:
    return binary_mask(scores), None


def _mask_backward(kept: None, cotangent: Array) -> tuple[Array]:
    del kept
    return (cotangent,)


binary_mask.defvjp(_mask_forward, _mask_backward)


def _identity(key: Array, shape: Sequence[int], dtype: DTypeLike) -> Array:
    del key
    rows, columns = shape
    return jnp.eye(rows, columns, dtype=dtype)


class TaskConvNorm(TaskLayer):
    """Convolution, BatchNorm with statistics per task, ReLU; all tasks share the parameters."""

    features: int = 0

    @nn.compact
    def __call__(self, x: Groups, *, train: bool, tasks: Int[Array, "g"]) -> Groups:
        x = SharedConv(self.tasks, self.numerics, self.features, name="conv")(x, tasks)
        return TaskNorm(self.tasks, self.numerics, activation="relu", name="norm")(x, tasks, train=train)
