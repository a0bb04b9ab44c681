"""The published numbers of experiments/published: format, Delta-m of the cells, mean ranks, scores, README."""

import functools
import json
import pathlib
import re
import runpy
from decimal import Decimal

import numpy as np
import pytest
from scipy.stats import rankdata

from mtan_jax.tasks.decathlon_score import FINETUNING_ERRORS, decathlon_score
from mtan_jax.tasks.delta_m import delta_m
from mtan_jax.tasks.task import classification, depth, normal, semantic

EXPERIMENT = pathlib.Path(__file__).parents[2] / "experiments" / "published"
REPORT = runpy.run_path(str(EXPERIMENT / "report.py"))
NAMES = sorted(path.stem for path in (EXPERIMENT / "data").glob("*.json"))
FILE_KEYS = ["dataset", "title", "protocol", "baseline", "metrics", "rows"]
ROW_KEYS = ["method", "architecture", "values", "delta_m", "mean_rank", "source", "protocol", "note", "replications"]
REPLICATION_KEYS = ["values", "delta_m", "source", "note"]
SOURCE_KEYS = ["paper", "table", "repository", "commit", "path"]
each_file = pytest.mark.parametrize("name", NAMES)


def mean_ranks(text):
    """By method, from the text of a list."""
    return {method: float(value) for method, value in (item.rsplit(" ", 1) for item in text.split(", "))}


# As printed. The files have the mean rank of one table per row.
FAMO_TABLE_1 = mean_ranks(
    "LS 8.89, SI 7.89, RLW 11.22, DWA 7.67, UW 7.44, MGDA 6.00, PCGrad 8.00, GradDrop 7.00, CAGrad 4.56, IMTL-G 3.78, "
    "Nash-MTL 2.11, FAMO 3.44"
)
NTKMTL_TABLE_1 = mean_ranks(
    "LS 17.44, SI 16.11, RLW 20.22, DWA 16.33, UW 16.00, MGDA 11.44, PCGrad 16.89, GradDrop 15.56, CAGrad 11.56, "
    "IMTL-G 10.89, MoCo 10.89, Nash-MTL 8.00, Aligned-MTL 10.44, FAMO 9.00, SDMGrad 6.11, DB-MTL 4.56, STCH 8.22, "
    "FairGrad 6.44, GO4Align 5.00, NTKMTL 4.33, NTKMTL-SR 5.56"
)
NTKMTL_TABLE_7 = mean_ranks(
    "LS 10.25, SI 14.00, RLW 12.25, DWA 9.75, UW 10.00, MGDA 14.75, PCGrad 10.50, CAGrad 9.25, IMTL-G 7.25, "
    "Nash-MTL 4.75, FAMO 9.25, Aligned-MTL 3.00, SDMGrad 8.25, GO4Align 10.75, FairGrad 3.25, NTKMTL 8.50, "
    "NTKMTL-SR 8.00"
)


@functools.cache
def load(name):
    """A file whose numbers are Decimals, which keep the printed digits."""
    text = (EXPERIMENT / "data" / f"{name}.json").read_text()
    return json.loads(text, parse_float=Decimal, parse_int=Decimal)


def results(published):
    """Every row and every replication."""
    for row in published["rows"]:
        yield row["method"], row
        for again in row["replications"]:
            yield f"{row['method']}, rerun", again


def baseline_of(published):
    (row,) = [row for row in published["rows"] if row["method"] == published["baseline"]]
    return row["values"]


def half_unit(printed):
    """Half a unit of the last printed digit."""
    return 0.5 * 10.0 ** printed.as_tuple().exponent


def from_cells(published, values):
    """Delta-m in percent, by metric, and by how much rounding of the cells can change it."""
    losses, bounds = {}, {}
    for metric in published["metrics"]:
        name = metric["name"]
        value, base = float(values[name]), float(baseline_of(published)[name])
        losses[name] = 100 * (base - value if metric["better"] == "higher" else value - base) / base
        bounds[name] = 100 * (
            half_unit(values[name]) / base + value * half_unit(baseline_of(published)[name]) / base**2
        )
    return losses, bounds


def test_the_report_knows_every_file():
    assert sorted(REPORT["NAMES"]) == NAMES
    assert {"nyuv2", "cityscapes", "nyuv2_paper", "cityscapes_paper", "decathlon", "celeba", "qm9"} <= set(NAMES)


