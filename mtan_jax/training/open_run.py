"""Opens a trained run, whether or not its dataset is on this machine."""

import pathlib

import ml_collections

from mtan_jax.data.errors import RawDataError
from mtan_jax.experiment import Experiment
from mtan_jax.training import workdir as workdirs

WITHOUT_DATA = "--mode=predict --images=FOLDER, --mode=export and --mode=summary"


def open_run(config: ml_collections.ConfigDict, workdir: pathlib.Path | None) -> Experiment:
    """The experiment of a run, with what its working directory keeps of its dataset.

    Args:
        config: of the run.
        workdir: of the run; None, or one without results, where nothing is trained yet.

    Raises:
        ValueError: see `Experiment.from_config`.
        WorkdirError: `data.json` is damaged, or of another dataset than the configuration names.
        RawDataError: the classes of sets of labelled images are known neither from `data.json` nor from data.
    """
    record = None if workdir is None else workdirs.read_data(workdir)
    try:
        return Experiment.from_config(config, record)
    except RawDataError as error:
        raise RawDataError(f"{error}\n{_what_would_do(workdir)}") from error


def prepare_data(experiment: Experiment, workdir: pathlib.Path, mode: str, *, images: bool) -> None:
    """Prepares the dataset if the mode reads it.

    Args:
        experiment: from `open_run`.
        workdir: of the run.
        mode: "eval", "predict" or "export".
        images: whether "predict" is for a folder of images.

    Raises:
        RawDataError: the dataset is not prepared and its raw data are missing; the message says what works without.
    """
    if mode == "export" or (images and experiment.data.is_described):
        return
    try:
        experiment.data.prepare(again=False)  # others may be reading it
    except RawDataError as error:
        raise RawDataError(f"--mode={mode} needs the dataset. {error}\n{_what_works(experiment, workdir)}") from error


def _what_works(experiment: Experiment, workdir: pathlib.Path) -> str:
    if not experiment.data.is_described:
        return _what_would_do(workdir)
    return f"  Without the dataset, {WITHOUT_DATA} work."


def _what_would_do(workdir: pathlib.Path | None) -> str:
    """How the classes of sets of labelled images get known without data."""
    if workdir is None:
        return "  If a run on these sets is trained, name its --workdir: that knows their classes."
    if not workdirs.holds_results(workdir):
        return f"  {workdir} holds no trained run, to read the classes from."
    return (
        f"  Without the dataset, {WITHOUT_DATA} need {workdir / workdirs.DATA_FILE}, which older versions did not "
        "write. Run the training command once more where the dataset is: that writes it."
    )
