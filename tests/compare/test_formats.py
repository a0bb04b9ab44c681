"""The four formats hold the same numbers."""

import io
import json
import math
import re
import shutil
import subprocess

import pandas as pd
import pytest
from helpers import stored_runs
from helpers.published_results import content

import mtan_jax as mtan
from mtan_jax.compare import latex
from mtan_jax.compare.errors import ComparisonError

NAME = "arch=mtan weighting=equal"


@pytest.fixture(scope="module")
def comparison(stored):
    return mtan.compare_runs(stored[0], baseline="arch=single", use="mean:9")  # with warnings: there are 4 evaluations


def rows(text):
    """The cells of a Markdown table, by the name of the row."""
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("|")]
    return {line[0]: line[1:] for line in lines}


def test_markdown(comparison):
    first, second = comparison.to_text().split("**Mean of the last 9 evaluations on val")[1:]
    table = rows(first)
    assert table[""] == [
        *("n", "semantic mIoU (%) ↑", "semantic pix. acc. (%) ↑", "depth abs. err. ↓", "depth rel. err. ↓"),
        *("normal mean (°) ↓", "normal median (°) ↓", "normal <11.25° (%) ↑", "normal <22.5° (%) ↑"),
        *("normal <30° (%) ↑", "Δm metrics (%) ↓", "Δm tasks (%) ↓", "MR ↓"),
    ]
    mean, error = (frame.loc[NAME] for frame in (comparison.means, comparison.standard_errors))
    cells = [cell.strip("*") for cell in table[NAME]]
    assert cells[0] == "3"
    assert cells[1] == f"{100 * mean['semantic/miou']:.2f} ± {100 * error['semantic/miou']:.2f}"
    assert cells[3] == f"{mean['depth/abs_error']:.4f} ± {error['depth/abs_error']:.4f}"
    assert cells[10] == f"{mean['delta_m/metrics']:.2f} ± {error['delta_m/metrics']:.2f}"
    assert cells[12] == f"{mean['mean_rank']:.2f}"
    assert table["arch=single weighting=equal (baseline)"][-3].startswith("0.00 ± ")  # not -0.00
    row = comparison.differences.loc[(NAME, "normal/mean")]
    text = f"{row['mean']:+.2f} [{row['low']:+.2f}, {row['high']:+.2f}]"
    assert rows(second)[NAME][5].strip("*") == text
    assert first.startswith("**\n")
    assert second.startswith(
        ": differences to arch=single weighting=equal, paired by seed, with 95 % intervals (Student's t)**"
    )


def test_the_best_group_is_bold(comparison):
    table = rows(comparison.to_text().split("differences to")[0])
    means = comparison.means.drop("arch=single weighting=equal")
    for column, (metric, higher) in {1: ("semantic/miou", True), 6: ("normal/median", False)}.items():
        best = means[metric].idxmax() if higher else means[metric].idxmin()
        assert [name for name, cells in table.items() if cells[column].startswith("**")] == [best]


def test_bold_differences_exclude_0(comparison):
    table = rows(comparison.to_text().split("differences to")[1])
    for name in comparison.means.index.drop("arch=single weighting=equal"):
        for column, metric in enumerate(comparison.columns[:-1], start=1):
            row = comparison.differences.loc[(name, metric)]
            assert table[name][column].startswith("**") == (row["low"] > 0 or row["high"] < 0)


def test_warnings_are_in_every_format(comparison):
    assert len(comparison.warnings) == 21
    line = comparison.warnings[0]
    assert f"\n- {line}\n" in comparison.to_text()
    assert f"% warning: {line}\n" in comparison.to_text("latex")
    assert f"# warning: {line}\n" in comparison.to_text("csv")
    assert json.loads(comparison.to_text("json"))["warnings"][0] == line


@pytest.mark.parametrize("kind", ["markdown", "latex", "csv", "json"])
def test_the_heading_is_in_every_format(stored, kind):
    text = mtan.compare_runs(stored[0], use="best:semantic/miou").to_text(kind)
    plain = text.replace("\\", "")
    assert "Evaluation with the best semantic/miou on val (best on val, biased)" in plain


def test_csv(comparison):
    frame = pd.read_csv(io.StringIO(comparison.to_text("csv")), comment="#")
    assert set(frame["kind"]) == {"baseline", "run"}
    assert set(frame["weighting"]) == {"equal", "nash_mtl"}
    for _, row in frame.iterrows():
        assert row["mean"] == pytest.approx(comparison.means.at[row["group"], row["metric"]], rel=1e-12)
        if row["metric"] == "mean_rank":
            assert math.isnan(row["n"])
            continue
        assert row["n"] == 3
        expected = comparison.standard_errors.at[row["group"], row["metric"]]
        assert row["standard_error"] == pytest.approx(expected, rel=1e-12)
        if row["kind"] == "run":
            expected = comparison.differences.loc[(row["group"], row["metric"])]
            found = row[["difference", "difference_low", "difference_high", "difference_n"]].astype(float)
            assert list(found) == pytest.approx(list(expected), rel=1e-12)
    assert len(frame) == 5 * 11 + 4  # 9 metrics and two Delta-m, and a rank of all but the baseline


