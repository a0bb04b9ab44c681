"""Traces of steps with JAX's profiler."""

import pytest
from helpers import whole_run

from mtan_jax.runtime.profiler import FOLDER, parse_steps


def test_steps():
    assert list(parse_steps("10:12")) == [10, 11, 12]
    assert list(parse_steps("3:3")) == [3]
    assert not parse_steps(None)


@pytest.mark.parametrize("text", ["", "10", "5:4", "0:2", "a:b", "1:2:3", "-1:2"])
def test_what_is_no_range_of_steps(text):
    with pytest.raises(ValueError, match=r"expected the first and the last step to trace, such as '10:15'"):
        parse_steps(text)


@pytest.mark.slow
def test_a_run_traces_its_steps_and_is_otherwise_the_same(tmp_path):
    run = whole_run.Run("toy_config", tmp_path / "data", tmp_path)
    experiment = run.experiment()
    whole_run.train_here(experiment, tmp_path / "plain")
    assert not (tmp_path / "plain" / FOLDER).exists()
    experiment.config.profile = "5:6"
    whole_run.train_here(experiment, tmp_path / "traced")
    assert list((tmp_path / "traced" / FOLDER).rglob("*.xplane.pb"))
    whole_run.assert_same_run(experiment, tmp_path / "traced", tmp_path / "plain")
