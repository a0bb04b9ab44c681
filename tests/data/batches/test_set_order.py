"""The order in which training steps draw from several sets."""

import dataclasses

import numpy as np
import pytest

from mtan_jax.data.batches.set_order import SetOrder

SIZES = {"large": 900, "middle": 100, "small": 9}


def shares(set_order, steps):
    return np.bincount(set_order.plan(steps).sets.ravel(), minlength=3) / steps


@pytest.mark.parametrize(
    ("temperature", "expected"),
    [(1.0, [900, 100, 9]), (2.0, [30, 10, 3]), (float("inf"), [1, 1, 1])],
)
def test_random_draws_sets_by_size_and_temperature(temperature, expected):
    set_order = SetOrder("random", SIZES, 10, temperature=temperature, seed=0)
    found = shares(set_order, 100_000)
    np.testing.assert_allclose(found, np.array(expected) / sum(expected), atol=0.006)  # 4 standard deviations


def test_random_draws_differ_by_seed_and_only_by_it():
    set_order = SetOrder("random", SIZES, 10, seed=3)
    np.testing.assert_array_equal(set_order.plan(50).sets, dataclasses.replace(set_order).plan(50).sets)
    assert (dataclasses.replace(set_order, seed=4).plan(50).sets != set_order.plan(50).sets).any()


def test_several_sets_a_step_are_different_ones():
    set_order = SetOrder("random", SIZES, 10, groups=2, seed=1)
    sets = set_order.plan(200).sets
    assert sets.shape == (200, 2)
    assert (sets[:, 0] != sets[:, 1]).all()
    assert set_order.rows == 5


def test_in_turn():
    np.testing.assert_array_equal(SetOrder("in_turn", SIZES, 10).plan(5).sets[:, 0], [0, 1, 2, 0, 1])
    sets = SetOrder("in_turn", SIZES, 10, groups=2).plan(3).sets
    np.testing.assert_array_equal(sets, [[0, 1], [2, 0], [1, 2]])


def test_whole_sets_one_after_the_other_until_one_is_left_out():
    set_order = SetOrder("whole_sets", {"a": 25, "b": 10, "c": 1}, 10, until={"a": 2})
    epoch = [0, 0, 0, 1, 2]  # 25 images are 3 steps of 10
    np.testing.assert_array_equal(set_order.plan(16).sets[:, 0], [*epoch, *epoch, 1, 2, 1, 2, 1, 2])
    assert [set_order.epochs_to_steps(n) for n in (0.5, 1, 2, 3, 4.5)] == [2.5, 5, 10, 12, 15]


@pytest.mark.parametrize("order", ["random", "in_turn", "whole_sets"])
def test_steps_to_epochs_and_back(order):
    set_order = SetOrder(order, {"a": 25, "b": 10, "c": 1}, 10, until={"a": 2} if order == "whole_sets" else {})
    for steps in (0, 1, 4, 5, 9, 10, 11, 12, 30):
        assert set_order.epochs_to_steps(set_order.steps_to_epochs(steps)) == pytest.approx(steps)


@pytest.mark.parametrize("order", ["random", "in_turn"])
def test_epochs_are_passes_over_as_many_images_as_there_are(order):
    assert SetOrder(order, SIZES, 10).epochs_to_steps(2) == pytest.approx(2 * 1009 / 10)


@pytest.mark.parametrize("order", ["random", "in_turn", "whole_sets"])
def test_starts_count_what_each_set_has_given_and_a_longer_plan_begins_with_a_shorter_one(order):
    groups = 1 if order == "whole_sets" else 2
    set_order = SetOrder(order, SIZES, 10, groups=groups, seed=5)
    plan, longer = set_order.plan(40), set_order.plan(400)
    given = dict.fromkeys(range(3), 0)
    for sets, starts in zip(plan.sets, plan.starts, strict=True):
        for position, start in zip(sets, starts, strict=True):
            assert start == given[position]
            given[position] += set_order.rows
    np.testing.assert_array_equal(longer.sets[:40], plan.sets)
    np.testing.assert_array_equal(longer.starts[:40], plan.starts)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"order": "shuffled"}, r"mixing\.order = 'shuffled' is not known; known: random, in_turn, whole_sets"),
        ({"groups": 4}, r"mixing\.tasks_per_step = 4: expected a number from 1 to 3"),
        ({"groups": 3}, r"batch_size = 10 is not divisible by config\.mixing\.tasks_per_step = 3; use 9"),
        ({"order": "whole_sets", "groups": 2}, r"config\.mixing\.order='whole_sets' needs one set per step"),
        ({"temperature": 0.0}, r"mixing\.temperature = 0\.0: expected a number above 0"),
        ({"until": {"small": 3}}, r"until needs config\.mixing\.order='whole_sets'"),
        ({"order": "whole_sets", "until": {"small": 0.5}}, r"expected whole numbers of epochs, at least 1"),
        ({"order": "whole_sets", "until": dict.fromkeys(SIZES, 2)}, r"drops all sets"),
    ],
)
def test_what_does_not_fit_is_named(fields, message):
    with pytest.raises(ValueError, match=message):
        SetOrder(**{"order": "random", "sizes": SIZES, "batch_size": 10} | fields)