def test_json(comparison, stored):
    content = json.loads(comparison.to_text("json"))
    group = next(group for group in content["groups"] if group["name"] == NAME)
    assert group["fields"] == {"model.arch": "mtan", "weighting": "equal"}
    assert group["runs"][f"{stored[0]}/mtan-equal-2"] == {"seed": 2, "step": 1590}
    assert group["seeds"]["2"]["delta_m/tasks"] == comparison.seeds.at[(NAME, 2), "delta_m/tasks"]
    mean = group["metrics"]["depth/abs_error"]
    assert (mean["mean"], mean["n"]) == (comparison.means.at[NAME, "depth/abs_error"], 3)
    assert mean["difference_low"] == comparison.differences.loc[(NAME, "depth/abs_error"), "low"]


def test_one_seed_has_no_error_and_no_interval(tmp_path):
    for arch, values in (("single", stored_runs.STL), ("mtan", stored_runs.LS)):
        stored_runs.write(tmp_path / arch, values, model__arch=arch)
    found = mtan.compare_runs(tmp_path, baseline="arch=single", metrics=["semantic/miou"])
    first, second = found.to_text().split("differences to")
    assert rows(first)["arch=mtan"] == ["1", "39.29"]
    assert rows(second)["arch=mtan"] == ["1", "+0.99"]
    metric = json.loads(found.to_text("json"))["groups"][1]["metrics"]["semantic/miou"]
    assert (metric["standard_error"], metric["difference_low"], metric["n"]) == (None, None, 1)


def test_seeds_that_a_metric_lacks(tmp_path):
    for seed in range(3):
        depth = {"depth/abs_error": 1.0 + seed, "depth/rel_error": math.nan if seed == 2 else 12.0}
        stored_runs.write(tmp_path / str(seed), depth, tasks=("depth",), seed=seed)
    text = mtan.compare_runs(tmp_path).to_text()
    assert rows(text)["arch=mtan weighting=equal"] == ["3", "2.000 ± 0.577", "12.00 ± 0.00 (n=2)"]


def test_files(comparison, tmp_path):
    for suffix, kind in {".md": "markdown", ".tex": "latex", ".csv": "csv", ".json": "json"}.items():
        comparison.save(tmp_path / "new" / f"table{suffix}")
        assert (tmp_path / "new" / f"table{suffix}").read_text() == comparison.to_text(kind)
    with pytest.raises(ComparisonError, match=r"table\.txt: expected a name that ends in \.md, \.tex, \.csv, \.json"):
        comparison.save(tmp_path / "table.txt")
    with pytest.raises(ComparisonError, match="--format=html is not known; known: markdown, latex, csv, json"):
        comparison.to_text("html")


def test_escaping():
    assert latex.escape(r"a_b 5% {x} ~^\ #&$ < > |") == (
        r"a\_b 5\% \{x\} \textasciitilde{}\textasciicircum{}\textbackslash{} \#\&\$ $<$ $>$ $|$"
    )
    assert latex.escape("Δm ± 1° → ↓") == r"$\Delta_m$ $\pm$ 1$^\circ$ $\to$ $\downarrow$"


def test_latex_cells(comparison):
    text = comparison.to_text("latex")
    mean, error = (
        100 * frame.at[NAME, "semantic/pixel_accuracy"] for frame in (comparison.means, comparison.standard_errors)
    )
    row = next(line for line in text.splitlines() if line.startswith("arch=mtan weighting=equal &"))
    assert rf"& {mean:.2f}\,{{\tiny$\pm$\,{error:.2f}}} &" in row
    assert r"\multicolumn{2}{c}{depth}" in text
    assert r"\cmidrule(lr){5-6}" in text  # after the name, n, and two metrics of semantic


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="there is no pdflatex")
def test_latex_compiles(tmp_path):
    awkward = r"50%_of $a & #b~^{x}\y"
    for arch, values in (("single", stored_runs.STL), ("mtan", stored_runs.LS)):
        stored_runs.write(tmp_path / "runs" / arch, values, model__arch=arch, model__init_from=f"{awkward} {arch}")
    published = content()
    published["rows"][1]["protocol"] = awkward
    (tmp_path / "rooms.json").write_text(json.dumps(published))
    found = mtan.compare_runs(tmp_path / "runs", baseline="arch=single", published=str(tmp_path / "rooms.json"))
    document = r"\documentclass{article}\usepackage{booktabs,graphicx}\begin{document}" + found.to_text("latex")
    (tmp_path / "table.tex").write_text(document + r"\end{document}")
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "table.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:]
    assert not re.search("Overfull|Missing character", done.stdout)
