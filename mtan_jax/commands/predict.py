"""Predicts a split, image files or arrays."""

import pathlib
from collections.abc import Sequence
from typing import Protocol

import jax
import numpy as np
from jaxtyping import Float, UInt8

from mtan_jax.commands import predict_dense, predict_image_sets
from mtan_jax.commands.request import Request
from mtan_jax.commands.run import Run
from mtan_jax.experiment import Experiment
from mtan_jax.experiment.dense_data import DenseData
from mtan_jax.experiment.image_set_data import ImageSetData
from mtan_jax.experiment.task_data import TaskData
from mtan_jax.runtime import mirror
from mtan_jax.steps.state import TrainState

Pixels = UInt8[np.ndarray, "h w 3"] | Float[np.ndarray, "h w 3"]
Images = Sequence[Pixels] | np.ndarray


class Predictor(Protocol):
    """A module that predicts one kind of data, such as `predict_dense`."""

    def predict_split(
        self, experiment: Experiment, workdir: pathlib.Path, checkpoint: str, split: str, count: int
    ) -> pathlib.Path: ...

    def predict_folder(
        self,
        experiment: Experiment,
        workdir: pathlib.Path,
        checkpoint: str,
        images: pathlib.Path,
        count: int,
        skip_unreadable: bool,
    ) -> pathlib.Path: ...

    def predict_arrays(
        self, experiment: Experiment, state: TrainState, images: Sequence[np.ndarray]
    ) -> dict[str, Float[np.ndarray, "n ..."]]: ...


# Kind of data -> the module that predicts it.
PREDICTORS: dict[type[TaskData], Predictor] = {DenseData: predict_dense, ImageSetData: predict_image_sets}


def predict(
    run: Run, images: Images, *, checkpoint: str = "newest", masks: bool = False
) -> dict[str, Float[np.ndarray, "n ..."]]:
    """Predicts images.

    Args:
        run: from `fit` or `Run.open`; its dataset may be absent.
        images: [n, h, w, 3], or a sequence of [h, w, 3] of any sizes; uint8, or floats in 0..1. They are resized to the
            size that the network was trained with, and cropped for sets of labelled images.
        checkpoint: "newest", "best", a step, or "initial": the state before the first step.
        masks: whether to return attention masks too.

    Returns:
        Predictions by task. Dense tasks: [n, H, W, channels] at the network's size, log-probabilities for classes. Sets
        of labelled images: log-probabilities [n, classes]. With `masks`, also "masks/STAGE" [n, tasks, h, w, channels]
        in 0..1.

    Raises:
        ValueError: an image has another shape or type, or there is none.
        CheckpointError: there is no such checkpoint, or it is damaged.
    """
    pixels = [_to_pixels(image, i) for i, image in enumerate(images)]
    if not pixels:
        raise ValueError("there are no images to predict")
    run.prepare_data("predict", checkpoint, images=True)
    found = _predictor(run).predict_arrays(run.experiment, run.restore(checkpoint), pixels)
    return {name: array for name, array in found.items() if masks or not name.startswith("masks/")}


def _to_pixels(image: np.ndarray, number: int) -> Pixels:
    image = np.asarray(image)
    if image.ndim != 3 or image.shape[-1] != 3 or 0 in image.shape:
        raise ValueError(f"images[{number}] has shape {image.shape}; expected [height, width, 3]")
    if image.dtype == np.uint8:
        return image
    if not np.issubdtype(image.dtype, np.floating):
        raise ValueError(f"images[{number}] is {image.dtype}; expected uint8, or floats in 0..1")
    if not (image.min() >= 0 and image.max() <= 1):  # NaN too
        raise ValueError(
            f"images[{number}] has values from {image.min():g} to {image.max():g}; expected floats in 0..1, or uint8"
        )
    return image.astype(np.float32)


def _predictor(run: Run) -> Predictor:
    return PREDICTORS[type(run.experiment.data)]


def run(request: Request) -> None:
    """`--mode=predict`: writes predictions to the working directory."""
    opened = Run.open(request.config, request.folder, write=True)
    splits = opened.experiment.data.splits
    if request.images is None and request.split not in splits:
        raise ValueError(
            f"--split={request.split} is not known to {opened.config.data.name}; known: {', '.join(splits)}"
        )
    opened.prepare_data("predict", request.checkpoint, images=request.images is not None)
    predictor = _predictor(opened)
    arguments = opened.experiment, opened.workdir, request.checkpoint
    if request.images is None:
        output = predictor.predict_split(*arguments, request.split, request.count)
    else:
        images = mirror.local(request.images, "--images")
        mirror.pull(images)
        output = predictor.predict_folder(*arguments, images, request.count, request.skip_unreadable)
    if jax.process_index() == 0:
        mirror.push(output)
