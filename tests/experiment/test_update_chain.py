"""The learning rate and the update chain of an experiment."""

import pytest
from helpers import toy_config

from mtan_jax.experiment import Experiment


def make_config(tmp_path, *pieces):
    config = toy_config.get_config()
    config.data.data_dir = str(tmp_path)
    config.optimizer.schedule, config.optimizer.pieces = "pieces", pieces
    config.duration = "9 epochs"
    return config


def test_pieces_in_steps_before_pieces_in_epochs_were_refused_before_the_data_were_prepared(tmp_path):
    """Whether 5 steps end before 3 epochs depends on the size of the dataset (11 examples, batches of 4)."""
    experiment = Experiment.from_config(make_config(tmp_path, ("5 steps", 0.01), ("3 epochs", 0.001)))
    experiment.data.prepare()
    assert float(experiment.learning_rate(5)) == pytest.approx(0.01)
    assert float(experiment.learning_rate(9)) == pytest.approx(0.001)


def test_pieces_in_the_wrong_order_are_refused_once_the_data_are_prepared(tmp_path):
    experiment = Experiment.from_config(make_config(tmp_path, ("20 steps", 0.01), ("3 epochs", 0.001)))
    experiment.data.prepare()
    with pytest.raises(ValueError, match=r"config\.optimizer\.pieces="):
        _ = experiment.learning_rate
