"""The tables of docs/masks.md are those of the stored results."""

import json
import pathlib
import runpy

import pytest

ROOT = pathlib.Path(__file__).parents[2]
FOLDER = ROOT / "experiments" / "masks"


@pytest.mark.parametrize("name", ["streets", "rooms"])
def test_tables(name):
    report = runpy.run_path(str(FOLDER / "report.py"))
    page = (ROOT / "docs" / "masks.md").read_text()
    results = json.loads((FOLDER / "results" / f"{name}.json").read_text())
    for kind in ("statistics", "metrics"):
        assert f"<!-- {name}: {kind} -->\n\n{report[kind](results)}\n\n<!-- end -->" in page
