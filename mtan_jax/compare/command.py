"""The command line of `python -m mtan_jax.compare`."""

import argparse
import os
import pathlib
import sys
from collections.abc import Sequence
from typing import NoReturn

DESCRIPTION = """Compares runs: one row per group of runs that differ only in their seed.

Each metric is shown as mean ± standard error over seeds, with Delta-m, the mean
rank (MR), and differences that are paired by seed. Groups are named by the
fields of config.json in which they differ, such as "arch=mtan weighting=dwa".
Warnings name runs that are incomplete, or that differ in data, length or
evaluation protocol."""

EXAMPLES = """examples:
  python -m mtan_jax.compare runs/*
  python -m mtan_jax.compare runs/* --baseline=arch=single --sort=delta_m
  python -m mtan_jax.compare runs/* --use=mean:10 --published=nyuv2
  python -m mtan_jax.compare runs/* --against='arch=mtan,width=1' --output=a.tex
  python -m mtan_jax.compare runs/* --metrics='depth/*,mr' --figures=figures

In Python: mtan_jax.compare_runs("runs/*", baseline="arch=single").means is a
pandas data frame."""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        fail(f"{message}; --help lists the flags")


def fail(message: str) -> NoReturn:
    """Ends the program with one message on stderr and exit code 1."""
    sys.exit(f"error: {message}")


def make_parser() -> argparse.ArgumentParser:
    """The parser of the command line."""
    parser = _Parser(
        prog="python -m mtan_jax.compare",
        description=DESCRIPTION,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("workdirs", nargs="+", metavar="WORKDIR", help="working directories, folders that contain some, or patterns")
    groups = parser.add_argument_group("what is compared")
    add = groups.add_argument
    add(
        "--baseline",
        metavar="FIELDS",
        help="the runs that Delta-m is relative to, as field=value pairs joined by "
        "commas, or the name of a group; single-task runs of one task each are joined",
    )
    add("--against", metavar="FIELDS", help="the group that differences are relative to; by default the baseline")
    add(
        "--ignore",
        metavar="FIELDS",
        type=_names,
        default=(),
        help="fields that the runs of a group need not agree in, joined by commas, such as init_from",
    )
    add("--split", default="val", help="the rows of metrics.jsonl to read; default: val")
    add(
        "--use",
        default="last",
        metavar="WHICH",
        help="the evaluation that counts: last (default), mean:N (mean of "
        "the last N), or best:METRIC (biased, since it is chosen on the same split)",
    )
    add(
        "--confidence", type=float, default=0.95, metavar="LEVEL", help="of the intervals of differences; default: 0.95"
    )
    add(
        "--higher",
        metavar="METRICS",
        type=_names,
        default=(),
        help="metrics of your own tasks of which more is better, so that they count for Delta-m and MR",
    )
    add("--lower", metavar="METRICS", type=_names, default=(), help="the same for metrics of which less is better")
    shown = parser.add_argument_group("what is shown")
    add = shown.add_argument
    add(
        "--metrics",
        "--columns",
        metavar="METRICS",
        type=_names,
        default=(),
        help="names or patterns joined by "
        "commas, such as 'depth/*,delta_m/*,mean_rank'; by default those that count for Delta-m, and the scores",
    )
    add("--sort", metavar="METRIC", help="sort groups by a metric, the best first, such as delta_m or mean_rank")
    add("--parameters", action="store_true", help="count the parameters of the networks; takes some seconds")
    add(
        "--published",
        metavar="NAME",
        help="show published results below, such as nyuv2 or nyuv2:LS,Nash-MTL, or those of a JSON file",
    )
    add("--format", metavar="FORMAT", help="markdown (default), latex (booktabs), csv or json")
    add(
        "--output",
        type=pathlib.Path,
        metavar="FILE",
        help="write to a file instead of the terminal; .md, .tex, .csv or .json selects the format",
    )
    add(
        "--figures",
        type=pathlib.Path,
        metavar="FOLDER",
        help="draw figures: metrics, curves, sensitivity to the "
        "weighting, Delta-m over parameters, task weights, cosines of gradients",
    )
    return parser


def _names(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command. An error that the user can fix ends in one message and exit code 1."""
    options = make_parser().parse_args(arguments)
    # Imports pandas: --help and mistakes in flags need not wait for it.
    from mtan_jax.compare.errors import ComparisonError
    from mtan_jax.runtime.paths import PathError

    try:
        _run(options)
    except (ComparisonError, PathError, OSError) as error:
        fail(str(error))


def _run(options: argparse.Namespace) -> None:
    from mtan_jax.compare import formats
    from mtan_jax.compare.comparison import compare_runs

    if options.parameters:
        os.environ.setdefault("JAX_PLATFORMS", "cpu")  # a GPU's memory may belong to a run that trains
    kind = options.format or (formats.kind_of(options.output) if options.output else "markdown")
    formats.check_kind(kind)
    comparison = compare_runs(
        options.workdirs,
        baseline=options.baseline,
        against=options.against,
        use=options.use,
        split=options.split,
        confidence=options.confidence,
        ignore=options.ignore,
        metrics=options.metrics,
        sort=options.sort,
        published=options.published,
        higher_is_better={**dict.fromkeys(options.higher, True), **dict.fromkeys(options.lower, False)},
        parameters=options.parameters,
    )
    for line in comparison.warnings:
        _report(f"warning: {line}")
    text = comparison.to_text(kind)
    if options.output:
        options.output.parent.mkdir(parents=True, exist_ok=True)
        options.output.write_text(text, encoding="utf-8")
        _report(f"wrote {options.output}")
    else:
        sys.stdout.write(text)
    if options.figures:
        for line in comparison.draw(options.figures):
            _report(line)


def _report(line: str) -> None:
    sys.stderr.write(f"{line}\n")


def console() -> None:
    """The program: `python -m mtan_jax.compare`."""
    main()
