"""Comparisons of stored runs against independent computations from the metrics that the runs were written with."""

import math

import numpy as np
import pytest
from helpers import stored_runs
from scipy import stats

import mtan_jax as mtan
from mtan_jax.compare.errors import ComparisonError

NAMES = stored_runs.NAMES
HIGHER = (True, True, False, False, False, False, True, True, True)
KINDS = {
    "single": "arch=single weighting=equal",
    **{
        f"{arch} {method}": f"arch={arch} weighting={method}"
        for arch in ("mtan", "split")
        for method in ("equal", "nash_mtl")
    },
}


@pytest.fixture(scope="module")
def comparison(stored):
    return mtan.compare_runs(stored[0], baseline="arch=single")


@pytest.fixture(scope="module")
def arrays(stored):
    """Metrics [seeds, metrics] of each kind of run."""
    return {kind: np.array([[stored[1][kind, seed][name] for name in NAMES] for seed in range(3)]) for kind in KINDS}


def test_means_errors_and_numbers_of_seeds(comparison, arrays):
    assert [group.name for group in comparison.groups] == list(KINDS.values())
    for kind, name in KINDS.items():
        np.testing.assert_allclose(comparison.means.loc[name, list(NAMES)], arrays[kind].mean(axis=0), rtol=1e-12)
        errors = arrays[kind].std(axis=0, ddof=1) / math.sqrt(3)
        np.testing.assert_allclose(comparison.standard_errors.loc[name, list(NAMES)], errors, rtol=1e-10)
        assert (comparison.counts.loc[name, list(NAMES)] == 3).all()


def test_delta_m_of_each_seed(comparison, arrays):
    """Both definitions, by hand."""
    base = arrays["single"].mean(axis=0)
    for kind, name in KINDS.items():
        for seed in range(3):
            drops = []
            for value, reference, higher in zip(arrays[kind][seed], base, HIGHER, strict=True):
                drops.append((reference - value if higher else value - reference) / reference * 100)
            semantic, depth, normal = drops[:2], drops[2:4], drops[4:]
            over_tasks = (sum(semantic) / 2 + sum(depth) / 2 + sum(normal) / 5) / 3
            row = comparison.seeds.loc[(name, seed)]
            assert row["delta_m/metrics"] == pytest.approx(sum(drops) / 9, rel=1e-9)
            assert row["delta_m/tasks"] == pytest.approx(over_tasks, rel=1e-9)


def test_mean_rank_is_over_the_groups_other_than_the_baseline(comparison, arrays):
    kinds = [kind for kind in KINDS if kind != "single"]
    means = np.array([arrays[kind].mean(axis=0) for kind in kinds])
    ranks = np.mean([stats.rankdata(-means[:, i] if HIGHER[i] else means[:, i]) for i in range(9)], axis=0)
    np.testing.assert_allclose(comparison.means.loc[[KINDS[kind] for kind in kinds], "mean_rank"], ranks, rtol=1e-12)
    assert math.isnan(comparison.means.at[KINDS["single"], "mean_rank"])


@pytest.mark.parametrize("against", [None, "mtan nash_mtl"])
def test_paired_differences(stored, arrays, against):
    text = None if against is None else KINDS[against]
    found = mtan.compare_runs(stored[0], baseline="arch=single", against=text, confidence=0.9).differences
    for kind, name in KINDS.items():
        if kind == (against or "single"):
            assert name not in found.index
            continue
        for i, metric in enumerate(NAMES):
            ours, theirs = arrays[kind][:, i], arrays[against or "single"][:, i]
            low, high = stats.ttest_rel(ours, theirs).confidence_interval(0.9)
            row = found.loc[(name, metric)]
            np.testing.assert_allclose(row, [(ours - theirs).mean(), low, high, 3], rtol=1e-8)


def test_published_cells(tmp_path):
    """Published Delta-m of SegNet-MTAN: 5.59 for the sum of losses, -4.04 for Nash-MTL."""
    for task in ("semantic", "depth", "normal"):
        stl = stored_runs.of_task(stored_runs.STL, task)
        stored_runs.write(tmp_path / f"stl-{task}", stl, tasks=(task,), model__arch="single")
    stored_runs.write(tmp_path / "ls", stored_runs.LS)
    stored_runs.write(tmp_path / "nash", stored_runs.NASH, weighting="nash_mtl")
    means = mtan.compare_runs(tmp_path, baseline="arch=single").means["delta_m/metrics"]
    # The printed cells are rounded: half a unit of the last digit changes Delta-m by up to 0.01.
    assert means["arch=mtan weighting=equal"] == pytest.approx(5.59, abs=0.01)
    assert means["arch=mtan weighting=nash_mtl"] == pytest.approx(-4.04, abs=0.01)


