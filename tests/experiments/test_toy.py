"""The toy problem of experiments/toy: its front, the published codes' ways on it, the claims of its README."""

import dataclasses
import functools
import json
import math
import pathlib

import descent
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from claims import CLAIMS, REACHED
from descent import NAMES
from landscape import FLOOR, PROBLEMS, pareto_front, unscaled_losses
from report import tables

from mtan_jax.weighting import METHODS

EXPERIMENT = pathlib.Path(__file__).parents[2] / "experiments" / "toy"
each_problem = pytest.mark.parametrize("key", PROBLEMS)


@functools.cache
def published():
    with np.load(pathlib.Path(__file__).parents[1] / "reference" / "toy.npz", allow_pickle=False) as arrays:
        return dict(arrays)


@functools.cache
def results():
    return json.loads((EXPERIMENT / "results.json").read_text())


ways = functools.cache(descent.trajectories)
front = functools.cache(pareto_front)


def ends(problem, points):
    """Distance of each last point from the front, and the share there."""
    losses = np.stack([problem.losses(jnp.asarray(point, jnp.float32)) for point in points[:, -1]])
    return front(problem).nearest(losses)


def from_starts(problem, *places):
    return dataclasses.replace(problem, starts=tuple(problem.starts[i] for i in places))


def losses_of_the_paper(x, y):
    """Liu et al. 2021, section 5.1, with the sign of the authors' code in f_2."""
    f = [
        math.log(max(abs(0.5 * (-x - 7) - math.tanh(-y)), 5e-6)) + 6,
        math.log(max(abs(0.5 * (-x + 3) + math.tanh(-y) + 2), 5e-6)) + 6,
    ]
    g = [((-x + a) ** 2 + 0.1 * (-y - 8) ** 2) / 10 - 20 for a in (7, -7)]
    c_1, c_2 = max(math.tanh(0.5 * y), 0), max(math.tanh(-0.5 * y), 0)
    return [c_1 * f[i] + c_2 * g[i] for i in range(2)]


def test_losses():
    points = [start for problem in PROBLEMS.values() for start in problem.starts]
    points += [*np.random.default_rng(0).uniform(-11, 11, (50, 2)).tolist(), (-5.0, 11.0), (5.0, 11.0)]
    with jax.enable_x64(True):
        found = np.asarray(jax.vmap(unscaled_losses)(jnp.array(points)))
    np.testing.assert_allclose(found, [losses_of_the_paper(*point) for point in points], rtol=1e-6, atol=1e-9)
    assert found.min() > FLOOR


def test_front_is_what_no_point_of_a_grid_dominates():
    problem = PROBLEMS["nash"]
    grid = np.stack(np.meshgrid(np.linspace(-11, 11, 221), np.linspace(-14, 11, 251)), -1).reshape(-1, 2)
    losses = np.asarray(jax.jit(jax.vmap(problem.losses))(grid.astype(np.float32)))
    order = np.lexsort((losses[:, 1], losses[:, 0]))
    best = np.minimum.accumulate(losses[order, 1])
    undominated = losses[order][np.append(True, best[1:] < best[:-1])]
    distances, shares = front(problem).nearest(undominated)
    assert distances.max() < 5e-3  # the cells of the grid are 0.1 wide
    assert np.ptp(shares) > 0.99
    assert not (losses[:, None] < front(problem).losses[::20] - 1e-4).all(-1).any()


# Starts whose way meets no steep valley. In a valley Adam jumps from wall to wall, and ways that differ by rounding
# separate; the first is met after 2100 steps.
CALM = {"cagrad": (1, 2, 4), "nash": (1, 3)}
ROUNDING = 2e-3  # theirs in float32, ours in float64; two steps of Adam's 1e-3
slow = pytest.mark.long


