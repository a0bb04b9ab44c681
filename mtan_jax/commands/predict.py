"""Predicts a split, pictures of the user's own, or arrays."""

import types
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, UInt8

from mtan_jax.commands import predict_dense, predict_image_sets
from mtan_jax.commands.request import Request
from mtan_jax.commands.run import Run
from mtan_jax.experiment.dense_data import DenseData
from mtan_jax.experiment.image_set_data import ImageSetData
from mtan_jax.runtime import paths

# Kind of data -> the module that predicts it.
PREDICTORS: dict[type, types.ModuleType] = {DenseData: predict_dense, ImageSetData: predict_image_sets}

Images = Sequence[UInt8[np.ndarray, "h w 3"] | Float[np.ndarray, "h w 3"]] | np.ndarray


def predict(
    run: Run, images: Images, *, checkpoint: str = "newest", masks: bool = False
) -> dict[str, Float[np.ndarray, "n ..."]]:
    """Predicts images.

    Args:
        run: from `fit` or `Run.open`; its dataset may be absent.
        images: [n, h, w, 3], or a sequence of [h, w, 3] of any sizes; uint8, or floats in 0..1. They are resized to the
            size that the network was trained with (and cropped, for networks of whole images).
        checkpoint: "newest", "best", a step, or "initial": the state before the first step.
        masks: whether to return the attention masks too.

    Returns:
        Per task, an array whose first axis is that of the images. Dense tasks: [n, H, W, channels] at the network's
        size, log-probabilities for classes. Sets of labelled images: log-probabilities [n, classes] of each set. With
        `masks`, also "masks/STAGE" [n, tasks, h, w, channels] in 0..1.

    Raises:
        ValueError: an image has another shape or type, or there are none.
        CheckpointError: there is no such checkpoint, or it is damaged.
    """
    pixels = [_to_pixels(image, i) for i, image in enumerate(images)]
    if not pixels:
        raise ValueError("there are no images to predict")
    run.prepare_data("predict", checkpoint, images=True)
    found = _predictor(run).predict_arrays(run.experiment, run.restore(checkpoint), pixels)
    return {name: array for name, array in found.items() if masks or not name.startswith("masks/")}


def _to_pixels(image: np.ndarray, number: int) -> UInt8[np.ndarray, "h w 3"] | Float[np.ndarray, "h w 3"]:
    image = np.asarray(image)
    if image.ndim != 3 or image.shape[-1] != 3 or 0 in image.shape:
        raise ValueError(f"images[{number}] has shape {image.shape}; expected [height, width, 3]")
    if image.dtype == np.uint8:
        return image
    if not np.issubdtype(image.dtype, np.floating) or not (image.min() >= 0 and image.max() <= 1):
        raise ValueError(f"images[{number}] is {image.dtype}; expected uint8, or floats in 0..1")
    return image.astype(np.float32)


def _predictor(run: Run) -> types.ModuleType:
    return PREDICTORS[type(run.experiment.data)]


def run(request: Request) -> None:
    """`--mode=predict`: writes predictions to the working directory."""
    opened = Run.open(request.config, request.folder, write=True)
    splits = opened.experiment.data.splits
    if request.split not in splits:
        raise ValueError(
            f"--split={request.split} is not known to {opened.config.data.name}; use {' or '.join(splits)}"
        )
    opened.prepare_data("predict", request.checkpoint, images=request.images is not None)
    predictor = _predictor(opened)
    arguments = opened.experiment, opened.workdir, request.checkpoint
    if request.images is None:
        predictor.predict_split(*arguments, request.split, request.count)
    else:
        images = paths.local(request.images, "--images")
        predictor.predict_folder(*arguments, images, request.count, request.skip_unreadable)