@each_file
def test_keys_and_types(name):
    published = load(name)
    assert list(published) == FILE_KEYS
    metrics = [metric["name"] for metric in published["metrics"]]
    for metric in published["metrics"]:
        assert list(metric) == ["name", "factor", "decimals", "better"]
        assert metric["better"] in ("higher", "lower")
    for row in published["rows"]:
        assert [key for key in row if key != "delta_m_off"] == ROW_KEYS
        assert all(list(again) == REPLICATION_KEYS for again in row["replications"])
        assert all(row[key] is None or isinstance(row[key], str) for key in ("protocol", "note"))
    for label, row in results(published):
        assert list(row["values"]) in (metrics, []), label
        assert list(row["source"]) == SOURCE_KEYS
        source = row["source"]
        assert source["table"]
        assert source["paper"] or source["repository"], label
        located = [source[key] is not None for key in SOURCE_KEYS[2:]]
        assert all(located) or not any(located)
        assert source["commit"] is None or re.fullmatch("[0-9a-f]{40}", source["commit"])
        numbers = [*row["values"].values(), row["delta_m"], row.get("mean_rank")]
        assert all(number is None or isinstance(number, Decimal) for number in numbers), label
        assert row["values"] or row["delta_m"] is not None or label == published["baseline"]
    labels = [row["method"] for row in published["rows"]]
    assert len(set(labels)) == len(labels)


@each_file
def test_metrics_are_those_that_runs_log(name):
    logged = {"mean/accuracy": True, "decathlon/score": True}
    for task in (semantic(13), depth(), normal(), *(classification(one, 10) for one in FINETUNING_ERRORS)):
        logged |= {f"{task.name}/{metric}": higher for metric, higher in task.metric().higher_is_better.items()}
    published = load(name)
    for metric in published["metrics"]:
        assert (metric["better"] == "higher") == logged[metric["name"]]
        if metric["factor"] == 100 and metric["better"] == "higher":  # a fraction in our units
            values = [row["values"][metric["name"]] for _, row in results(published) if row["values"]]
            assert all(1 < value < 100 for value in values)


@each_file
def test_delta_m_follows_from_the_cells(name):
    """Within the rounding of the cells and of Delta-m, or by exactly the difference that the row states."""
    published = load(name)
    for label, row in results(published):
        if row["delta_m"] is None or not row["values"]:
            continue
        losses, bounds = from_cells(published, row["values"])
        off = float(row["delta_m"]) - np.mean(list(losses.values()))
        bound = np.mean(list(bounds.values())) + half_unit(row["delta_m"])
        if "delta_m_off" in row:
            assert abs(off) > bound, f"{label}: delta_m_off is not needed"
            assert abs(off - float(row["delta_m_off"])) <= 0.005, label
            assert (
                f"{abs(row['delta_m_off'])} {'below' if off < 0 else 'above'} that of the printed cells" in row["note"]
            )
        else:
            assert abs(off) <= bound, f"{label}: printed {row['delta_m']}, off by {off}"


def test_how_many_rows_have_cells_and_delta_m():
    """So that no row escapes the test above by a missing value."""
    counts = {
        name: sum(bool(row["values"]) and row["delta_m"] is not None for _, row in results(load(name)))
        for name in NAMES
    }
    nothing = dict.fromkeys(("celeba", "cityscapes_paper", "decathlon", "nyuv2_paper", "qm9"), 0)
    assert counts == {**nothing, "cityscapes": 41, "nyuv2": 52, "nyuv2_resnet50": 8}
    cells = {name: sum(bool(row["values"]) for _, row in results(load(name))) for name in NAMES}
    assert [cells[name] for name in ("cityscapes", "cityscapes_paper", "nyuv2", "nyuv2_paper")] == [42, 17, 72, 18]


@each_file
def test_our_delta_m_agrees(name):
    """In the units of runs: printed values divided by the factor."""
    published = load(name)
    if name == "decathlon":  # the score has no direction in delta_m
        assert REPORT["delta_m"](published, published["rows"][0]["values"]) is None
        return
    factors = {metric["name"]: float(metric["factor"]) for metric in published["metrics"]}

    def ours(values):
        return {key: float(value) / factors[key] for key, value in values.items()}

    for label, row in results(published):
        if not row["values"]:
            assert REPORT["delta_m"](published, row["values"]) is None
            continue
        losses, _ = from_cells(published, row["values"])
        single_task = ours(baseline_of(published))
        tasks = {key.split("/")[0] for key in losses}
        by_task = [np.mean([losses[key] for key in losses if key.startswith(f"{task}/")]) for task in tasks]
        expected = {"metrics": np.mean(list(losses.values())), "tasks": np.mean(by_task)}
        for average in ("metrics", "tasks"):
            found = delta_m(ours(row["values"]), single_task, average=average)
            np.testing.assert_allclose(found, expected[average], rtol=1e-9, atol=1e-9, err_msg=label)
        np.testing.assert_allclose(
            REPORT["delta_m"](published, row["values"]), expected["metrics"], rtol=1e-9, atol=1e-9
        )


