"""configs/own_network.py trains a user's own network, target and task, and docs/own_network.md shows that file."""

import ast
import io
import pathlib
import re
import runpy
import tokenize

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtan_jax.commands.summary import count, count_parts, summary
from mtan_jax.data import DATASETS
from mtan_jax.experiment import Experiment
from mtan_jax.models import BACKBONES
from mtan_jax.reporting import figures, metrics_file
from mtan_jax.steps import make_predict_step
from mtan_jax.tasks import TASKS as TASKS_BY_NAME

ROOT = pathlib.Path(__file__).parents[2]
CONFIG = ROOT / "configs" / "own_network.py"
PAGE = ROOT / "docs" / "own_network.md"
MODELS = ROOT / "mtan_jax" / "models"
TASKS = ("semantic", "depth", "normal", "edges")


@pytest.fixture(scope="module", autouse=True)
def registries():
    """Removes what the configuration registers, so that other tests see the library unchanged."""
    before = [(names, dict(names)) for names in (BACKBONES, DATASETS, TASKS_BY_NAME)]
    yield
    for names, old in before:
        names.clear()
        names.update(old)


@pytest.fixture(scope="module")
def own():
    return runpy.run_path(str(CONFIG))


@pytest.fixture(scope="module")
def experiment(own):
    return Experiment.from_config(own["get_config"]())


def docstrings(source):
    """The line numbers of the module's docstring, and of all others."""
    module, others = set(), set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node):
            lines = range(node.body[0].lineno, node.body[0].end_lineno + 1)
            (module if isinstance(node, ast.Module) else others).update(lines)
    return module, others


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)


def test_the_configuration_has_less_than_60_lines_of_code():
    source = CONFIG.read_text()
    empty = (tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER)
    tokens = [token for token in tokenize.generate_tokens(io.StringIO(source).readline) if token.type not in empty]
    lines = {line for token in tokens for line in range(token.start[0], token.end[0] + 1)}
    assert 40 < len(lines.difference(*docstrings(source))) < 60


def test_the_page_shows_the_file():
    source = CONFIG.read_text()
    module, _ = docstrings(source)
    lines = [line for i, line in enumerate(source.splitlines(), 1) if line and i not in module]
    shown = [line for block in blocks("python") for line in block.splitlines() if line]
    assert shown == lines


def test_the_page_shows_the_shapes_and_parameter_counts(experiment):
    (table,) = (block for block in blocks("text") if block.startswith("stage "))
    assert f"\n\n{table}\n" in summary(experiment)
    params = experiment.abstract_variables["params"]
    page = " ".join(PAGE.read_text().split())
    assert f"{count(params):,} in all" in page
    assert f"has {count_parts(params, TASKS)['attention']:,}." in page
    # By hand: 64x128 pixels, a quarter of 32, 64 and 128 channels, halved twice.
    shapes = ["64x128x8", "32x64x16", "16x32x32", "32x64x16", "64x128x8"]
    assert [line.split()[2] for line in table.splitlines()[1:]] == shapes


def test_borders_by_hand(own):
    classes = np.array([[0, 0, 0, 1], [0, 0, 0, 1], [-1, 0, 2, 2]], np.int8)
    expected = [[0, 0, 1, 1], [0, 0, 1, 1], [-1, 1, 1, 1]]
    np.testing.assert_array_equal(own["borders"](classes), expected)
    assert own["borders"](classes).dtype == np.int8
    np.testing.assert_array_equal(own["borders"](np.full((3, 4), -1, np.int8)), -1)


def test_every_task_has_a_mask_at_every_stage(experiment):
    image = jnp.zeros((2, 16, 24, 3))
    masks = jax.eval_shape(make_predict_step(experiment.model), experiment.abstract_variables, {"image": image})[1]
    sizes = {"down1": (16, 24, 8), "down2": (8, 12, 16), "middle": (4, 6, 32), "up2": (8, 12, 16), "up1": (16, 24, 8)}
    assert {name: mask.shape for name, mask in masks.items()} == {k: (4, 2, *size) for k, size in sizes.items()}
    params = experiment.abstract_variables["params"]
    assert all(set(params[f"attention_{task}"]) == set(sizes) for task in TASKS)


