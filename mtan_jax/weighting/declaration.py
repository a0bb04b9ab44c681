"""The declaration that a weighting method carries: its kind, and its needs beyond losses and pullback."""

from collections.abc import Callable
from typing import Literal, NamedTuple, TypeVar

import optax

Kind = Literal["balancer", "gradient_method", "wrapper"]
# Called as method(tasks, **options); a wrapper as method(tasks, inner, **options).
Method = Callable[..., optax.GradientTransformationExtraArgs]
DeclaredMethod = TypeVar("DeclaredMethod", bound=Method)

_ATTRIBUTE = "__weighting_declaration__"


class Needs(NamedTuple):
    """The fields of `TaskGradients` that a training step fills in only on request.

    Attributes:
        second_batch: `TaskGradients.second_losses_at`.
        indicators: `TaskGradients.indicators`, for every task.
        features: `TaskGradients.feature_pullback`.
    """

    second_batch: bool
    indicators: bool
    features: bool


class Declaration(NamedTuple):
    """Kind and needs of a weighting method; see `declare`."""

    kind: Kind
    needs: Needs


def declare(
    kind: Kind, *, second_batch: bool = False, indicators: bool = False, features: bool = False
) -> Callable[[DeclaredMethod], DeclaredMethod]:
    """Declares the kind and the needs of a weighting method, as a decorator on its factory.

    A function without a declaration counts as a balancer, or as a gradient method if its state has a field
    `task_weights`.

    Args:
        kind: one of

            - "balancer": `method(tasks, **options)` scales the losses and returns `TaskGradients`.
            - "gradient_method": `method(tasks, **options)` returns a gradient. It takes the place of `sum_tasks` and
              comes last.
            - "wrapper": `method(tasks, inner, **options)` wraps the rest of the chain, `inner`.
        second_batch: whether the method reads `TaskGradients.second_losses_at`.
        indicators: whether it reads `TaskGradients.indicators`.
        features: whether it calls `TaskGradients.feature_gradient`. A method with an option `wrt` need not declare
            this: it needs features if that option is "features".

    Raises:
        ValueError: unknown kind.

    Example:
        >>> from mtan_jax.weighting import declare, sum_tasks
        >>> @declare("gradient_method", indicators=True)
        ... def my_method(tasks, *, strength=1.0):
        ...     return sum_tasks(tasks)
    """
    if kind not in ("balancer", "gradient_method", "wrapper"):
        raise ValueError(f"unknown kind of weighting method {kind!r}; known: balancer, gradient_method, wrapper")

    def attach(method: DeclaredMethod) -> DeclaredMethod:
        setattr(method, _ATTRIBUTE, Declaration(kind, Needs(second_batch, indicators, features)))
        return method

    return attach


def declaration_of(method: Method) -> Declaration | None:
    """The declaration of a method, also through `functools.partial`; None if it has none."""
    while not hasattr(method, _ATTRIBUTE) and hasattr(method, "func"):
        method = method.func
    found: Declaration | None = getattr(method, _ATTRIBUTE, None)
    return found
