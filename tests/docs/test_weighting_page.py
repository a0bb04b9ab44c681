"""docs/weighting.md: its tables list every method, and its code runs."""

import dataclasses
import pathlib
import re
import textwrap

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import toy_config
from helpers.weighting_problem import Problem

from mtan_jax.config import default_config
from mtan_jax.reporting import metrics_file
from mtan_jax.weighting import BALANCERS, GRADIENT_METHODS, METHODS, WRAPPERS, build_weighting, task_weights

ROOT = pathlib.Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "weighting.md").read_text()
DEFINITIONS = ("def worst_first", "def equal_lengths", "def shrink_harmful_steps")
USAGES = ('METHODS["worst_first"] = ', "config.weighting = ((worst_first")  # by name, and as functions
# A whole run of the toy with the page's methods, added to METHODS only.
TOY = """
import runpy

{definitions}

def get_config(arg=None):
    config = runpy.run_path({toy!r})["get_config"](arg)
{usage}
    return config
"""
# Every method of LibMTL at commit 4336804, and the bilevel ones, which its README names and its trainer implements.
LIBMTL = """
    Aligned_MTL AutoLambda CAGrad DB_MTL DWA EW ExcessMTL FAMO FORUM FairGrad GLS GradDrop GradNorm GradVac IMTL MGDA
    MOML MoCo MoDo Nash_MTL PCGrad RLW SDMGrad STCH UPGrad UW
"""
# Every class that torchjd.aggregation and torchjd.scalarization export at commit 862baed (0.17), but the abstract ones.
TORCHJD = {
    "aggregator": """
        AlignedMTL CAGrad ConFIG Constant DualProj ExcessMTL FairGrad GradDrop GradVac IMTLG Krum Mean MGDA NashMTL
        PCGrad Random Sum TrimmedMean UPGrad
    """,
    "weighting": """
        AlignedMTL CAGrad Constant CRMOGM DualProj ExcessMTL FairGrad GradVac IMTLG Krum Mean MGDA MoDo PCGrad Random
        SDMGrad Sum UPGrad
    """,
    "scalarizer": "Constant COSMOS DWA FAMO GeometricMean IMTLL Mean PBI Random STCH Sum UW",
}
BLOCKS = re.findall(r"^```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


def block(word):
    (found,) = [text for text in BLOCKS if word in text]
    return found


def test_the_tables_have_every_method_once():
    sections = dict(re.findall(r"^### (.*?)\n(.*?)(?=^##)", PAGE, re.MULTILINE | re.DOTALL))
    for title, registry in zip(sections, (BALANCERS, WRAPPERS, GRADIENT_METHODS), strict=True):
        assert sorted(re.findall(r"^\| `(\w+)` \|", sections[title], re.MULTILINE)) == sorted(registry)


def test_the_readme_lists_as_many_methods_as_there_are():
    readme = (ROOT / "README.md").read_text()
    lists = re.search(
        r"^Methods that weight losses: ([^.]*)\.\s+Methods that combine gradients: ([^.]*)\.", readme, re.MULTILINE
    )
    weight, combine = (names.count(",") + 1 for names in lists.groups())
    assert combine == len(GRADIENT_METHODS)
    assert weight == len(BALANCERS) + len(WRAPPERS) - 1  # without telemetry, which changes nothing
    assert f"**{weight + combine} weighting methods**" in readme


def test_the_comparison_has_every_method_of_the_three_libraries():
    (section,) = re.findall(r"^## Compared with LibMTL and TorchJD\n(.*?)^## ", PAGE, re.MULTILINE | re.DOTALL)
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in section.splitlines() if line[:1] == "|"]
    compared, left_out = [row for row in rows if len(row) == 4], [row[0] for row in rows if len(row) == 2]
    missing = [text.removeprefix("LibMTL: ") for text in left_out if text.startswith("LibMTL: ")]
    found = [row[0] for row in compared[2:] if row[0]]
    assert sorted(found + [name for name in missing if name.isalpha()]) == sorted(LIBMTL.split())
    theirs = [row[1].split(": ") for row in compared[2:] if row[1]]
    for kind, names in TORCHJD.items():
        assert sorted(name for name, kinds in theirs if kind in kinds.split(", ")) == sorted(names.split())
    (only,) = re.findall(r"^Ours only: (.*?)^$", section, re.MULTILINE | re.DOTALL)
    ours = [name for row in compared[2:] for name in row[2].strip("`").split("+")] + re.findall(r"`(\w+)`", only)
    assert set(ours) == {*BALANCERS, *WRAPPERS, *GRADIENT_METHODS}