def imported_models(path):
    """The modules of mtan_jax.models that a file imports."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("mtan_jax.models"):
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            yield from (name if module_file(name) else node.module for name in names)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.startswith("mtan_jax.models"))


def module_file(module):
    path = MODELS.joinpath(*module.split(".")[2:])
    return next((file for file in (path.with_suffix(".py"), path / "__init__.py") if file.exists()), None)


@pytest.mark.parametrize("name", ["attention", "mtan", "stage"])
def test_attention_depends_on_no_backbone(name):
    found, left = set(), {f"mtan_jax.models.{name}"}
    while left:
        module = left.pop()
        found.add(module)
        left |= set(imported_models(module_file(module))) - found
    assert len(found) > 1
    # Nor on the package itself, which registers all backbones.
    assert not [module for module in found if module == "mtan_jax.models" or "backbones" in module]


def test_a_batch_passes_through_network_losses_metrics_and_panel(own, tmp_path):
    config = own["get_config"]("smoke")
    config.data.data_dir = str(tmp_path)
    experiment = Experiment.from_config(config)
    experiment.data.prepare()
    rng = np.random.default_rng(0)
    # `model.init` would take seconds to compile. Running variances must be positive.
    variables = jax.tree.map(
        lambda x: np.abs(rng.normal(0.2, 0.1, x.shape), dtype=x.dtype), experiment.abstract_variables
    )
    batch = next(experiment.data.eval_batches("val"))
    predictions, masks = jax.jit(make_predict_step(experiment.model))(variables, {"image": batch["image"]})
    edges = batch["targets"]["edges"]
    assert batch["labelled"]["edges"].tolist() == batch["labelled"]["semantic"].tolist()
    np.testing.assert_array_equal(edges < 0, batch["targets"]["semantic"] < 0)
    for task in experiment.tasks:
        labelled = jnp.asarray(batch["labelled"][task.target])
        target = batch["targets"][task.target]
        total, count = task.loss(predictions[task.name], target, labelled)
        assert np.isfinite(total / count), task.name
        scores = task.metric().update(predictions[task.name], target, labelled).compute()
        assert np.isfinite(scores[task.main_metric]), task.name
    accuracy = ((predictions["edges"].argmax(-1) == edges) & (edges >= 0)).sum() / (edges >= 0).sum()
    metric = experiment.tasks[3].metric().update(predictions["edges"], edges, labelled=batch["labelled"]["edges"])
    assert metric.compute()["pixel_accuracy"] == pytest.approx(float(accuracy))
    row = int(np.flatnonzero(batch["labelled"]["edges"])[0])
    figure = figures.panel(
        batch["image"][row],
        {name: np.asarray(prediction[row]) for name, prediction in predictions.items()},
        {name: target[row] for name, target in batch["targets"].items()},
        experiment.tasks,
        experiment.data.info,
        {name: np.asarray(mask[:, row]) for name, mask in masks.items()},
    )
    drawn = {axis.get_title(): axis.images[0].get_array() for axis in figure.subfigs[0].axes if axis.images}
    colours = np.array([(0, 0, 0), (255, 255, 255), (128, 128, 128)])
    np.testing.assert_array_equal(drawn["edges, ground truth"], colours[edges[row]])
    np.testing.assert_array_equal(drawn["edges, prediction"], colours[predictions["edges"][row].argmax(-1)])


@pytest.mark.long
def test_a_smoke_run_trains_evaluates_and_predicts_four_tasks(tmp_path, run_main):
    arguments = (
        f"--config={CONFIG}:smoke",
        f"--workdir={tmp_path / 'run'}",
        f"--config.data.data_dir={tmp_path / 'data'}",
        "--config.compilation_cache=",
        "--config.duration=2 steps",
    )
    run_main(*arguments)
    lines = metrics_file.read_metrics(tmp_path / "run" / "metrics.jsonl")
    (train,) = (line for line in lines if line["split"] == "train")
    (val,) = (line for line in lines if line["split"] == "val")
    assert all(np.isfinite(train[f"{task}/loss"]) for task in TASKS)
    for name in ("semantic/miou", "depth/abs_error", "normal/mean", "edges/miou", "edges/pixel_accuracy"):
        assert np.isfinite(val[name]), name
    run_main(*arguments, "--mode=predict", "--count=1")
    folder = tmp_path / "run" / "figures" / "val"
    assert (folder / "streets_val_000000.png").stat().st_size > 10_000
    with np.load(folder / "streets_val_000000.npz") as arrays:
        assert arrays["prediction/edges"].shape == (64, 128, 2)
        assert set(np.unique(arrays["target/edges"])) == {-1, 0, 1}
