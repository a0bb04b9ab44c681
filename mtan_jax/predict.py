"""Images in, pictures and arrays out."""

import logging
import pathlib
from collections.abc import Iterable, Iterator
from typing import Any

import jax
import numpy as np
from jaxtyping import Float
from PIL import Image, UnidentifiedImageError

from mtan_jax import figures, parallel
from mtan_jax.evaluate import restore
from mtan_jax.experiment import Batch, Experiment
from mtan_jax.steps import stage_names

log = logging.getLogger(__name__)

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff")


def predict_split(
    experiment: Experiment, workdir: pathlib.Path, checkpoint: str, split: str, count: int
) -> pathlib.Path:
    """Predicts the first examples of a split, with the ground truth beside.

    Args:
        experiment: the run; its data set is prepared.
        workdir: of the run; pictures and arrays go to `figures/<split>/`.
        checkpoint: see `mtan_jax.evaluate.restore`.
        split: "val" or "train".
        count: how many examples; 0: all.

    Returns:
        The folder written to: `ID.png`, a panel of image, ground truth, predictions and attention masks, and
        `ID.npz`, with `image`, `prediction/TASK` and `target/TASK`.
    """
    batches = experiment.whole_split(split)
    return _predict(experiment, workdir, checkpoint, batches, workdir / "figures" / split, count)


def predict_folder(
    experiment: Experiment, workdir: pathlib.Path, checkpoint: str, folder: pathlib.Path
) -> pathlib.Path:
    """Predicts every image of a folder, resized to the size that the network was trained on.

    Args:
        experiment: the run; its dataset may be absent.
        workdir: of the run; pictures and arrays go to `figures/<name of the folder>/`.
        checkpoint: see `mtan_jax.evaluate.restore`.
        folder: of PNG, JPEG and other pictures.

    Raises:
        ValueError: no folder, no image in it, or one that cannot be read; the message names it.
    """
    paths = find_images(folder)
    batches = _read_folder(paths, experiment.data_info.image_size, experiment.config.eval.batch_size)
    return _predict(experiment, workdir, checkpoint, batches, workdir / "figures" / folder.resolve().name, 0)


def find_images(folder: pathlib.Path) -> list[pathlib.Path]:
    """The pictures of a folder, in the order of their names.

    Raises:
        ValueError: there is no such folder, or no picture in it.
    """
    paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES) if folder.is_dir() else []
    if not paths:
        raise ValueError(f"--images={folder}: a folder with images ({', '.join(SUFFIXES)}) is needed; found none")
    return paths


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
    stages = stage_names(experiment.model, state.variables, experiment.data_info.image_size)
    done = 0
    for batch in batches:
        inputs = parallel.place_batch(parallel.fill_rows({"image": batch["image"]}))
        predictions, masks = jax.device_get(experiment.predict_step(state.variables, inputs))
        for row, name in enumerate(batch["id"]):
            if not batch["weight"][row]:
                continue  # fills the last batch up
            device, place = divmod(row, inputs["image"].shape[1])
            example = {
                "image": batch["image"][row],
                "predictions": {key: value[device, place] for key, value in predictions.items()},
                "targets": {key: value[row] for key, value in batch["targets"].items() if batch["labelled"][key][row]},
                "masks": {stage: masks[stage][device, :, place] for stage in stages},
            }
            if jax.process_index() == 0:
                _write(experiment, output / name.replace("/", "_"), example)
            done += 1
            if done == count:
                break
        if done == count:
            break
    log.info("wrote %d panels and arrays to %s", done, output)
    return output


def _write(experiment: Experiment, path: pathlib.Path, example: dict[str, Any]) -> None:
    arrays = {"image": example["image"]}
    arrays |= {f"prediction/{name}": value for name, value in example["predictions"].items()}
    arrays |= {f"target/{name}": value for name, value in example["targets"].items()}
    np.savez_compressed(path.with_name(path.name + ".npz"), **arrays)
    figure = figures.panel(
        example["image"],
        example["predictions"],
        example["targets"],
        experiment.tasks,
        experiment.data_info,
        masks=example["masks"],
    )
    figures.save_png(figure, path.with_name(path.name + ".png"))


def _read_folder(paths: list[pathlib.Path], image_size: tuple[int, int], batch_size: int) -> Iterator[Batch]:
    for start in range(0, len(paths), batch_size):
        part = paths[start : start + batch_size]
        yield {
            "id": [path.stem for path in part],
            "image": np.stack([_read_image(path, image_size) for path in part]),
            "targets": {},
            "labelled": {},
            "weight": np.ones(len(part), np.float32),
        }


def _read_image(path: pathlib.Path, image_size: tuple[int, int]) -> Float[np.ndarray, "h w 3"]:
    height, width = image_size
    try:
        with Image.open(path) as image:
            resized = image.convert("RGB").resize((width, height), Image.Resampling.BILINEAR)
    except (UnidentifiedImageError, OSError) as error:
        raise ValueError(f"{path} cannot be read as an image ({error}); remove it or repair it") from error
    return np.asarray(resized, np.float32) / 255
