"""Exports the network of a checkpoint as a file for PyTorch."""

import logging
import pathlib

import jax

from mtan_jax.commands.request import Request
from mtan_jax.commands.run import Run
from mtan_jax.experiment import Experiment
from mtan_jax.experiment.initial_weights import weight_layouts
from mtan_jax.interop import files, names, torch
from mtan_jax.runtime import mirror, paths
from mtan_jax.training.restore import restore

log = logging.getLogger(__name__)


def check_export(experiment: Experiment, output: str | None) -> pathlib.Path:
    """Checks that the network can be exported, and returns the path of the file.

    Raises:
        PathError: `output` has an unknown scheme, or its folder cannot be written.
        WeightsError: `output` is missing or has an unknown suffix, or the network has no PyTorch layout.
    """
    if output is None:
        raise files.WeightsError("--output is needed, such as --output=network.safetensors")
    path = files.checked_path(output, "--output")
    if path.is_dir():
        raise files.WeightsError(f"--output={output} is a folder; expected the name of a file")
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
    """Writes a network's parameters and running statistics under their PyTorch names.

    The names are those of the authors' network if they published it. Otherwise the file holds the backbone only, under
    torchvision's names.

    Args:
        experiment: the run; its dataset may be absent (see `mtan_jax.training.open_run`).
        workdir: of the run.
        checkpoint: see `mtan_jax.training.restore.restore`.
        output: the file, which ends in .npz, .safetensors, .pt or .pth.

    Raises:
        WeightsError: see `check_export`.
    """
    path = check_export(experiment, output)
    layout = _layouts(experiment)[0]
    state = restore(experiment, workdir, checkpoint)
    arrays = torch.to_state_dict(jax.device_get(state.variables), layout)
    if jax.process_index() == 0:
        files.write(path, arrays)
        mirror.push(path)
        total = len(jax.tree.leaves(state.variables))
        log.info(
            "wrote %d of the network's %d arrays to %s, with the names of %s", len(arrays), total, path, layout.title
        )
        if len(arrays) < total:
            log.warning("the file holds the backbone only: the whole network has no PyTorch layout")


def run(request: Request) -> None:
    """`--mode=export`: writes the file."""
    opened = Run.open(request.config, request.folder)
    check_export(opened.experiment, request.output)
    opened.prepare_data("export", request.checkpoint)
    export(opened.experiment, opened.workdir, request.checkpoint, request.output)
