"""FairGrad."""

from collections.abc import Sequence

import optax
from jaxtyping import Array, Float

from mtan_jax.weighting.backward import Backward
from mtan_jax.weighting.declaration import declare
from mtan_jax.weighting.gradients import weighted
from mtan_jax.weighting.option_checks import check_number
from mtan_jax.weighting.shared_parameters import Shared
from mtan_jax.weighting.solvers import fair_weights
from mtan_jax.weighting.stack import Stack


@declare("gradient_method")
def fairgrad(
    tasks: Sequence[str],
    *,
    alpha: float = 2.0,
    shared: Shared = "auto",
    backward: Backward = "together",
) -> optax.GradientTransformationExtraArgs:
    """FairGrad (Ban and Ji, "Fair resource allocation in multi-task learning", ICML 2024): alpha-fair updates.

    Equation: G w = w^(-1/alpha), elementwise, with the Gram matrix G (equation 4); alpha = 1 gives Nash-MTL. The
    authors use SciPy's nonlinear least squares, `solvers.fair_weights` Newton's method. As in their code, all
    parameters, including the heads, are trained on sum_i w_i L_i.

    Args:
        tasks: task names.
        alpha: fairness; larger values give more weight to the task that improves least. The authors use 2 on NYUv2 and
            Cityscapes.
        shared: the parameters that the method acts on; see `mtan_jax.weighting.gradients.combined`.
        backward: "together", "one_by_one" or "gram"; see `mtan_jax.weighting.gradients.weighted`.

    Raises:
        ValueError: an option is out of range.

    Example:
        >>> import optax
        >>> from mtan_jax.weighting import fairgrad
        >>> tx = optax.chain(fairgrad(("semantic", "depth")), optax.adam(1e-4))
    """
    alpha = check_number("fairgrad", "alpha", alpha, above=0)

    def weigh(stack: Stack, state: optax.EmptyState) -> tuple[Float[Array, "t"], optax.EmptyState]:
        return fair_weights(stack.gram, stack.present, 1 / alpha), state

    return weighted(
        "fairgrad", tasks, optax.EmptyState, weigh, shared=shared, backward=backward, task_specific="weighted"
    )
