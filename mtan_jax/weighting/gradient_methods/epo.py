"""Exact Pareto optimal search."""

from collections.abc import Sequence

import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float

from mtan_jax.weighting.backward import Backward
from mtan_jax.weighting.declaration import declare
from mtan_jax.weighting.gradients import weighted
from mtan_jax.weighting.linear_program import maximize_on_simplex
from mtan_jax.weighting.numerics import nan_if_negative
from mtan_jax.weighting.option_checks import check_number, check_tasks
from mtan_jax.weighting.preferences import PerTask, per_task
from mtan_jax.weighting.shared_parameters import Shared
from mtan_jax.weighting.solvers import unit_size
from mtan_jax.weighting.stack import Stack

# A linear program whose constraints, divided by their largest coefficients, are missed by more has no solution.
_INFEASIBLE = 1e-3
# Where the losses fit the preferences exactly, Ga consists of rounding errors.
_ROUNDING = 100


@declare("gradient_method")
def epo(
    tasks: Sequence[str],
    *,
    preferences: PerTask | None = None,
    tolerance: float = 1e-4,
    shared: Shared = "auto",
    backward: Backward = "together",
) -> optax.GradientTransformationExtraArgs:
    """EPO, exact Pareto optimal search (Mahapatra and Rajan, ICML 2020): a Pareto optimum for given preferences.

    It is the Pareto optimum with r_1 L_1 = ... = r_K L_K: losses are inversely proportional to the preferences r. With
    shares p_i = r_i L_i / sum_j r_j L_j, the distance from it is mu = sum_i p_i log(K p_i), the divergence from uniform
    shares. The anchoring direction is a_i = r_i (log(K p_i) - mu), and G is the Gram matrix of the gradients. Each step
    solves a linear program over the simplex:

    - Balance, if mu > `tolerance`: maximize w'Ga. If some (Ga)_j > 0, the tasks with (Ga)_j <= 0 keep
      (Gw)_j >= (Ga)_j, and the tasks with the largest r_j L_j must not rise, (Gw)_j >= 0; other losses may rise.
      Otherwise all (Gw)_j >= 0.
    - Descent, otherwise: maximize the sum of Gw such that all (Gw)_j >= 0 and w'Ga >= min(0, max_j (Ga)_j).

    (The symbols are those of the authors' code.) As in that code, the weights are K w, all parameters including the
    heads are trained with them, and w = r / sum(r) if the program has no solution. The code calls GLPK. The
    interior-point method used here agrees with it to 1e-9 in float64 and 2e-3 in float32 where the solution is unique;
    see `linear_program.maximize_on_simplex`. Where the gradients nearly cancel, near the front, float32 determines w
    only roughly. The step length is not multiplied by 10 max(mu, 0.1), as in the authors' toy experiments.

    Losses must be positive; one of 0 counts as machine epsilon times the sum. Absent tasks have weight 0, and K
    counts the present ones.

    Args:
        tasks: task names.
        preferences: r, as a mapping from task to a positive number, or an array in the order of the tasks, which may be
            traced: `jax.vmap` over preferences trains several members at once. None: equal preferences.
        tolerance: mu below which steps descend on all tasks; the authors' default.
        shared: the parameters that the method acts on; see `mtan_jax.weighting.gradients.combined`.
        backward: "together", "one_by_one" or "gram"; see `mtan_jax.weighting.gradients.weighted`.

    Raises:
        ValueError: an option is out of range, or the preferences are not for exactly these tasks.

    Example:
        >>> import optax
        >>> from mtan_jax.weighting import epo
        >>> tx = optax.chain(epo(("semantic", "depth"), preferences={"semantic": 1.0, "depth": 4.0}), optax.adam(1e-4))
    """
    tasks = check_tasks(tasks)
    tolerance = check_number("epo", "tolerance", tolerance, above=0)
    wanted = jnp.ones(len(tasks)) if preferences is None else per_task("epo", "preferences", tasks, preferences)

    def weigh(stack: Stack, state: optax.EmptyState) -> tuple[Float[Array, "t"], optax.EmptyState]:
        gram = unit_size(stack.gram)
        losses, preferences = stack.losses.astype(gram.dtype), jnp.asarray(wanted, gram.dtype)
        weights = search(gram, losses, stack.present, preferences, tolerance)
        return nan_if_negative(weights, stack.losses, stack.present), state

    return weighted("epo", tasks, optax.EmptyState, weigh, shared=shared, backward=backward, task_specific="weighted")


def search(
    gram: Float[Array, "t t"],
    losses: Float[Array, "t"],
    present: Bool[Array, "t"],
    preferences: Float[Array, "t"],
    tolerance: float,
) -> Float[Array, "t"]:
    """The weights of one step of `epo`, which sum to the number of present tasks.

    Args:
        gram: G; 0 for absent tasks.
        losses: L.
        present: tasks that take part; the others have weight 0.
        preferences: r.
        tolerance: mu below which the step descends on all tasks.
    """
    count = present.sum()
    scaled = jnp.where(present, preferences * losses, 0)
    total = scaled.sum()
    shares = jnp.maximum(scaled / jnp.where(total > 0, total, 1), jnp.finfo(gram.dtype).eps)
    logarithms = jnp.where(present, jnp.log(shares * count), 0)
    distance = (shares * logarithms).sum(where=present)
    anchor = jnp.where(present, preferences * (logarithms - distance), 0)
    pull = gram @ anchor
    balances = distance > tolerance

    rises = present & (pull > 0)
    worst = present & (scaled == scaled.max())
    controlled = balances & rises.any()
    active = present & (~controlled | worst | ~rises)
    bounds = jnp.where(controlled & ~worst, pull, 0)
    # The last constraint is that of a descent step, w'Ga >= min(0, max_j (Ga)_j).
    least = jnp.minimum(jnp.where(present, pull, -jnp.inf).max(), 0)
    significant = jnp.abs(pull).max() > _ROUNDING * jnp.finfo(gram.dtype).eps * preferences.max()
    weights, violation = maximize_on_simplex(
        jnp.where(balances, pull, gram.sum(0)),
        jnp.concatenate([gram, pull[None]]),
        jnp.append(bounds, jnp.where(present.any(), least, 0)),
        jnp.append(active, ~balances & significant),
        present,
    )
    proportional = jnp.where(present, preferences, 0)
    proportional = proportional / jnp.where(present.any(), proportional.sum(), 1)
    return count * jnp.where(violation > _INFEASIBLE, proportional, weights)
