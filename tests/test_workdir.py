"""A working directory belongs to one configuration."""

import json
import math

import jax.numpy as jnp
import optax
import pytest

from mtan_jax.config import default_config
from mtan_jax.workdir import WorkdirError, claim


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
        "Use another --workdir, or the same configuration.",
    ]


def test_fields_that_change_no_result_may_differ(tmp_path):
    make_used(tmp_path, default_config())
    config = default_config()
    config.data.data_dir, config.data.raw_dir, config.data.workers = "elsewhere", "there", 3
    config.model.init_from = "weights.npz"
    config.compilation_cache = ""
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


def test_damaged_config_file(tmp_path):
    make_used(tmp_path, default_config())
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(WorkdirError, match=r"config\.json is damaged .*remove it, or use another --workdir"):
        claim(tmp_path, default_config(), write=True)