def test_means_over_tasks_in_notes():
    """DB-MTL and Aligned-MTL print the other definition of Delta-m."""
    published, compared = load("nyuv2"), 0
    for row in published["rows"]:
        found = re.search(r"Printed mean over tasks: (\S+) \((higher|lower) is better\)", row["note"] or "")
        if found:
            losses, bounds = from_cells(published, row["values"])
            computed, bound = (
                np.mean([np.mean([one[key] for key in one if key.startswith(task)]) for task in ("sem", "dep", "nor")])
                for one in (losses, bounds)
            )
            printed = float(found[1]) * (-1 if found[2] == "higher" else 1)
            assert abs(printed - computed) <= bound + 0.005, row["method"]
            compared += 1
    assert compared == 8


@pytest.mark.parametrize(
    ("name", "printed", "ties", "tolerance"),
    [
        ("nyuv2", FAMO_TABLE_1, "average", 0.0051),
        ("cityscapes", NTKMTL_TABLE_7, "max", 0.0051),
        ("nyuv2", NTKMTL_TABLE_1, "average", 0.117),  # one rank in one of the 9 metrics: ties are broken both ways
    ],
)
def test_mean_ranks_of_whole_tables(name, printed, ties, tolerance):
    """They are the mean over metrics of a method's rank among the rows of the table."""
    published = load(name)
    cells = {row["method"]: row["values"] for row in published["rows"]}
    if printed is NTKMTL_TABLE_1:  # it has LibMTL's rerun under this name
        (aligned,) = [row for row in published["rows"] if row["method"] == "Aligned-MTL"]
        cells["Aligned-MTL"] = aligned["replications"][0]["values"]
    ranks = []
    for metric in published["metrics"]:
        values = np.array([float(cells[method][metric["name"]]) for method in printed])
        ranks.append(rankdata(-values if metric["better"] == "higher" else values, method=ties))
    np.testing.assert_allclose(np.mean(ranks, axis=0), list(printed.values()), atol=tolerance)


def test_stored_mean_ranks_are_those_of_the_table_named():
    for name, paper, printed in (("nyuv2", "FAMO", FAMO_TABLE_1), ("nyuv2", "NTKMTL", NTKMTL_TABLE_1)):
        stored = {row["method"]: row for row in load(name)["rows"]}
        rows = [row for row in stored.values() if f": {paper}:" in (row["source"]["paper"] or "")]
        assert rows
        assert all(float(row["mean_rank"]) == printed[row["method"]] for row in rows)


def test_decathlon_scores_follow_from_the_accuracies():
    """Within the rounding of accuracies; the challenge scores exact ones and truncates."""
    published = load("decathlon")
    base = baseline_of(published)
    for row in published["rows"]:
        values = {key.split("/")[0]: value for key, value in row["values"].items()}
        mean, score = values.pop("mean"), values.pop("decathlon")
        assert abs(np.mean([float(value) for value in values.values()]) - float(mean)) <= 0.0101, row[
            "method"
        ]  # rounded cells, rounded mean
        low, middle, high = (
            sum(
                1000
                * max(0, 1 - (100 - float(value) - shift) / (2 * (100 - float(base[f"{key}/accuracy"]) + shift))) ** 2
                for key, value in values.items()
            )
            for shift in (-0.005, 0, 0.005)
        )
        assert low - 1 <= score <= high, (row["method"], low, high)
        ours = decathlon_score({key: float(value) / 100 for key, value in values.items()}, FINETUNING_ERRORS)
        assert ours == pytest.approx(middle, rel=1e-9)


def test_replications_of_libmtl():
    """The README's mean over LibMTL's 14 methods, and one of its rows."""
    published, differences = load("nyuv2"), []
    for row in published["rows"]:
        for again in row["replications"]:
            if again["source"]["repository"] == "median-research-group/LibMTL":
                losses, reruns = (list(from_cells(published, one["values"])[0].values()) for one in (row, again))
                differences.append(np.mean(reruns) - np.mean(losses))
    mean, size = np.mean(differences), np.mean(np.abs(differences))
    text = REPORT["gaps"]("nyuv2")
    assert f"- LibMTL: mean difference {mean:+.2f}, mean absolute difference {size:.2f}, 14 methods" in text
    assert "| GradNorm | 7.37 | -4.03 | -11.40 | LibMTL |" in text
    assert len(differences) == 14


def test_the_readme_shows_the_tables_of_the_files():
    readme = (EXPERIMENT / "README.md").read_text()
    first, last = REPORT["MARKS"]
    assert readme.split(first)[1].split(last)[0].strip() == REPORT["text"]().strip()
    for name in NAMES:  # the number of rows in the first table
        (line,) = [line for line in readme.splitlines() if line.startswith("| `") and f"`{name}.json`" in line]
        place = re.findall(r"`(\w+)\.json`", line).index(name)
        assert line.split("|")[3].split(",")[place].strip() == str(len(load(name)["rows"]))


def test_report_prints_one_file_and_names_the_known_ones(capsys):
    REPORT["main"](["qm9"])
    assert "| LDC-MTL | `split` | 49.5 |  | [5] QM9 column" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="no file mnist; known names: nyuv2, cityscapes"):
        REPORT["main"](["mnist"])
