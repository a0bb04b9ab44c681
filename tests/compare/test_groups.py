"""Groups of runs that differ in their seed, and their selection."""

import pytest

from mtan_jax.compare.errors import ComparisonError
from mtan_jax.compare.groups import make_grouping
from mtan_jax.compare.runs import read_runs


@pytest.fixture(scope="module")
def grouping(stored):
    return make_grouping(read_runs([stored[0]])[0])


NAMES = [
    *(
        "arch=mtan tasks=semantic+depth+normal weighting=equal",
        "arch=mtan tasks=semantic+depth+normal weighting=nash_mtl",
    ),
    *("arch=single tasks=depth weighting=equal", "arch=single tasks=normal weighting=equal"),
    "arch=single tasks=semantic weighting=equal",
    *(
        "arch=split tasks=semantic+depth+normal weighting=equal",
        "arch=split tasks=semantic+depth+normal weighting=nash_mtl",
    ),
]


def test_groups_have_all_seeds(grouping):
    assert [group.name for group in grouping.groups] == NAMES
    for group in grouping.groups:
        assert sorted(run.seed for run in group.runs) == [0, 1, 2]
        assert {run.config["model.arch"] for run in group.runs} == {group.fields["model.arch"]}


def test_runs_that_differ_in_the_seed_alone(stored):
    runs, _ = read_runs([f"{stored[0]}/mtan-nash_mtl-*"])
    (group,) = make_grouping(runs).groups
    assert (group.name, group.fields) == ("arch=mtan weighting=nash_mtl", {})


def test_the_baseline_is_joined(grouping):
    joined = grouping.with_baseline(grouping.select("arch=single", "--baseline"))
    # The tasks no longer tell groups apart, so their names do not mention them.
    assert [group.name for group in joined.groups] == [
        *("arch=single weighting=equal", "arch=mtan weighting=equal", "arch=mtan weighting=nash_mtl"),
        *("arch=split weighting=equal", "arch=split weighting=nash_mtl"),
    ]
    assert [group.is_baseline for group in joined.groups] == [True, False, False, False, False]
    assert len(joined.groups[0].runs) == 9
    assert set(joined.groups[0].tasks) == {"semantic", "depth", "normal"}


def test_a_baseline_of_groups_without_common_fields(grouping):
    chosen = [*grouping.select("arch=single,tasks=depth", "-"), *grouping.select("arch=mtan,weighting=nash_mtl", "-")]
    assert grouping.with_baseline(chosen).groups[0].name == "baseline"


@pytest.mark.parametrize(
    ("text", "positions"),
    [
        ("arch=single", [2, 3, 4]),
        ("arch=split,weighting=equal", [5]),
        ("model.arch=mtan", [0, 1]),
        (NAMES[3], [3]),
        ("width=1.0,arch=mtan", [0, 1]),  # the same in all groups; as a number
    ],
)
def test_selection(grouping, text, positions):
    assert [group.name for group in grouping.select(text, "--x")] == [NAMES[i] for i in positions]


def test_a_selection_of_no_group_names_the_values(grouping):
    with pytest.raises(
        ComparisonError, match=r"--against=arch=dense selects no group; model\.arch has the values mtan, si"
    ):
        grouping.select("arch=dense", "--against")


def test_unknown_fields_to_ignore(stored):
    runs, _ = read_runs([stored[0]])
    with pytest.raises(ComparisonError, match="--ignore=achr is no field of the configurations"):
        make_grouping(runs, ["achr"])
    assert len(make_grouping(runs, ["arch", "tasks"]).groups) == 2


def test_fields_that_an_older_version_did_not_write(stored):
    runs, _ = read_runs([stored[0]])
    names = [group.name for group in make_grouping(runs).groups]
    for run in runs[:4]:
        del run.config["model.sync_batch_norm"]  # the default, True
        del run.config["weighting_options.nash_mtl.max_norm"]
    assert [group.name for group in make_grouping(runs).groups] == names
    runs[0].config["model.sync_batch_norm"] = False
    assert make_grouping(runs).groups[0].name == NAMES[0].replace(" tasks", " sync_batch_norm=false tasks")