def test_options_on_the_page_are_known():
    config = default_config()
    exec(block('config.weighting = "dwa+pcgrad"'), {"config": config})
    assert config.weighting_options.dwa.temperature == 1.0
    exec(block('(("dwa", {"temperature": 1.0}), "pcgrad")'), {"config": config})
    tasks = ("semantic", "depth")
    build_weighting(config.weighting, tasks, optax.identity(), defaults={"steps_per_epoch": 3})
    names = {name: METHODS[name] for name in ("dwa", "pcgrad")}
    exec(block("tx = optax.chain("), {"optax": optax, "tasks": tasks, **names})


@pytest.mark.parametrize("word", DEFINITIONS)
def test_a_users_method_is_short(word):
    text = block(word)
    body = text[text.index("def ") :]
    assert len(body.strip().splitlines()) <= 20


@pytest.mark.parametrize("usage", USAGES)
def test_a_users_methods_learn_and_resume(usage):
    problem = Problem()
    names = {"config": default_config()}
    for word in (*DEFINITIONS, usage):
        exec(block(word), names)
    config = names["config"]
    tx = build_weighting(config.weighting, problem.tasks, optax.adam(0.02))
    batch = {key: value[0] for key, value in problem.batches.items()}

    @jax.jit
    def steps(params, state):
        def step(carry, _):
            given = problem.task_gradients(carry[0], batch)
            given = dataclasses.replace(
                given, dependence=lambda: np.ones((2, 3), bool)
            )  # "head_all" has a column per task
            updates, state = tx.update(given, carry[1], carry[0])
            return (optax.apply_updates(carry[0], updates), state), (given.losses, task_weights(state))

        return jax.lax.scan(step, (params, state), length=50)

    params = jax.tree.map(jnp.asarray, {"shared": problem.params["shared"], "head_all": problem.params["heads"]})
    sums = problem.sums
    problem_sums = lambda params, batch: sums({"shared": params["shared"], "heads": params["head_all"]}, batch)  # noqa: E731
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(problem), "sums", staticmethod(problem_sums))
        half, (losses, weights) = steps(params, tx.init(params))
        whole, _ = steps(*half)
        again, _ = steps(*jax.device_get(half))
    assert (losses[-1] < 0.7 * losses[0]).all()
    assert len(np.unique(np.asarray(weights)[:, 0])) > 40
    jax.tree.map(np.testing.assert_array_equal, whole, again)


def test_a_run_trains_with_the_users_methods_by_name(tmp_path, run_main):
    file = tmp_path / "config.py"
    definitions = "\n\n".join(block(word) for word in DEFINITIONS)
    usage = textwrap.indent(block(USAGES[0]), " " * 4)
    file.write_text(TOY.format(definitions=definitions, usage=usage, toy=toy_config.__file__))
    run_main(f"--config={file}", f"--workdir={tmp_path / 'run'}", f"--config.data.data_dir={tmp_path / 'data'}")
    lines = [line for line in metrics_file.read_metrics(tmp_path / "run" / "metrics.jsonl") if line["split"] == "train"]
    assert [line["step"] for line in lines] == [1, 2, 3, 4]
    weights = np.array([[line[f"weights/{task}"] for task in ("semantic", "depth", "normal")] for line in lines])
    assert len(np.unique(weights[:, 0])) == 4
