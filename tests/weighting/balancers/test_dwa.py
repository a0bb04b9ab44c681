import math

import numpy as np
import pytest

from mtan_jax.weighting import dwa

TASKS = ("a", "b")


def by_equation(losses, present, steps_per_epoch, temperature):
    """Equation 7 of the paper, epoch by epoch in float64; a task without a mean in either epoch has rate 1."""
    steps, tasks = losses.shape
    weights = np.ones((steps, tasks))
    for epoch in range(2, math.ceil(steps / steps_per_epoch)):
        rates = []
        for task in range(tasks):
            last, before = (
                [losses[t, task] for t in range(e * steps_per_epoch, (e + 1) * steps_per_epoch) if present[t, task]]
                for e in (epoch - 1, epoch - 2)
            )
            rates.append(np.mean(last) / np.mean(before) if last and before else 1.0)
        exponentials = [math.exp(rate / temperature) for rate in rates]
        for task in range(tasks):
            start = epoch * steps_per_epoch
            weights[start : start + steps_per_epoch, task] = tasks * exponentials[task] / sum(exponentials)
    return weights


def test_by_hand(follow):
    """Means 4, 2 of the first task and 4, 4 of the second give rates 1/2 and 1: weights 2 / (1 + e^(+-1/2)), T = 1."""
    losses = [[5, 4], [3, 4], [1, 6], [3, 2], [9, 9], [9, 9]]
    factors, _ = follow(dwa(TASKS, temperature=1.0, steps_per_epoch=2), TASKS, losses)
    np.testing.assert_array_equal(factors[:4], np.ones((4, 2)))
    expected = [2 / (1 + math.exp(0.5)), 2 / (1 + math.exp(-0.5))]
    assert expected == pytest.approx([0.75508, 1.24492], abs=1e-5)
    np.testing.assert_allclose(factors[4:], [expected, expected], rtol=1e-6)


@pytest.mark.parametrize("missing", [0.0, 0.4])
@pytest.mark.parametrize("temperature", [0.5, 2.0])
def test_epochs_follow_the_papers_equation(follow, temperature, missing):
    rng = np.random.default_rng(3)
    losses = rng.uniform(0.05, 4, (26, 3))
    present = rng.random((26, 3)) >= missing
    if missing:
        present[8:12, 1] = False  # an epoch without the task
        losses[~present] = 0
    tasks = ("a", "b", "c")
    factors, _ = follow(dwa(tasks, temperature=temperature, steps_per_epoch=4), tasks, losses, present)
    expected = by_equation(losses, present, 4, temperature)
    assert np.ptp(expected, axis=0).min() > 0.05
    np.testing.assert_allclose(factors, expected, rtol=2e-6)


def test_a_higher_temperature_makes_the_weights_more_equal(follow):
    losses = [[4, 1], [1, 1], [1, 1]]
    spread = []
    for temperature in (0.5, 2.0, 50.0):
        factors, _ = follow(dwa(TASKS, temperature=temperature, steps_per_epoch=1), TASKS, losses)
        spread.append(np.ptp(factors[-1]))
    assert spread[0] > spread[1] > spread[2]
    assert spread[2] < 0.05


def test_window_gives_the_weights_of_the_published_code(follow):
    """Gradients of the losses from DynamicWeightAverage(2, "cpu", iteration_window=2, temp=1.0) of Nash-MTL.

    Made with PyTorch 2.13 from methods/weight_methods.py of AvivNavon/nash-mtl. At the fourth step the earlier window
    still holds one of the losses of 1 that the code starts with.
    """
    losses = [[4, 1], [2, 1], [1, 3], [1, 2], [0.5, 2], [0.5, 1], [0.25, 4]]
    published = [
        [0.5, 0.5],
        [0.5, 0.5],
        [0.5, 0.5],
        [0.10278403, 0.89721596],
        [0.37754062, 0.62245929],
        [0.47502080, 0.52497923],
        [0.32082132, 0.67917871],
    ]
    factors, _ = follow(dwa(TASKS, variant="nash", window=2, temperature=1.0), TASKS, losses)
    np.testing.assert_allclose(factors, published, rtol=1e-6)


def test_window_of_25_by_hand(follow):
    """Losses 2 for 25 steps, then 1 and 3, give rates 1/2 and 3/2 at step 50; T = 2, mean over two tasks."""
    losses = np.concatenate([np.full((25, 2), 2.0), np.tile([1.0, 3.0], (25, 1))])
    factors, _ = follow(dwa(TASKS, variant="nash"), TASKS, losses)
    np.testing.assert_array_equal(factors[:26], np.full((26, 2), 0.5))
    assert not np.isclose(factors[26, 0], 0.5, atol=1e-4)
    np.testing.assert_allclose(factors[49], [1 / (1 + math.exp(0.5)), 1 / (1 + math.exp(-0.5))], rtol=1e-6)


def test_window_leaves_absent_tasks_out_of_the_means(follow):
    """Present losses of the first task: 4, 4 in the first window of three steps, 2 in the second."""
    losses = [[4, 1], [0, 1], [4, 1], [0, 1], [2, 1], [0, 1]]
    present = [[True, True], [False, True], [True, True], [False, True], [True, True], [False, True]]
    factors, _ = follow(dwa(TASKS, variant="nash", window=3, temperature=1.0), TASKS, losses, present)
    np.testing.assert_allclose(factors[-1], [1 / (1 + math.exp(0.5)), 1 / (1 + math.exp(-0.5))], rtol=1e-6)


def test_a_rate_beyond_float32_gets_all_the_weight(follow):
    factors, _ = follow(dwa(TASKS, steps_per_epoch=1), TASKS, [[1e-20, 1], [1e20, 1], [1, 1]])
    np.testing.assert_array_equal(factors[-1], [2, 0])


@pytest.mark.parametrize("options", [{"steps_per_epoch": 2}, {"variant": "nash", "window": 2}])
def test_a_task_that_is_never_present_has_rate_one(follow, options):
    losses = np.tile([1.0, 0.0], (12, 1))
    present = np.tile([True, False], (12, 1))
    factors, _ = follow(dwa(TASKS, **options), TASKS, losses, present)
    np.testing.assert_allclose(factors[-1, 0], factors[-1, 1], rtol=1e-6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "dwa steps_per_epoch is None; variant 'mtan' needs an integer of at least 1"),
        ({"steps_per_epoch": 2.5}, "dwa steps_per_epoch is 2.5"),
        ({"steps_per_epoch": 0}, "dwa steps_per_epoch is 0"),
        ({"steps_per_epoch": 5, "temperature": 0}, "dwa temperature is 0; expected a finite number above 0"),
        ({"steps_per_epoch": 5, "temperature": float("nan")}, "dwa temperature is nan"),
        ({"variant": "nash", "window": 0}, "dwa window is 0; expected an integer of at least 1"),
        ({"variant": "libmtl"}, "dwa variant is 'libmtl'; expected 'mtan' or 'nash'"),
    ],
)
def test_messages(options, message):
    with pytest.raises(ValueError, match=message):
        dwa(TASKS, **options)
