"""The command line."""

import json
import os
import pathlib
import subprocess
import sys

import pytest
from helpers import stored_runs

import mtan_jax as mtan
from mtan_jax.compare import command

ROOT = pathlib.Path(__file__).parents[2]


def test_a_table_on_the_terminal(stored, capsys):
    command.main([str(stored[0]), "--baseline=arch=single", "--sort=delta_m", "--use=mean:2"])
    out, err = capsys.readouterr()
    assert out == mtan.compare_runs(stored[0], baseline="arch=single", sort="delta_m", use="mean:2").to_text()
    assert err == ""


def test_flags_and_arguments_agree(stored, tmp_path, capsys):
    file = tmp_path / "new" / "table.json"
    flags = [
        "--baseline=arch=single",
        "--against=arch=mtan,weighting=equal",
        "--confidence=0.8",
        "--metrics=depth/*,mr",
    ]
    flags += [
        "--ignore=width",
        "--lower=semantic/miou",
        "--higher=depth/rel_error",
        "--split=val",
        "--use=mean:3",
    ]
    command.main([f"{stored[0]}/*", *flags, f"--output={file}"])
    out, err = capsys.readouterr()
    expected = mtan.compare_runs(
        f"{stored[0]}/*",
        baseline="arch=single",
        against="arch=mtan weighting=equal",
        confidence=0.8,
        metrics=["depth/*", "mean_rank"],
        ignore=["model.width"],
        higher_is_better={"semantic/miou": False, "depth/rel_error": True},
        use="mean:3",
    )
    assert json.loads(file.read_text()) == json.loads(expected.to_text("json"))
    assert (out, err) == ("", f"wrote {file}\n")


def test_warnings_and_figures_on_stderr(tmp_path, capsys):
    stored_runs.write(tmp_path / "runs" / "a", {"depth/abs_error": 0.5}, tasks=("depth",), epochs=3)
    command.main([str(tmp_path / "runs"), f"--figures={tmp_path}/figures", "--format=csv"])
    out, err = capsys.readouterr()
    assert out.startswith("# Last evaluation on val\n# warning: not trained to the end")
    lines = err.splitlines()
    assert lines[0].startswith("warning: not trained to the end; the last evaluation is that of: ")
    assert lines[1] == f"figure {tmp_path}/figures/metrics.png"
    assert (tmp_path / "figures" / "metrics.png").is_file()
    assert "figure weights skipped: no run logged weights/..." in lines


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "error: there is no run to compare; give working directories, such as runs/*"),
        (["RUNS", "--baseline=arch=x"], "error: --baseline=arch=x selects no group; model.arch has the values mtan"),
        (["RUNS", "--format=html"], "error: --format=html is not known; known: markdown, latex, csv, json"),
        (["RUNS", "--output=table.html"], "error: table.html: expected a name that ends in .md, .tex, .csv, .json"),
        (["RUNS", "--bsaeline=x"], "error: unrecognized arguments: --bsaeline=x; --help lists the flags"),
        (["RUNS", "--confidence=high"], "error: argument --confidence: invalid float value: 'high'; --help lists"),
        (["RUNS", "--published=moon"], "error: --published=moon: there are no such results; known: "),
        ([], "error: the following arguments are required: WORKDIR; --help lists the flags"),
        (["gs://b/runs"], "error: gs://b/runs is not a local path; copy config.json, data.json and metrics.jsonl"),
    ],
)
def test_mistakes_end_in_one_message(stored, arguments, message, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stopped:
        command.main([str(stored[0]) if argument == "RUNS" else argument for argument in arguments])
    assert str(stopped.value).startswith(message)


def test_help_names_every_flag(capsys):
    with pytest.raises(SystemExit) as stopped:
        command.main(["--help"])
    out = capsys.readouterr().out
    assert stopped.value.code == 0
    parser = command.make_parser()
    assert all(action.help for action in parser._actions)
    assert "python -m mtan_jax.compare runs/* --baseline=arch=single --sort=delta_m" in out


def test_examples_in_the_help_parse():
    lines = [line.split()[3:] for line in command.EXAMPLES.splitlines() if line.startswith("  python")]
    assert len(lines) == 5
    for line in lines:
        command.make_parser().parse_args([argument.strip("'") for argument in line])


def start(code):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command_line = [sys.executable, "-c", code]
    return subprocess.run(command_line, env=environment, capture_output=True, text=True, check=True).stdout.split()


def test_a_comparison_imports_neither_jax_nor_matplotlib(stored):
    """Each takes seconds."""
    code = "import sys; from mtan_jax.compare import command; command.main([{}]); print(*sys.modules)"
    loaded = set(start(code.format(f"{str(stored[0])!r}, '--baseline=arch=single'")))
    assert "mtan_jax.compare.statistics" in loaded
    assert not loaded & {"jax", "flax", "tensorflow_datasets", "matplotlib"}


def test_importing_the_package_does_not_import_pandas():
    loaded = set(start("import sys, mtan_jax, mtan_jax.compare.command; print(*sys.modules)"))
    assert not loaded & {"jax", "pandas", "scipy"}


def test_the_module_runs(stored):
    process = [sys.executable, "-m", "mtan_jax.compare", "nowhere"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(process, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("error: there is no run to compare")