def test_mean_of_the_last_evaluations(stored, arrays):
    # Before the last evaluation, values were 1 % larger.
    found = mtan.compare_runs(stored[0], use="mean:2").means
    row = found.loc["arch=mtan tasks=semantic+depth+normal weighting=equal", list(NAMES)]
    np.testing.assert_allclose(row, arrays["mtan equal"].mean(axis=0) * 1.005, rtol=1e-10)


def test_best_evaluation(stored, arrays):
    # mIoU was best at the first evaluation of four, and depth errors at the last.
    found = mtan.compare_runs([f"{stored[0]}/mtan-equal-*"], use="best:semantic/miou")
    np.testing.assert_allclose(found.means.iloc[0][list(NAMES)], arrays["mtan equal"].mean(axis=0) * 1.03, rtol=1e-10)
    assert set(found.runs["step"]) == {398}
    assert "biased" in found.heading
    found = mtan.compare_runs([f"{stored[0]}/mtan-equal-*"], use="best:depth/abs_error")
    assert set(found.runs["step"]) == {1590}


def test_frame_of_runs(stored, comparison):
    runs = comparison.runs
    assert len(runs) == 21
    row = runs.loc[f"{stored[0]}/split-nash_mtl-1"]
    assert (row["group"], row["seed"], row["step"]) == ("arch=split weighting=nash_mtl", 1, 1590)
    assert row["normal/mean"] == pytest.approx(stored[1]["split nash_mtl", 1]["normal/mean"], rel=1e-12)


def test_default_columns_and_no_warnings(comparison):
    assert comparison.columns == (*NAMES, "delta_m/metrics", "delta_m/tasks", "mean_rank")
    assert comparison.warnings == ()


def test_without_a_baseline(stored):
    found = mtan.compare_runs(f"{stored[0]}/mtan-*")
    assert found.columns == (*NAMES, "mean_rank")
    assert found.differences is None
    assert found.baseline is None


def test_sorted_by_delta_m_the_baseline_first(stored, comparison):
    found = mtan.compare_runs(stored[0], baseline="arch=single", sort="delta_m")
    values = comparison.means["delta_m/metrics"]
    others = sorted(list(KINDS.values())[1:], key=lambda name: values[name])
    assert [group.name for group in found.groups] == [KINDS["single"], *others]
    assert list(found.means.index) == [KINDS["single"], *others]
    best = mtan.compare_runs(stored[0], baseline="arch=single", sort="semantic/miou").groups[1].name
    assert comparison.means["semantic/miou"].drop(KINDS["single"]).idxmax() == best


def test_chosen_metrics(stored):
    found = mtan.compare_runs(stored[0], baseline="arch=single", metrics=["delta_m", "depth/*", "MR"])
    assert found.columns == ("delta_m/metrics", "depth/abs_error", "depth/rel_error", "mean_rank")
    # Delta-m does not depend on the metrics that are shown.
    assert found.means.at[KINDS["mtan equal"], "delta_m/metrics"] == pytest.approx(
        mtan.compare_runs(stored[0], baseline="arch=single").means.at[KINDS["mtan equal"], "delta_m/metrics"]
    )


def test_one_name_need_not_be_a_sequence(stored):
    found = mtan.compare_runs(f"{stored[0]}/mtan-*", metrics="depth/*", ignore="weighting")
    assert found.columns == ("depth/abs_error", "depth/rel_error")
    assert len(found.groups) == 1


