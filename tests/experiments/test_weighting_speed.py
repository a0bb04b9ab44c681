"""The records of experiments/weighting_speed: the tables of its README, and equal first updates."""

import json
import pathlib
import runpy

EXPERIMENT = pathlib.Path(__file__).parents[2] / "experiments" / "weighting_speed"
RESULTS = json.loads((EXPERIMENT / "results.json").read_text())
RANDOM = ("pcgrad",)  # each library draws its own order of the tasks
# MGDA's solvers stop after 100 or 250 steps there, and both add 1e-4 to the diagonal of UPGrad's matrix.
INEXACT = {"mgda": 0.2, "upgrad": 0.01}


def test_the_readme_shows_the_tables_of_the_results():
    report = runpy.run_path(str(EXPERIMENT / "report.py"))
    assert report["tables"](RESULTS) in (EXPERIMENT / "README.md").read_text()


def test_both_sides_compute_the_same_first_update_of_the_shared_parameters():
    compared = 0
    for record in RESULTS["records"]:
        method = record["method"]
        if record.get("differs_by") and method not in RANDOM:
            bound = 1e-4 if record["library"] == "mtan_jax" else INEXACT.get(method, 1e-3)
            assert record["differs_by"]["shared"] < bound, (record["library"], method, record["variant"])
            compared += 1
    assert compared > 100
