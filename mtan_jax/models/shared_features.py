"""The features that all tasks share, as something that losses can be differentiated with respect to."""

from collections.abc import Sequence
from typing import Any, TypeVar

import jax
from flax import linen as nn
from jaxtyping import Array, Float

Tree = TypeVar("Tree")


def hand_over(module: nn.Module, tasks: Sequence[Any], features: Tree) -> Tree:
    """Marks what is shared where it is handed to that which belongs to single tasks.

    Where the collection "perturbations" is given, its arrays (zeros) are added: a gradient with respect to them is one
    with respect to the features. What the backbone itself goes on with must not be the result of this function.

    Args:
        module: the network, in whose call this stands once.
        tasks: that read the features. One task shares nothing, and nothing is marked.
        features: a pytree of arrays [b, ...].

    Returns:
        The features; the very same arrays where the collection is not given.
    """
    if module.is_initializing() or len(tasks) < 2:
        return features
    leaves, structure = jax.tree.flatten(features)
    distinct = {id(leaf): leaf for leaf in leaves}  # a block may show one array as `look` and as `gate`
    handed = dict(zip(distinct, module.perturb("features", tuple(distinct.values())), strict=True))
    return jax.tree.unflatten(structure, [handed[id(leaf)] for leaf in leaves])


def abstract_features(model: nn.Module, variables: Any, image: Float[Array, "b h w 3"]) -> dict[str, Any]:
    """Shapes and types of what `hand_over` marks in a network.

    Args:
        model: the network.
        variables: of the network; shapes would do.
        image: the images; shapes would do.

    Returns:
        The collection "perturbations" under its name; {} where the network's tasks share no features.
    """

    def collect(variables: Any, image: Float[Array, "b h w 3"]) -> Any:
        return model.apply(variables, image, train=False, mutable=["perturbations"])[1]

    return dict(jax.eval_shape(collect, variables, image))