@pytest.mark.parametrize(
    ("name", "method", "bound"),
    [
        ("cagrad/sgd", "equal", ROUNDING),
        ("nash/ls", "equal", ROUNDING),
        ("cagrad/pcgrad", "pcgrad", ROUNDING),
        pytest.param("nash/pcgrad", "pcgrad", ROUNDING, marks=slow),
        pytest.param("cagrad/mgd", "mgda", ROUNDING, marks=slow),
        pytest.param("nash/nashmtl", "nash_mtl", ROUNDING, marks=slow),
        pytest.param("nash/cagrad", "cagrad", ROUNDING, marks=slow),
        # Theirs adds 1e-4 under each root.
        pytest.param("cagrad/cagrad", "cagrad", 0.04, marks=slow),
        # Theirs keeps weights from 0.001 to 0.999, where one of two gradients is ten times the other.
        pytest.param("nash/mgda", "mgda", 0.2, marks=slow),
    ],
)
def test_same_way_as_the_published_code(name, method, bound):
    key = name.split("/")[0]
    theirs = published()[name][:, :201]  # later theirs, in float32, creeps along the front
    ours = ways(method, PROBLEMS[key], steps=100 * (theirs.shape[1] - 1))
    apart = np.abs(ours - theirs)[:, :-1].max(-1)  # the last of theirs may be one step short
    assert apart[:, :21].max() < bound
    assert apart[CALM[key],].max() < bound


def test_linear_scalarisation_is_stuck_in_the_valleys():
    distances, shares = ends(PROBLEMS["cagrad"], ways("equal", PROBLEMS["cagrad"], steps=20_000))
    assert (distances > 1).tolist() == [True, False, False, True, False]
    np.testing.assert_allclose(shares[[1, 2, 4]], 0.5, atol=0.01)


@slow
@pytest.mark.parametrize(("key", "starts"), [("cagrad", (0, 1, 2, 3, 4)), ("nash", (0, 1, 3, 4))])
def test_cagrad_ends_where_the_mean_loss_is_smallest(key, starts):
    problem = from_starts(PROBLEMS[key], *starts)
    distances, shares = ends(problem, ways("cagrad", problem))
    assert distances.max() < REACHED
    np.testing.assert_allclose(shares, {"cagrad": 1 / 2, "nash": 1 / 11}[key], atol=0.02)


@slow
def test_nash_mtl_reaches_the_front():
    distances, shares = ends(PROBLEMS["nash"], ways("nash_mtl", PROBLEMS["nash"]))
    assert distances.max() < REACHED
    assert ((shares > 0.1) & (shares < 0.9)).all()


@slow
def test_nash_mtl_ignores_scale():
    problem = from_starts(PROBLEMS["nash"], 3, 4)
    plain = dataclasses.replace(problem, scale=(1.0, 1.0))
    shares = [ends(p, ways("nash_mtl", p, steps=6_000))[1] for p in (problem, plain)]
    np.testing.assert_allclose(*shares, atol=0.02)


@slow
@pytest.mark.parametrize("method", NAMES)
@each_problem
def test_every_method_stays_finite_and_descends_from_the_calm_starts(method, key):
    problem = from_starts(PROBLEMS[key], *CALM[key])
    points = ways(method, problem, steps=4_000)
    assert np.isfinite(points).all()
    start, end = (np.stack([problem.losses(jnp.asarray(p, jnp.float32)) for p in points[:, i]]) for i in (0, -1))
    assert (end.sum(1) < start.sum(1)).all()


def test_results_have_every_method():
    for problem in results()["problems"].values():
        assert set(problem["methods"]) <= set(NAMES) <= set(METHODS)


def test_claims():
    verdicts = {claim.__name__: claim(results())[0] for claims in CLAIMS.values() for claim in claims}
    assert len(verdicts) == 12
    assert [name for name, holds in verdicts.items() if not holds] == ["c_leads_from_gd_to_mgda"]


def test_readme_has_the_tables_of_the_results():
    readme = (EXPERIMENT / "README.md").read_text()
    for row in tables(results()).splitlines():
        assert row in readme or not row.startswith("|")
