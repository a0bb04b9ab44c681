"""Gradients of losses with respect to the features that all tasks share."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TypeVar

import jax
from flax import linen as nn
from jaxtyping import Array, Float, PyTree

from mtan_jax.models.stage import Stage
from mtan_jax.types import Variables

Tree = TypeVar("Tree")

COLLECTION = "perturbations"


def hand_over(module: nn.Module, tasks: Sequence[object], features: Tree) -> Tree:
    """Marks shared features, so that losses can be differentiated with respect to them.

    If the variables contain the collection "perturbations" (zeros), its arrays are added to the features; a gradient
    with respect to them is one with respect to the features. Only task-specific modules may read the returned features:
    the backbone must continue with the original ones.

    Args:
        module: the network; it must call this function once.
        tasks: the tasks that read the features. With fewer than two, nothing is shared and nothing is marked.
        features: a pytree of arrays [b, ...].

    Returns:
        The features; without the collection, the same arrays.
    """
    if module.is_initializing() or len(tasks) < 2:
        return features
    leaves, structure = jax.tree.flatten(features)
    distinct = {id(leaf): leaf for leaf in leaves}  # a stage may have one array as `look` and as `gate`
    handed = dict(zip(distinct, module.perturb("features", tuple(distinct.values())), strict=True))
    return jax.tree.unflatten(structure, [handed[id(leaf)] for leaf in leaves])


def hand_over_stages(module: nn.Module, tasks: Sequence[object], stages: Mapping[str, Stage]) -> dict[str, Stage]:
    """Applies `hand_over` to the features of all stages."""
    features = hand_over(module, tasks, {name: (stage.look, stage.gate) for name, stage in stages.items()})
    return {
        name: dataclasses.replace(stage, look=features[name][0], gate=features[name][1])
        for name, stage in stages.items()
    }


def abstract_features(
    model: nn.Module, variables: Variables, image: Float[Array, "b h w 3"] | jax.ShapeDtypeStruct
) -> dict[str, PyTree]:
    """Returns the shapes and types of the features that a network marks with `hand_over`.

    Args:
        model: the network.
        variables: of the network; shapes are enough.
        image: the images; a shape is enough.

    Returns:
        {"perturbations": shapes}; {} if the network's tasks share no features.
    """

    def collect(variables: Variables, image: Float[Array, "b h w 3"]) -> PyTree:
        return model.apply(variables, image, train=False, mutable=[COLLECTION])[1]

    return dict(jax.eval_shape(collect, variables, image))
