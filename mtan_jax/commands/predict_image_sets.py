"""Predicts sets of labelled images: a class of each set per image, and figures of some images."""

import json
import logging
import pathlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TypedDict, cast

import jax
import numpy as np
from jaxtyping import Float, UInt8

from mtan_jax.commands import image_folder
from mtan_jax.commands.padded_batches import padded_batches
from mtan_jax.data.batches.image_set_batches import centre, cover, denormalise, normalise
from mtan_jax.data.decathlon.results import coco_results, image_id, write_results
from mtan_jax.data.image_sets import ImageSets, ImageSetsInfo
from mtan_jax.data.raw.image_files import printable, read_rgb
from mtan_jax.experiment import Experiment
from mtan_jax.reporting import figures
from mtan_jax.reporting.figure_style import save_png
from mtan_jax.runtime import parallel
from mtan_jax.steps.state import TrainState
from mtan_jax.training.restore import restore
from mtan_jax.types import Batch

log = logging.getLogger(__name__)

# "class" is a keyword, so this TypedDict has no class syntax. "class" is None if the label is unknown.
Prediction = TypedDict("Prediction", {"id": str, "predicted": str, "probability": float, "class": str | None})


def predict_split(
    experiment: Experiment, workdir: pathlib.Path, checkpoint: str, split: str, count: int
) -> pathlib.Path:
    """Predicts the classes of a split of every set.

    Args:
        experiment: a run on sets of labelled images; its dataset is prepared.
        workdir: of the run; results go to `figures/<split>/`.
        checkpoint: see `mtan_jax.training.restore.restore`.
        split: "val", "train" or "test".
        count: number of images per set in the figures, spread over the split; 0: all.

    Returns:
        The folder of the results: `SET.json` with id, predicted class, its probability and, if it is known, the true
        class of every image; `SET.png` with some images and both classes; and for the test images of the Visual
        Decathlon `results.json`, in the challenge's format.

    Raises:
        ValueError: a set has no such split.
    """
    builders = cast(ImageSets, experiment.data.builder).builders
    for name, builder in builders.items():
        if split not in builder.info.splits:
            raise ValueError(f"--split={split}: {name} has no such split; it has {', '.join(builder.info.splits)}")
    output = workdir / "figures" / split
    sizes = {name: builder.info.splits[split].num_examples for name, builder in builders.items()}
    found = _predict(experiment, workdir, checkpoint, experiment.data.whole_split(split), output, sizes, count)
    _log_written(sum(sizes.values()), output)
    if split == "test" and jax.process_index() == 0:
        _write_results(experiment, found, output / "results.json")
    return output


def predict_folder(
    experiment: Experiment,
    workdir: pathlib.Path,
    checkpoint: str,
    images: pathlib.Path,
    count: int,
    skip_unreadable: bool = False,
) -> pathlib.Path:
    """Predicts a class of every set for every image of a folder, as if the image belonged to each set.

    Args:
        experiment: a run on sets of labelled images, with a record of its dataset or a prepared dataset.
        workdir: of the run; results go to `figures/<name of the folder>/`.
        checkpoint: see `mtan_jax.training.restore.restore`.
        images: a folder of images, or one image; they are resized and cropped to the size used in training.
        count: number of images in the figures, spread over the folder; 0: all.
        skip_unreadable: see `mtan_jax.commands.image_folder.find_images`.

    Returns:
        The folder of the results: `SET.json` with file name, predicted class and its probability for every image;
        `SET.png` with some images and their predicted classes.

    Raises:
        ValueError: there is no image, an image is unreadable (the message names it), or the results would overwrite the
            images.
    """
    output = image_folder.output_folder(workdir, images)
    paths, info = image_folder.find_images(images, skip_unreadable), _info(experiment)
    batches = _read_folder(paths, info, experiment.config.eval.batch_size)
    sizes = dict.fromkeys(info.sets, len(paths))
    _predict(experiment, workdir, checkpoint, batches, output, sizes, count)
    _log_written(len(paths), output)
    return output


def predict_arrays(
    experiment: Experiment, state: TrainState, images: Sequence[np.ndarray]
) -> dict[str, Float[np.ndarray, "n classes"]]:
    """Predicts arrays, as if each image belonged to each set.

    Args:
        experiment: a run on sets of labelled images.
        state: of the network.
        images: [h, w, 3] each, uint8 or float32 in 0..1.

    Returns:
        Log-probabilities of the classes of every set.
    """
    info, batch_size = _info(experiment), experiment.config.eval.batch_size
    cropped = [centre(cover(_to_bytes(image), info.image_size), info.image_size) for image in images]
    found = {}
    for position, (name, image_set) in enumerate(info.sets.items()):
        pixels, parts = np.stack([normalise(image, image_set) for image in cropped]), []
        for batch, count in padded_batches(pixels, batch_size):
            task = np.full(len(batch), position, np.int32)
            inputs = parallel.place_batch(parallel.fill_rows({"image": batch, "task": task}))
            predictions, _ = jax.device_get(experiment.predict_step(state.variables, inputs))
            parts.append(predictions[name].reshape(-1, len(image_set.classes))[:count])
        found[name] = np.concatenate(parts)
    return found


