"""The prediction step."""

import pytest

import mtan_jax as mtan
from mtan_jax.steps import stage_names


@pytest.mark.parametrize("stored", [True, False], ids=["with masks of init", "without"])
def test_stage_names_are_in_forward_order(stored):
    """`init` stores masks, whose names `jax.eval_shape` sorts."""
    experiment = mtan.Experiment.from_config(mtan.load_config("streets:smoke"))
    variables = dict(experiment.abstract_variables)
    assert "masks" in variables
    if not stored:
        del variables["masks"]
    levels = range(5)
    expected = [f"encoder_{i}" for i in levels] + [f"decoder_{i}" for i in reversed(levels)]
    assert list(stage_names(experiment.model, variables, (64, 128))) == expected
