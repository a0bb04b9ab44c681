"""What an experiment knows of its dataset before and after preparation."""

from helpers import toy_sets_config

from mtan_jax.experiment import Experiment


def test_images_of_a_set_prepared_by_this_run_were_not_normalized(tmp_path):
    """The statistics of a set are known once it is prepared; those from before (0 and 1) must not be kept."""
    config = toy_sets_config.get_config()
    config.data.data_dir = str(tmp_path)
    experiment = Experiment.from_config(config)
    assert all(image_set.mean == (0.0, 0.0, 0.0) for image_set in experiment.data.info.sets.values())
    experiment.data.prepare()
    assert all(min(image_set.mean) > 0.1 for image_set in experiment.data.info.sets.values())
    assert experiment.data.info.sets == Experiment.from_config(config).data.info.sets
