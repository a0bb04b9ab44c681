"""A working directory belongs to one configuration."""

import functools
import json
import math
import runpy

import jax.numpy as jnp
import optax
import pytest

from mtan_jax.config import default_config
from mtan_jax.training.workdir import WorkdirError, claim


def make_used(folder, config):
    """A working directory in which a run has logged something."""
    claim(folder, config, write=True)
    (folder / "metrics.jsonl").write_text("{}\n")


def with_schedule(function):
    config = default_config()
    config.weighting_options.schedule.weights = {"depth": function}
    return config


def test_the_same_configuration_is_let_in_and_the_file_says_what_it_is(tmp_path):
    folder = tmp_path / "runs" / "a"
    make_used(folder, default_config())
    before = (folder / "config.json").read_bytes()
    claim(folder, default_config(), write=True)
    assert (folder / "config.json").read_bytes() == before
    fields = json.loads(before)
    assert fields["optimizer.learning_rate"] == 1e-4
    assert fields["tasks"] == ["semantic", "depth", "normal"]
    assert fields["weighting_options.static.weights.depth"] == 1.0
    assert fields["optimizer.warmup"] is None


def test_another_configuration_is_refused_and_the_difference_shown(tmp_path):
    make_used(tmp_path, default_config())
    config = default_config()
    config.optimizer.learning_rate = 1e-3
    config.eval.average_last = 10
    config.tasks = ("semantic", "depth")
    with pytest.raises(WorkdirError) as error:
        claim(tmp_path, config, write=True)
    assert str(error.value).splitlines() == [
        f"{tmp_path} belongs to a run with another configuration:",
        "  config.eval.average_last: None there, 10 here",
        "  config.optimizer.learning_rate: 0.0001 there, 0.001 here",
        "  config.tasks: ['semantic', 'depth', 'normal'] there, ['semantic', 'depth'] here",
        f"Use another --workdir, or the same configuration, which {tmp_path / 'config.json'} records.",
    ]


def test_fields_that_change_no_result_may_differ(tmp_path):
    make_used(tmp_path, default_config())
    config = default_config()
    config.data.data_dir, config.data.raw_dir, config.data.workers = "elsewhere", "there", 3
    config.model.init_from = "weights.npz"
    config.compilation_cache = ""
    claim(tmp_path, config, write=True)


def test_a_layout_that_is_found_is_no_other_configuration(tmp_path):
    # What was found is compared by `data.json`.
    config = default_config()
    config.data.options = {"layout": "release"}
    make_used(tmp_path, config)
    config.data.options.layout = "auto"
    claim(tmp_path, config, write=True)
    config.data.options.layout = "authors"
    with pytest.raises(WorkdirError, match=r"config\.data\.options\.layout: 'release' there, 'authors' here"):
        claim(tmp_path, config, write=True)


@pytest.mark.parametrize("result", ["checkpoints/4", "metrics.jsonl"])
def test_a_directory_without_results_takes_another_configuration(tmp_path, result):
    # A first attempt that failed, say with too large a batch, must not bar the second.
    claim(tmp_path, default_config(), write=True)
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "metrics.jsonl").touch()
    other = default_config()
    other.batch_size = 4
    claim(tmp_path, other, write=True)
    assert json.loads((tmp_path / "config.json").read_text())["batch_size"] == 4
    path = tmp_path / result
    path.mkdir() if "/" in result else path.write_text("{}\n")
    with pytest.raises(WorkdirError, match=r"config\.batch_size: 4 there, 8 here"):
        claim(tmp_path, default_config(), write=True)


def test_schedules_are_told_apart_by_their_values(tmp_path):
    make_used(tmp_path, with_schedule(optax.linear_schedule(1.0, 0.0, 1000)))
    claim(tmp_path, with_schedule(lambda step: jnp.maximum(1 - step / 1000, 0.0)), write=True)
    message = r"config\.weighting_options\.schedule\.weights\.depth at step 1: 0\.99"
    with pytest.raises(WorkdirError, match=message) as error:
        claim(tmp_path, with_schedule(optax.linear_schedule(1.0, 0.0, 900)), write=True)
    assert len(str(error.value).splitlines()) == 15  # not a line for every step
    with pytest.raises(WorkdirError, match=r"schedule\.weights\.depth: None there, 1\.0 here"):
        claim(tmp_path, with_schedule(1.0), write=True)


def test_schedules_that_switch_at_different_steps_are_told_apart(tmp_path):
    # Named after a bug: with samples at powers of ten, a switch at step 300 looked like one at step 400.
    make_used(tmp_path, with_schedule(lambda step: jnp.where(step < 300, 0.0, 1.0)))
    with pytest.raises(WorkdirError, match=r"at step 3\d\d: 1\.0 there, 0\.0 here"):
        claim(tmp_path, with_schedule(lambda step: jnp.where(step < 400, 0.0, 1.0)), write=True)


def test_other_rounding_is_no_difference(tmp_path):
    make_used(tmp_path, with_schedule(lambda step: math.exp(-step / 1e4)))
    claim(tmp_path, with_schedule(lambda step: jnp.exp(-step / 1e4)), write=True)


def test_evaluation_writes_nothing(tmp_path):
    claim(tmp_path / "new", default_config(), write=False)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("content", [b"{", b'{"seed\xff": 0}'])