def test_metrics_of_ones_own_task(tmp_path):
    base, better = {"edges/f1": 0.5, "depth/abs_error": 1.0}, {"edges/f1": 0.6, "depth/abs_error": 1.1}
    for arch, values in (("single", base), ("mtan", better)):
        stored_runs.write(tmp_path / arch, values, tasks=("depth", "edges"), model__arch=arch)
    without = mtan.compare_runs(tmp_path, baseline="arch=single")
    assert without.means["delta_m/metrics"].iloc[1] == pytest.approx(10.0, rel=1e-9)
    for own in ({"edges/f1": True}, {"f1": True}):
        found = mtan.compare_runs(tmp_path, baseline="arch=single", higher_is_better=own)
        assert found.means["delta_m/metrics"].iloc[1] == pytest.approx((10.0 - 20.0) / 2, rel=1e-9)
    found = mtan.compare_runs(tmp_path, baseline="arch=single", higher_is_better={"f1": False})
    assert found.means["delta_m/metrics"].iloc[1] == pytest.approx((10.0 + 20.0) / 2, rel=1e-9)


def test_tasks_of_the_group_alone_count(tmp_path):
    stored_runs.write(tmp_path / "stl", stored_runs.STL, model__arch="single")
    depth = stored_runs.of_task(stored_runs.LS, "depth")
    stored_runs.write(tmp_path / "depth", depth, tasks=("depth",))
    found = mtan.compare_runs(tmp_path, baseline="arch=single")
    drops = [(depth[name] / stored_runs.STL[name] - 1) * 100 for name in depth]
    assert found.seeds.loc["arch=mtan tasks=depth", "delta_m/metrics"].item() == pytest.approx(np.mean(drops), rel=1e-9)
    assert any("groups differ in their tasks" in line for line in found.warnings)


def test_sets_of_images(tmp_path):
    values = {"digits/accuracy": 0.9, "signs/accuracy": 0.5, "mean/accuracy": 0.7}
    for arch, factor in (("single", 1.0), ("mtan", 1.1)):
        stored_runs.write(
            tmp_path / arch, stored_runs.change(values, factor), tasks=("signs", "digits"), model__arch=arch
        )
    found = mtan.compare_runs(tmp_path, baseline="arch=single")
    assert found.columns == ("signs/accuracy", "digits/accuracy", "mean/accuracy", "delta_m/metrics")
    assert found.means["delta_m/metrics"].iloc[1] == pytest.approx(-10.0, rel=1e-9)  # the mean is not a third task


def test_two_runs_of_one_seed_count_once(tmp_path):
    for i, value in enumerate((1.0, 3.0)):
        stored_runs.write(tmp_path / f"a{i}", {"depth/abs_error": value}, tasks=("depth",))
    stored_runs.write(tmp_path / "b", {"depth/abs_error": 5.0}, tasks=("depth",), seed=1)
    found = mtan.compare_runs(tmp_path)
    assert found.means["depth/abs_error"].item() == pytest.approx(3.5, rel=1e-12)
    assert found.counts["depth/abs_error"].item() == 2
    assert any("has seed 0 2 times, and their mean counts once" in line for line in found.warnings)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"baseline": "arch=single,tasks=depth"}, "has no semantic/miou, .*; its tasks are depth. Add the runs of the"),
        (
            {"baseline": "weighting=equal"},
            "--baseline selects 3 groups with the task semantic, expected one; add a field",
        ),
        ({"baseline": "arch=dense"}, "--baseline=arch=dense selects no group; model.arch has the values mtan, single"),
        ({"against": "arch=single"}, "--against=arch=single selects 3 groups, expected one; add fields: arch=single"),
        ({"split": "test"}, "--split=test: no run has been evaluated on it; the runs have rows of: train, val"),
        ({"metrics": ["edges/*"]}, r"--metrics=edges/\* matches no metric; there are: semantic/miou"),
        ({"sort": "edges"}, "--sort=edges is no metric of this comparison; there are: "),
        ({"confidence": 95}, "--confidence=95; expected a number between 0 and 1, such as 0.95"),
    ],
)
def test_mistakes(stored, options, message):
    with pytest.raises(ComparisonError, match=message):
        mtan.compare_runs(stored[0], **options)


@pytest.mark.parametrize("value", [0.0, math.nan])
def test_a_useless_baseline(tmp_path, value):
    stored_runs.write(tmp_path / "a", {"depth/abs_error": value}, tasks=("depth",), model__arch="single")
    stored_runs.write(tmp_path / "b", {"depth/abs_error": 1.0}, tasks=("depth",))
    with pytest.raises(ComparisonError, match=rf"arch=single has depth/abs_error = {value:g}; expected finite values"):
        mtan.compare_runs(tmp_path, baseline="arch=single")
