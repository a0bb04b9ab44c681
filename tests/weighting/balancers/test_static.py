import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtan_jax.weighting import TaskGradients, equal, static

TASKS = ("semantic", "depth")


def test_weights_are_used_as_given_in_the_order_of_the_tasks(follow):
    factors, _ = follow(static(TASKS, weights={"depth": 10, "semantic": 0.5}), TASKS, np.ones((2, 2)))
    np.testing.assert_array_equal(factors, [[0.5, 10], [0.5, 10]])


def test_equal_weights_are_one(follow):
    factors, _ = follow(equal(TASKS), TASKS, [[1.0, 1e9]])
    np.testing.assert_array_equal(factors, [[1, 1]])


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        (
            {"semantic": 1.0},
            r"static weights: missing \['depth'\], unknown \[\]; expected exactly \['semantic'",
        ),
        ({"semantic": 1, "depth": 1, "normals": 1}, r"missing \[\], unknown \['normals'\]"),
        ({"semantic": 1.0, "depth": -1.0}, "static weight of 'depth' is -1.0; expected a finite number of at least 0"),
        ({"semantic": float("nan"), "depth": 1.0}, "static weight of 'semantic' is nan"),
        ({"semantic": float("inf"), "depth": 1.0}, "static weight of 'semantic' is inf"),
        ({"semantic": "0.5", "depth": 1.0}, "static weight of 'semantic' is '0.5'; expected a finite number"),
    ],
)
def test_messages(weights, message):
    with pytest.raises(ValueError, match=message):
        static(TASKS, weights=weights)


def test_weights_as_an_array_may_be_traced(follow):
    given = TaskGradients(("a", "b"), jnp.ones(2), jnp.ones(2, bool), jnp.ones(2), lambda cotangent: cotangent)

    def weights(values):
        tx = static(("a", "b"), weights=values)
        return tx.update(given, tx.init(None))[0].weights

    vectors = jnp.array([[1.0, 2.0], [0.0, 3.0]])
    np.testing.assert_array_equal(jax.jit(jax.vmap(weights))(vectors), vectors)
    np.testing.assert_array_equal(weights([1.0, 2.0]), vectors[0])
    with pytest.raises(ValueError, match=r"static weight of 'b' is -1.0; expected a finite number of at least 0"):
        static(("a", "b"), weights=np.array([1.0, -1.0]))