def test_damaged_config_file(content, tmp_path):
    # Named after a bug too: bytes that are not UTF-8 ended in a UnicodeDecodeError.
    make_used(tmp_path, default_config())
    (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(WorkdirError, match=r"config\.json is damaged .*delete it, or use another --workdir"):
        claim(tmp_path, default_config(), write=True)


# Functions of step and losses, methods in a tuple, and functions that are no schedules.


def with_function(function):
    config = default_config()
    config.weighting_options.schedule.weights = function
    return config


def inverse(step, losses):
    return jnp.where(step < 300, 1.0, 2.0) / jnp.maximum(losses, 1e-3)


def test_a_function_of_step_and_losses_is_told_by_its_values(tmp_path):
    make_used(tmp_path, with_function(inverse))
    fields = json.loads((tmp_path / "config.json").read_text())
    assert fields["weighting_options.schedule.weights at step 0, losses [10.0, 5.0, 3.33]"] == pytest.approx(
        [0.1, 0.2, 1 / 3.33]
    )
    assert "weighting_options.schedule.weights at step 0, losses [3.33, 5.0, 10.0]" in fields
    names = ("semantic", "depth", "normal")
    claim(tmp_path, with_function(lambda t, x: dict(zip(names, inverse(t, x), strict=True))), write=True)
    for other, message in (
        (lambda step, losses: inverse(step + 30, losses), r"at step 2[78]\d, losses \[.*\]: \[.*\] there, \[.*\] here"),
        (lambda step, losses: jnp.where(losses[0] < 0.5, 1.01, 1.0) * inverse(step, losses), "at step 4"),
        (lambda step, losses: jnp.where(losses[0] < losses[2], 1.01, 1.0) * inverse(step, losses), "at step 0"),
        (
            lambda step, losses: inverse(step, losses)[:2],
            r": None there, '.*<lambda>, source \w+' here",
        ),
    ):
        with pytest.raises(WorkdirError, match=r"config\.weighting_options\.schedule\.weights.*" + message):
            claim(tmp_path, with_function(other), write=True)


def with_methods(*methods):
    config = default_config()
    config.weighting = methods
    return config


def test_methods_in_a_tuple_are_told_by_their_options(tmp_path):
    def methods(end, c=0.4, seed=0):
        weights = {"semantic": 1.0, "depth": optax.linear_schedule(1.0, end, 1000)}
        return ("schedule", {"weights": weights}), ("dwa", {"orders": [("a", c)]}), ("pcgrad", {"seed": seed})

    make_used(tmp_path, with_methods(*methods(0.0)))
    claim(tmp_path, with_methods(*methods(0.0)), write=True)
    fields = json.loads((tmp_path / "config.json").read_text())
    assert fields["weighting[0][0]"] == "schedule"
    assert fields["weighting[0][1].weights.semantic"] == 1.0
    assert fields["weighting[0][1].weights.depth at step 1"] == pytest.approx(0.999)
    assert fields["weighting[1][1].orders"] == [["a", 0.4]]
    with pytest.raises(WorkdirError, match=r"config\.weighting\[0\]\[1\]\.weights\.depth at step 1: 0\.999"):
        claim(tmp_path, with_methods(*methods(0.5)), write=True)
    with pytest.raises(WorkdirError, match=r"config\.weighting\[2\]\[1\]\.seed: 0 there, 1 here"):
        claim(tmp_path, with_methods(*methods(0.0, seed=1)), write=True)
    with pytest.raises(WorkdirError, match=r"config\.weighting\[2\]\[1\]\.seed: 0 there, None here"):
        claim(tmp_path, with_methods(*methods(0.0)[:2]), write=True)


METHOD = """
def my_method(tasks, *, factor=1.0):
    raise AssertionError("a method is not called to be written down")

def double(path):
    return "encoder" in path
"""


def methods_of(folder, source):
    path = folder / "methods.py"
    path.write_text(source)
    return runpy.run_path(str(path))


def test_functions_that_are_no_schedules_are_told_by_name_and_source(tmp_path):
    def config(source):
        found = methods_of(tmp_path, source)
        one, partial = found["my_method"], functools.partial(found["my_method"], factor=2.0)
        config = with_methods(one, (partial, {"x": 1}), ("pcgrad", {"shared": found["double"]}))
        config.weighting_options.pcgrad = {"shared": found["double"]}
        return config

    folder = tmp_path / "run"
    make_used(folder, config(METHOD))
    fields = json.loads((folder / "config.json").read_text())
    (name, digest) = fields["weighting[0]"].split(", source ")
    assert (name, len(digest)) == ("my_method", 8)
    assert fields["weighting[1][0]"] == f"my_method, source {digest} with [] [['factor', 2.0]]"
    assert fields["weighting[2][1].shared"] == fields["weighting_options.pcgrad.shared"]
    assert fields["weighting_options.pcgrad.shared"].startswith("double, source ")
    claim(folder, config(METHOD), write=True)
    claim(folder, config("import math\n\n" + METHOD), write=True)  # what stands around it does not matter
    changed = METHOD.replace("factor=1.0", "factor=3.0")
    with pytest.raises(WorkdirError, match=rf"weighting\[0\]: 'my_method, source {digest}' there, 'my_method, source "):
        claim(folder, config(changed), write=True)


def test_a_function_without_source_is_told_by_its_name(tmp_path):
    make_used(tmp_path, with_methods("equal", eval("lambda tasks: None")))
    assert json.loads((tmp_path / "config.json").read_text())["weighting[1]"] == "<lambda>"
