"""Builds the data of a run."""

from collections.abc import Callable

import ml_collections

from mtan_jax.data.builder import DenseBuilder
from mtan_jax.data.dataset_record import DataRecord
from mtan_jax.data.image_sets import ImageSets
from mtan_jax.experiment.dense_data import DenseData
from mtan_jax.experiment.image_set_data import ImageSetData
from mtan_jax.experiment.task_data import TaskData, build_dataset

# Kind of dataset -> how its tasks use it.
TASK_DATA: dict[type, Callable[..., TaskData]] = {DenseBuilder: DenseData, ImageSets: ImageSetData}


def build_data(config: ml_collections.ConfigDict, record: DataRecord | None) -> TaskData:
    """Builds the dataset and the tasks of a run. Reads no examples.

    Args:
        config: of the run.
        record: of the dataset that the run was trained on, if any.

    Raises:
        ValueError: a field of `config.data` or `config.tasks` is invalid or does not fit `record`.
        RawDataError: the classes of sets of labelled images are in neither `record` nor the raw data.
    """
    builder = build_dataset(config)
    kind = next(kind for base, kind in TASK_DATA.items() if isinstance(builder, base))
    return kind(config, builder, record)
