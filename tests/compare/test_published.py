"""Published results beside one's own."""

import json

import pytest
from helpers import stored_runs
from helpers.published_results import content

import mtan_jax as mtan
from mtan_jax.compare import published
from mtan_jax.compare.errors import ComparisonError


@pytest.fixture
def folder(tmp_path, monkeypatch):
    (tmp_path / "rooms.json").write_text(json.dumps(content()))
    monkeypatch.setattr(published, "_folder", lambda: tmp_path)
    return tmp_path


def test_values_have_our_units(folder):
    rows = {row.method: row for row in published.load("rooms").rows}
    for name, value in stored_runs.NASH.items():
        assert rows["Nash-MTL"].values[name] == pytest.approx(value, rel=1e-12)
    assert set(rows["Partial"].values) == {"semantic/miou", "delta_m/metrics"}


def test_delta_m_as_printed_or_else_computed(folder):
    rows = {row.method: row.values for row in published.load("rooms").rows}
    assert rows["LS"]["delta_m/metrics"] == 5.59
    assert rows["LS"]["delta_m/tasks"] == pytest.approx(-0.88, abs=0.01)  # by the formula in test_comparison
    assert rows["Nash-MTL"]["delta_m/metrics"] == pytest.approx(-4.04, abs=0.01)
    assert (rows["LS"]["mean_rank"], rows["Partial"]["delta_m/metrics"]) == (8.89, 1.0)
    assert rows["STL"]["delta_m/metrics"] == 0


def test_delta_m_of_a_paper_that_averages_over_tasks(folder):
    changed = content()
    changed["rows"][1]["delta_m"] = -0.9
    (folder / "rooms.json").write_text(json.dumps(changed))
    values = published.load("rooms").rows[1].values
    assert values["delta_m/tasks"] == -0.9
    assert values["delta_m/metrics"] == pytest.approx(5.59, abs=0.01)


def test_rows_of_a_table(folder, tmp_path):
    stored_runs.write(tmp_path / "runs" / "stl", stored_runs.STL, model__arch="single")
    stored_runs.write(tmp_path / "runs" / "ours", stored_runs.LS)
    found = mtan.compare_runs(
        tmp_path / "runs", baseline="arch=single", published="rooms", metrics=["depth/*", "delta_m"]
    )
    lines = [
        [cell.strip() for cell in line.split("|")[1:-1]] for line in found.to_text().splitlines() if line[:1] == "|"
    ]
    assert lines[4:9] == [
        ["*published: SegNet-MTAN on NYUv2*", "", "", "", ""],
        ["STL on SegNet (published)", "-", "0.6754", "0.2780", "0.00"],
        ["LS on SegNet-MTAN (published)", "-", "0.5493", "0.2263", "5.59"],
        ["Nash-MTL on SegNet-MTAN (published)", "-", "0.5261", "0.2171", "-4.05"],
        ["Partial on SegNet-MTAN (published)", "-", "-", "-", "1.00"],
    ]
    assert lines[3] == ["arch=mtan", "1", "0.5493", "0.2263", "5.59"]
    assert (
        "Published rows (rooms): 200 epochs, batch size 2. Their Δm is relative to the published STL" in found.to_text()
    )
    assert "LS on SegNet-MTAN (published): no decay" in found.to_text()


def test_columns_have_the_units_of_the_publication(folder, tmp_path):
    changed = content()
    changed["metrics"][3] |= {"factor": 100, "decimals": 1}
    (folder / "rooms.json").write_text(json.dumps(changed))
    stored_runs.write(tmp_path / "runs" / "ours", stored_runs.LS)
    text = mtan.compare_runs(tmp_path / "runs", published="rooms").to_text()
    assert "depth rel. err. (%) ↓" in text
    assert " 22.6 |" in text


def test_a_file_of_ones_own(folder):
    other = folder / "sub" / "mine.json"
    other.parent.mkdir()
    other.write_text(json.dumps(content()))
    assert published.load(str(other)).name == "mine"
    assert published.known_names() == ["rooms"]


@pytest.mark.parametrize("name", ["nyu", "nyu.json"])
def test_unknown_names(folder, name):
    with pytest.raises(ComparisonError, match=f"--published={name}: there are no such results; known: rooms"):
        published.load(name)


@pytest.mark.parametrize("key", ["rows", "metrics", "title"])
def test_damaged_files(folder, key):
    changed = content()
    del changed[key]
    (folder / "rooms.json").write_text(json.dumps(changed))
    with pytest.raises(ComparisonError, match=rf"--published=rooms: .*rooms\.json is damaged \(KeyError: '{key}'\)"):
        published.load("rooms")