def _info(experiment: Experiment) -> ImageSetsInfo:
    return cast(ImageSetsInfo, experiment.data.info)


def _to_bytes(image: np.ndarray) -> UInt8[np.ndarray, "h w 3"]:
    return image if image.dtype == np.uint8 else np.round(image * 255).astype(np.uint8)


def _read_folder(paths: Mapping[str, pathlib.Path], info: ImageSetsInfo, batch_size: int) -> Iterator[Batch]:
    """Yields each batch of images once per set, normalized with that set's statistics. Reads every image once."""
    names = list(paths)
    for start in range(0, len(names), batch_size):
        part = names[start : start + batch_size]
        images = [centre(cover(read_rgb(paths[name]), info.image_size), info.image_size) for name in part]
        for position, (name, image_set) in enumerate(info.sets.items()):
            yield {
                "id": [printable(paths[name].name) for name in part],
                "image": np.stack([normalise(image, image_set) for image in images]),
                "targets": {name: np.full(len(part), -1)},
                "labelled": {name: np.zeros(len(part), bool)},
                "weight": np.ones(len(part), np.float32),
                "task": np.full(len(part), position, np.int32),
            }


def _predict(
    experiment: Experiment,
    workdir: pathlib.Path,
    checkpoint: str,
    batches: Iterable[Batch],
    output: pathlib.Path,
    sizes: Mapping[str, int],
    count: int,
) -> dict[str, list[Prediction]]:
    """Writes and returns the predictions for the batches, which hold `sizes` images per set."""
    state = restore(experiment, workdir, checkpoint)
    output.mkdir(parents=True, exist_ok=True)
    names, sets = list(sizes), _info(experiment).sets
    found: dict[str, list[Prediction]] = {name: [] for name in names}
    shown: dict[str, dict[int, np.ndarray]] = {name: {} for name in names}
    strides = {name: max(size // count, 1) if count else 1 for name, size in sizes.items()}
    for batch in batches:
        inputs = parallel.place_batch(parallel.fill_rows({"image": batch["image"], "task": batch["task"]}))
        predictions, _ = jax.device_get(experiment.predict_step(state.variables, inputs))
        name = names[int(batch["task"][0])]
        image_set = sets[name]
        scores = predictions[name].reshape(-1, len(image_set.classes))
        for row in np.flatnonzero(batch["weight"]):
            label = int(batch["targets"][name][row])
            predicted = int(scores[row].argmax())
            found[name].append(
                {
                    "id": batch["id"][int(row)],
                    "predicted": image_set.classes[predicted],
                    "probability": round(float(np.exp(scores[row, predicted])), 4),
                    "class": image_set.classes[label] if label >= 0 else None,
                }
            )
            place = len(found[name]) - 1
            if place % strides[name] == 0 and not 0 < count <= len(shown[name]):
                shown[name][place] = denormalise(np.asarray(batch["image"][row]), image_set)
    if jax.process_index() == 0:
        for name, lines in found.items():
            (output / f"{name}.json").write_text(json.dumps(lines, indent=1) + "\n")
            sheet = figures.sheet(name, list(shown[name].values()), [lines[place] for place in shown[name]])
            save_png(sheet, output / f"{name}.png")
    return found


def _log_written(count: int, output: pathlib.Path) -> None:
    log.info("wrote the classes of %d %s to %s", count, "image" if count == 1 else "images", printable(output))


def _write_results(experiment: Experiment, found: dict[str, list[Prediction]], path: pathlib.Path) -> None:
    """Writes the results file of the challenge if all sets are its sets."""
    builders = cast(ImageSets, experiment.data.builder).builders
    ids = {}
    for name, builder in builders.items():
        try:
            ids[name] = builder.category_ids
        except (AttributeError, ValueError) as error:
            log.info("skipped the results file of the challenge: %s", error)
            return
    classes = {name: _info(experiment).sets[name].classes for name in found}
    predictions = {
        name: [(image_id(line["id"]), classes[name].index(line["predicted"])) for line in lines]
        for name, lines in found.items()
    }
    write_results(path, coco_results(predictions, ids))
    log.info("wrote %s for the challenge", path)
