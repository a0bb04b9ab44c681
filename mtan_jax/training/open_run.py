"""Opens a trained run, with or without its dataset on this machine."""

import pathlib

import ml_collections

from mtan_jax.data.errors import RawDataError
from mtan_jax.experiment import Experiment
from mtan_jax.training import workdir as workdirs

WITHOUT_DATA = "--mode=predict --images=FOLDER, --mode=export and --mode=summary"


def open_run(config: ml_collections.ConfigDict, workdir: pathlib.Path | None) -> Experiment:
    """Builds the experiment of a run, with the record of its dataset from its working directory.

    Args:
        config: of the run.
        workdir: of the run; None, or a directory without results, if nothing has been trained yet.

    Raises:
        ValueError: see `Experiment.from_config`; or `data.json` records another dataset than the configuration names.
        WorkdirError: `data.json` is damaged.
        RawDataError: the classes of sets of labeled images are in neither `data.json` nor the raw data.
    """
    record = None if workdir is None else workdirs.read_data(workdir)
    try:
        return Experiment.from_config(config, record)
    except RawDataError as error:
        raise RawDataError(f"{error}\n{_hint_without_classes(workdir)}") from error


def prepare_data(experiment: Experiment, workdir: pathlib.Path, mode: str, *, images: bool) -> None:
    """Prepares the dataset if a mode reads it.

    Args:
        experiment: from `open_run`.
        workdir: of the run.
        mode: "eval", "predict" or "export".
        images: whether "predict" predicts the user's own images.

    Raises:
        RawDataError: the dataset is not prepared and its raw data are missing; the message lists the modes that need
            no dataset.
    """
    if mode == "export" or (images and experiment.data.is_described):
        return
    try:
        experiment.data.prepare(again=False)  # even with config.data.prepare=again: other runs may be reading it
    except RawDataError as error:
        raise RawDataError(f"--mode={mode} needs the dataset. {error}\n{_hint(experiment, workdir)}") from error


def _hint(experiment: Experiment, workdir: pathlib.Path) -> str:
    if not experiment.data.is_described:
        return _hint_without_classes(workdir)
    return f"  Without the dataset, {WITHOUT_DATA} work."


def _hint_without_classes(workdir: pathlib.Path | None) -> str:
    """Says how to make the classes of sets of labeled images known without the dataset."""
    if workdir is None:
        return "  If a run was trained on these sets, name its --workdir, which records their classes."
    if not workdirs.holds_results(workdir):
        return f"  {workdir} holds no trained run that records their classes."
    return (
        f"  Without the dataset, {WITHOUT_DATA} need {workdir / workdirs.DATA_FILE}, which older versions did not "
        "write. To write the file, run the training command again on a machine that has the dataset."
    )
