"""Statistics against SciPy, and against the Delta-m of `mtan_jax.tasks`."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from mtan_jax.compare import metric_names, statistics
from mtan_jax.tasks.delta_m import HIGHER_IS_BETTER, delta_m

HIGHER = {"semantic/miou": True, "semantic/pixel_accuracy": True, "depth/abs_error": False, "normal/mean": False}


@pytest.fixture
def values():
    """Four groups of five seeds."""
    index = pd.MultiIndex.from_product([["a", "b", "c", "d"], range(5)], names=["group", "seed"])
    return pd.DataFrame(np.random.default_rng(0).uniform(0.5, 2, (20, 4)), index, list(HIGHER))


def test_means_and_standard_errors(values):
    values.loc[("b", 3), "depth/abs_error"] = np.nan
    means, errors, counts = statistics.over_seeds(values)
    for group in "abcd":
        for name in HIGHER:
            own = values.loc[group, name].dropna().to_numpy()
            assert means.at[group, name] == pytest.approx(own.mean(), rel=1e-12)
            assert errors.at[group, name] == pytest.approx(stats.sem(own, ddof=1), rel=1e-12)
            assert counts.at[group, name] == len(own)
    assert counts.at["b", "depth/abs_error"] == 4


def test_one_seed_has_no_standard_error(values):
    _, errors, counts = statistics.over_seeds(values.loc[["a"]].iloc[:1])
    assert errors.isna().all(axis=None)
    assert (counts == 1).all(axis=None)


def test_delta_m_is_that_of_training(values):
    base = {"semantic/miou": 0.9, "semantic/pixel_accuracy": 1.1, "depth/abs_error": 0.7, "normal/mean": 1.3}
    found = statistics.delta_m(values, pd.Series(base), HIGHER)
    for i, row in enumerate(values.to_dict(orient="records")):
        for average in ("metrics", "tasks"):
            expected = delta_m(row, base, average)
            assert found[f"delta_m/{average}"].iloc[i] == pytest.approx(expected, rel=1e-12)


def test_delta_m_of_a_metric_that_is_not_finite(values):
    values.iloc[0, 0] = np.nan
    found = statistics.delta_m(values, pd.Series(dict.fromkeys(HIGHER, 1.0)), HIGHER)
    assert found.iloc[0].isna().all()
    assert found.iloc[1:].notna().all(axis=None)


def test_directions_are_those_of_training():
    assert dict(metric_names.HIGHER_IS_BETTER) == dict(HIGHER_IS_BETTER)


def test_mean_rank(values):
    means = values.groupby("group").mean()
    means.loc["d"] = means.loc["c"]  # ties
    found = statistics.mean_rank(means, HIGHER)
    ranks = [stats.rankdata(-means[name] if higher else means[name]) for name, higher in HIGHER.items()]
    np.testing.assert_allclose(found, np.mean(ranks, axis=0), rtol=1e-12)
    means.loc["a", "normal/mean"] = np.nan
    assert statistics.mean_rank(means, HIGHER).isna().to_dict() == {"a": True, "b": False, "c": False, "d": False}


@pytest.mark.parametrize("confidence", [0.95, 0.8])
def test_paired_differences(values, confidence):
    # Seeds 0 to 4 and 2 to 6, in another order: 2, 3 and 4 are common.
    ours, reference = values.loc["a"], values.loc["b"].set_axis([6, 5, 4, 3, 2])
    found = statistics.paired(ours, reference, list(HIGHER), confidence)
    for name in HIGHER:
        test = stats.ttest_rel(ours.loc[[2, 3, 4], name], reference.loc[[2, 3, 4], name])
        low, high = test.confidence_interval(confidence)
        assert found.at[name, "low"] == pytest.approx(low, rel=1e-10)
        assert found.at[name, "high"] == pytest.approx(high, rel=1e-10)
        difference = ours.loc[[2, 3, 4], name] - reference.loc[[2, 3, 4], name]
        assert found.at[name, "mean"] == pytest.approx(difference.mean(), rel=1e-12)
        assert found.at[name, "n"] == 3


def test_differences_over_one_seed_or_none_have_no_interval(values):
    one = statistics.paired(values.loc["a"], values.loc["b"].iloc[:1], list(HIGHER), 0.95)
    difference = values.loc[("a", 0), "normal/mean"] - values.loc[("b", 0), "normal/mean"]
    assert one.at["normal/mean", "mean"] == pytest.approx(difference, rel=1e-12)
    assert one[["low", "high"]].isna().all(axis=None)
    assert (one["n"] == 1).all()
    none = statistics.paired(values.loc["a"], values.loc["b"].set_axis(range(5, 10)), list(HIGHER), 0.95)
    assert none[["mean", "low", "high"]].isna().all(axis=None)
    assert (none["n"] == 0).all()
