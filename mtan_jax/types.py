"""Types that several parts of the package share. Imports nothing else of the package."""

from collections.abc import Callable, Generator, Mapping, Sequence
from typing import Any, Literal, NotRequired, Protocol, TypeAlias, TypedDict

import jax
import numpy as np
from jaxtyping import Array, Bool, Float, Int32, PyTree, Shaped

ArrayLike: TypeAlias = Array | np.ndarray
Path: TypeAlias = tuple[str, ...]  # of a variable: (collection, *modules, name), or without the collection
Params: TypeAlias = PyTree  # nested dictionaries of arrays, by module and name
Variables: TypeAlias = dict[str, PyTree]  # by collection: "params", "batch_stats", "frozen"
Shape: TypeAlias = jax.ShapeDtypeStruct
SumAndCount: TypeAlias = tuple[Float[Array, ""], Float[Array, ""]]  # their quotient is a mean
EvalProtocol: TypeAlias = Literal["exact", "authors"]
# Values of a configuration, of TFDS features and of JSON: anything that these libraries accept.
Options: TypeAlias = Mapping[str, Any]


class Batch(TypedDict):
    """Examples as the steps take them; b rows per device or in all, by context.

    Attributes:
        image: pixels in 0..1; [b, size, size, 3], normalised, for images of single tasks.
        targets: by target name; undefined pixels are -1 in class maps and 0 over all channels elsewhere.
        labelled: by target name, whether a row has a label.
        weight: 0 for rows that pad the last batch of an evaluation, else 1.
        task: for images of single tasks, the index of each row's task.
        second: for methods that learn from a second batch, one of the same form.
        id: on the host only, the original id of each example.
    """

    image: Float[ArrayLike, "b h w 3"]
    targets: dict[str, ArrayLike]
    labelled: dict[str, Bool[ArrayLike, "b"]]
    weight: Float[ArrayLike, "b"]
    task: NotRequired[Int32[ArrayLike, "b"]]
    second: NotRequired["Batch"]
    id: NotRequired[Sequence[str] | Shaped[np.ndarray, "b"]]


Batches: TypeAlias = Generator[Batch, None, None]  # closing one ends its threads or worker processes
AbstractBatch: TypeAlias = dict[str, PyTree]  # a `Batch` with shapes and types in place of arrays


class Loss(Protocol):
    """A task's loss: the sum over the labelled pixels, and their number."""

    def __call__(
        self, prediction: Float[Array, "b *hw c"], target: Array, labelled: Bool[Array, "b"]
    ) -> SumAndCount: ...


class Schedule(Protocol):
    """A number as a function of the step, as in optax."""

    def __call__(self, count: Any, /) -> Any: ...


Initializer: TypeAlias = Callable[[jax.Array, tuple[int, ...], Any], Array]
