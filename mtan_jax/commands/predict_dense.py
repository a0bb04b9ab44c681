"""Predicts dense tasks: panels of images, predictions and attention masks, and arrays."""

import logging
import pathlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, TypedDict, cast

import jax
import numpy as np
from jaxtyping import Float, Float32

from mtan_jax.commands import image_folder
from mtan_jax.commands.padded_batches import padded_batches
from mtan_jax.data.builder import DataInfo
from mtan_jax.data.raw.image_files import printable, read_rgb
from mtan_jax.data.raw.resize import resize_bilinear
from mtan_jax.experiment import Experiment
from mtan_jax.reporting import figures
from mtan_jax.reporting.figure_style import save_png
from mtan_jax.runtime import parallel
from mtan_jax.steps import stage_names
from mtan_jax.steps.state import TrainState
from mtan_jax.training.restore import restore
from mtan_jax.types import Batch

log = logging.getLogger(__name__)


class Example(TypedDict):
    """An image with its predictions.

    Attributes:
        image: pixels in 0..1.
        predictions: by task.
        targets: by target name, those that are known.
        masks: by stage, one per task.
    """

    image: Float[np.ndarray, "h w 3"]
    predictions: dict[str, np.ndarray]
    targets: dict[str, np.ndarray]
    masks: dict[str, Float[np.ndarray, "t h w c"]]


def predict_split(
    experiment: Experiment, workdir: pathlib.Path, checkpoint: str, split: str, count: int
) -> pathlib.Path:
    """Predicts the first examples of a split, and shows the ground truth next to the predictions.

    Args:
        experiment: the run; its dataset is prepared.
        workdir: of the run; results go to `figures/<split>/`.
        checkpoint: see `mtan_jax.training.restore.restore`.
        split: "val" or "train".
        count: number of examples; 0: all.

    Returns:
        The folder of the results: `ID.png`, a panel of image, ground truth, predictions and attention masks, and
        `ID.npz` with `image`, `prediction/TASK` and `target/TARGET`.
    """
    batches = experiment.data.whole_split(split)
    return _predict(experiment, workdir, checkpoint, batches, workdir / "figures" / split, count)


def predict_folder(
    experiment: Experiment,
    workdir: pathlib.Path,
    checkpoint: str,
    images: pathlib.Path,
    count: int = 0,
    skip_unreadable: bool = False,
) -> pathlib.Path:
    """Predicts every image of a folder, or one image, resized to the size that the network was trained with.

    Args:
        experiment: the run; its dataset may be absent.
        workdir: of the run; panels and arrays go to `figures/<name of the folder>/`.
        checkpoint: see `mtan_jax.training.restore.restore`.
        images: a folder of images, or one image, in a format of `mtan_jax.data.raw.image_files.read_rgb`.
        count: not used; every image is predicted.
        skip_unreadable: see `mtan_jax.commands.image_folder.find_images`.

    Returns:
        The folder of the results, as for `predict_split`.

    Raises:
        ValueError: there is no image, an image is unreadable or its name is too long for its results (the message names
            it), or the results would overwrite the images.
    """
    output = image_folder.output_folder(workdir, images)
    paths = image_folder.find_images(images, skip_unreadable)
    image_folder.check_lengths(paths, ".npz")
    batches = _read_folder(paths, experiment.data.info.image_size, experiment.config.eval.batch_size)
    return _predict(experiment, workdir, checkpoint, batches, output, 0)


def predict_arrays(
    experiment: Experiment, state: TrainState, images: Sequence[np.ndarray]
) -> dict[str, Float[np.ndarray, "n ..."]]:
    """Predicts arrays.

    Args:
        experiment: the run; its dataset may be absent.
        state: of the network.
        images: [h, w, 3] each, uint8 or float32 in 0..1.

    Returns:
        Predictions by task [n, H, W, channels], and "masks/STAGE" [n, tasks, h, w, channels].
    """
    size = experiment.data.info.image_size
    pixels = np.stack([_to_unit_range(resize_bilinear(image, size)) for image in images])
    parts = []
    for batch, count in padded_batches(pixels, experiment.config.eval.batch_size):
        inputs = parallel.place_batch(parallel.fill_rows({"image": batch}))
        predictions, masks = jax.device_get(experiment.predict_step(state.variables, inputs))
        masks = {f"masks/{stage}": np.moveaxis(mask, 1, 2) for stage, mask in masks.items()}  # [rows, tasks, ...]
        found = {**predictions, **masks}
        parts.append({name: x.reshape(-1, *x.shape[2:])[:count] for name, x in found.items()})
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _to_unit_range(image: np.ndarray) -> Float32[np.ndarray, "h w 3"]:
    return image.astype(np.float32) / 255 if image.dtype == np.uint8 else image


def _predict(
    experiment: Experiment,
    workdir: pathlib.Path,
    checkpoint: str,
    batches: Iterable[Batch],
    output: pathlib.Path,
    count: int,
) -> pathlib.Path:
    state = restore(experiment, workdir, checkpoint)
    output.mkdir(parents=True, exist_ok=True)
    stages = stage_names(experiment.model, state.variables, experiment.data.info.image_size)
    done = 0
    for batch in batches:
        inputs = parallel.place_batch(parallel.fill_rows({"image": batch["image"]}))
        predictions, masks = jax.device_get(experiment.predict_step(state.variables, inputs))
        rows_per_device = next(iter(predictions.values())).shape[1]
        for row, name in enumerate(batch["id"]):
            if not batch["weight"][row]:
                continue  # padding of the last batch
            device, place = divmod(row, rows_per_device)
            example: Example = {
                "image": np.asarray(batch["image"][row]),
                "predictions": {key: value[device, place] for key, value in predictions.items()},
                "targets": {
                    key: np.asarray(value[row])
                    for key, value in batch["targets"].items()
                    if batch["labelled"][key][row]
                },
                "masks": {stage: masks[stage][device, :, place] for stage in stages},
            }
            if jax.process_index() == 0:
                _write(experiment, output / name.replace("/", "_"), example)
            done += 1
            if done == count:
                break
        if done == count:
            break
    log.info("wrote %d %s to %s", done, "panel with arrays" if done == 1 else "panels with arrays", printable(output))
    return output


def _write(experiment: Experiment, path: pathlib.Path, example: Example) -> None:
    # Any: NumPy's stub takes keyword arguments for its own bool option, too.
    arrays: dict[str, Any] = {"image": example["image"]}
    arrays |= {f"prediction/{name}": value for name, value in example["predictions"].items()}
    arrays |= {f"target/{name}": value for name, value in example["targets"].items()}
    np.savez_compressed(path.with_name(path.name + ".npz"), **arrays)
    figure = figures.panel(
        example["image"],
        example["predictions"],
        example["targets"],
        experiment.tasks,
        cast(DataInfo, experiment.data.info),
        masks=example["masks"],
    )
    save_png(figure, path.with_name(path.name + ".png"))


def _read_folder(paths: Mapping[str, pathlib.Path], image_size: tuple[int, int], batch_size: int) -> Iterator[Batch]:
    names = list(paths)
    for start in range(0, len(names), batch_size):
        part = names[start : start + batch_size]
        images = [resize_bilinear(read_rgb(paths[name]), image_size) for name in part]
        yield {
            "id": part,
            "image": np.stack(images).astype(np.float32) / 255,
            "targets": {},
            "labelled": {},
            "weight": np.ones(len(part), np.float32),
        }
