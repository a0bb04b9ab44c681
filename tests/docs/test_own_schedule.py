"""A schedule of a user's own: configs/own_schedule.py, and the page of docs that shows it."""

import ast
import pathlib
import re
import runpy

import numpy as np
import optax
import pytest
from helpers import toy_config
from helpers.event_file_reader import read_scalars

from mtan_jax.config import default_config
from mtan_jax.reporting import metrics_file
from mtan_jax.weighting import build_weighting, schedules

ROOT = pathlib.Path(__file__).parents[2]
CONFIG = ROOT / "configs" / "own_schedule.py"
PAGE = ROOT / "docs" / "schedules.md"
TASKS = ("semantic", "depth", "normal")

# The toy's configuration with the function of configs/own_schedule.py, word for word.
TOY = """
import runpy

import jax.numpy as jnp

{function}


def get_config(arg=None):
    config = runpy.run_path({toy!r})["get_config"](arg)
    config.weighting = "schedule"
    config.weighting_options.schedule.weights = weights
    config.eval.every = config.checkpoint.every = "4 steps"
    return config
"""


def function_source():
    (function,) = (node for node in ast.parse(CONFIG.read_text()).body if getattr(node, "name", None) == "weights")
    return ast.get_source_segment(CONFIG.read_text(), function)


def blocks():
    return re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)


def expected_weights(step, losses):
    inverse = 1 / np.maximum(losses, 1e-3)
    return inverse * [1.0, 1.0, min(step / 200, 1.0)]


def check_log(folder, steps):
    """Each line's weights follow from its own losses, and TensorBoard has the same."""
    lines = [line for line in metrics_file.read_metrics(folder / "metrics.jsonl") if line["split"] == "train"]
    assert [line["step"] for line in lines] == list(range(1, steps + 1))
    scalars = read_scalars(folder)
    for line in lines:
        # Without a label in the batch there is no loss in the log, and it counts as 0.
        losses = np.nan_to_num([line[f"{task}/loss"] for task in TASKS])
        found = [line[f"weights/{task}"] for task in TASKS]
        np.testing.assert_allclose(found, expected_weights(line["step"] - 1, losses), rtol=1e-6)
        shown = [scalars[f"train/weights/{task}", line["step"]] for task in TASKS]
        np.testing.assert_allclose(shown, found, rtol=1e-7)
    assert len({line["weights/depth"] for line in lines}) == steps


def test_the_function_takes_five_lines():
    assert len(function_source().splitlines()) == 5


def test_its_weights_are_in_the_log_and_in_tensorboard_and_another_is_refused(tmp_path, run_main):
    file = tmp_path / "config.py"
    file.write_text(TOY.format(function=function_source(), toy=toy_config.__file__))
    arguments = (f"--config={file}", f"--workdir={tmp_path / 'run'}", f"--config.data.data_dir={tmp_path / 'data'}")
    run_main(*arguments)
    check_log(tmp_path / "run", 4)
    file.write_text(file.read_text().replace("step / 200", "step / 100"))
    message = (
        r"belongs to a run with another configuration:\n"
        r"  config\.weighting_options\.schedule\.weights at step 1, losses \[7\.07, 3\.54, 2\.36\]: "
        r"\[0\.1414427, 0\.2824859, 0\.002118644\] there, \[0\.1414427, 0\.2824859, 0\.004237288\] here\n"
    )
    with pytest.raises(SystemExit, match=message):
        run_main(*arguments)


@pytest.mark.long
def test_streets_trains_with_it(tmp_path, run_main):
    run_main(
        f"--config={CONFIG}:smoke",
        f"--workdir={tmp_path / 'run'}",
        f"--config.data.data_dir={tmp_path / 'data'}",
        "--config.compilation_cache=",
        "--config.log_every=1 steps",
    )
    check_log(tmp_path / "run", 4)


def test_the_page_shows_the_very_file():
    source = CONFIG.read_text()
    docstring = ast.parse(source).body[0]
    assert blocks()[0].strip() == "\n".join(source.splitlines()[docstring.end_lineno :]).strip()


def test_the_examples_of_the_page_make_chains():
    config, made = default_config(), []
    names = {"config": config, "__file__": str(CONFIG)}
    for i, block in enumerate(blocks()):
        exec(compile(block, f"{PAGE.name}, block {i}", "exec"), names)
        options = {name: dict(values) for name, values in config.weighting_options.items()}
        options["schedule"] = {"weights": config.weighting_options.schedule.weights}
        if i:  # the first defines functions only
            build_weighting(config.weighting, TASKS, optax.adam(1e-4), options=options, defaults={"steps_per_epoch": 1})
            made.append(config.weighting_options.schedule.weights)
    assert len(made) == 5
    for name in ("one_after_the_other", "two_take_turns", "in_waves", "normals_join"):
        build_weighting(
            (("schedule", {"weights": names[name]}),), TASKS, optax.adam(1e-4), defaults={"steps_per_epoch": 1}
        )
    assert set(names["tx"].init({"w": np.ones(2, np.float32)})[1]._fields) == {"steps"}
    lagging = names["focus_on_what_lags"](1000, np.array([1.0, 2.0, 3.0], np.float32))
    np.testing.assert_allclose(lagging, [0.75, 1.0, 1.25], rtol=1e-6)  # half way to 3 (1, 2, 3) / 6


def test_the_table_names_every_schedule():
    table = re.findall(r"^\| `(\w+)\(", PAGE.read_text(), re.MULTILINE)
    assert sorted(table) == sorted(schedules.__all__)


def test_the_figure_draws_what_it_says():
    drawn = runpy.run_path(str(ROOT / "docs" / "images" / "make_schedules.py"))
    axes = drawn["draw"]().axes
    codes = " ".join(code for panel in drawn["PANELS"] for code in panel)
    assert all(f"{name}(" in codes for name in schedules.__all__)
    lines = {line.get_label(): line.get_ydata() for axis in axes[:3] for line in axis.lines}
    assert lines["linear(1.0, 0.2, 800)"][400] == pytest.approx(0.6)
    assert lines["step(0.2, 1.0, 500)"][499:501].tolist() == pytest.approx([0.2, 1.0])
