"""A checkpoint's network as a file for PyTorch."""

import logging
import pathlib

import jax

from mtan_jax.commands.request import Request
from mtan_jax.commands.run import Run
from mtan_jax.experiment import Experiment
from mtan_jax.experiment.initial_weights import weight_layouts
from mtan_jax.interop import files, names, torch
from mtan_jax.runtime import paths
from mtan_jax.training.restore import restore

log = logging.getLogger(__name__)


def check_export(experiment: Experiment, output: str | None) -> pathlib.Path:
    """The file to export to.

    Raises:
        PathError: it is no local path, or its folder cannot be written.
        WeightsError: none is given, its ending is not known, or PyTorch has no such network.
    """
    if output is None:
        raise files.WeightsError("--output is needed, as in --output=network.safetensors")
    path = files.checked_path(output, "--output")
    if path.is_dir():
        raise files.WeightsError(f"--output={output} is a folder; the name of a file is needed")
    paths.check_folder(path.parent, "--output", write=True)
    try:
        torch.check_state_dict(experiment.abstract_variables, _layouts(experiment))
    except files.WeightsError as error:
        config = experiment.config.model
        raise files.WeightsError(f"{config.arch} on {config.backbone} cannot be exported: {error}") from error
    return path


def _layouts(experiment: Experiment) -> tuple[names.Layout, ...]:
    return weight_layouts(experiment.config.model, experiment.task_names)


def export(experiment: Experiment, workdir: pathlib.Path, checkpoint: str, output: str | None) -> None:
    """Writes a network's parameters and running statistics under the names that they have in PyTorch.

    The names are those of the authors' network where they have it; otherwise of torchvision's backbone, and the file
    holds the backbone alone.

    Args:
        experiment: the run; see `mtan_jax.training.open_run.open_run` where its dataset is absent.
        workdir: of the run.
        checkpoint: see `mtan_jax.training.restore.restore`.
        output: the file; ends in .npz, .safetensors, .pt or .pth.

    Raises:
        WeightsError: see `check_export`.
    """
    path = check_export(experiment, output)
    layout = _layouts(experiment)[0]
    state = restore(experiment, workdir, checkpoint)
    arrays = torch.to_state_dict(jax.device_get(state.variables), layout)
    if jax.process_index() == 0:
        files.write(path, arrays)
        total = len(jax.tree.leaves(state.variables))
        log.info("wrote %d of the network's %d arrays to %s, named as in %s", len(arrays), total, path, layout.title)
        if len(arrays) < total:
            log.warning("it holds the backbone alone: PyTorch has no such network as a whole")


def run(request: Request) -> None:
    """`--mode=export`."""
    opened = Run.open(request.config, request.folder)
    check_export(opened.experiment, request.output)
    opened.prepare_data("export", request.checkpoint)
    export(opened.experiment, opened.workdir, request.checkpoint, request.output)
