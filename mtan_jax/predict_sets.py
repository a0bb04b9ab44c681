"""Sets of labelled images in, their predicted classes and pictures of them out."""

import json
import logging
import pathlib
from typing import Any, cast

import jax
import numpy as np

from mtan_jax import figures, parallel
from mtan_jax.data.decathlon.results import coco_results, image_id, write_results
from mtan_jax.data.image_sets import ImageSets
from mtan_jax.data.mixture import denormalise
from mtan_jax.evaluate import restore
from mtan_jax.experiment import Experiment

log = logging.getLogger(__name__)


def predict_sets(
    experiment: Experiment, workdir: pathlib.Path, checkpoint: str, split: str, count: int
) -> pathlib.Path:
    """Predicts the classes of a split of every set.

    Args:
        experiment: the run, of sets of labelled images; its data set is prepared.
        workdir: of the run; all goes to `figures/<split>/`.
        checkpoint: see `mtan_jax.evaluate.restore`.
        split: "val", "train" or "test"; of the test images of the Visual Decathlon, a results file is written too.
        count: how many images of each set the pictures show, spread over the split; 0: all.

    Returns:
        The folder written to: `SET.json`, with id, predicted class, its probability and, where it is known, the class
        of every image; `SET.png`, some images with both classes; and for "test" `results.json`, as the challenge
        takes it.

    Raises:
        ValueError: a set has no such split.
    """
    builders = cast(ImageSets, experiment.builder).builders
    for name, builder in builders.items():
        if split not in builder.info.splits:
            raise ValueError(f"--split={split}: {name} has no such split; it has {', '.join(builder.info.splits)}")
    output = workdir / "figures" / split
    state = restore(experiment, workdir, checkpoint)
    output.mkdir(parents=True, exist_ok=True)
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in builders}
    shown: dict[str, dict[int, np.ndarray]] = {name: {} for name in found}
    sizes = {name: builder.info.splits[split].num_examples for name, builder in builders.items()}
    strides = {name: max(size // count, 1) if count else 1 for name, size in sizes.items()}
    names, sets = list(found), experiment.data_info.sets
    for batch in experiment.whole_split(split):
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
                    "id": batch["id"][row],
                    "predicted": image_set.classes[predicted],
                    "probability": round(float(np.exp(scores[row, predicted])), 4),
                    "class": image_set.classes[label] if label >= 0 else None,
                }
            )
            place = len(found[name]) - 1
            if place % strides[name] == 0 and not 0 < count <= len(shown[name]):
                shown[name][place] = denormalise(batch["image"][row], image_set)
    if jax.process_index() == 0:
        for name, lines in found.items():
            (output / f"{name}.json").write_text(json.dumps(lines, indent=1) + "\n")
            sheet = figures.sheet(name, list(shown[name].values()), [lines[place] for place in shown[name]])
            figures.save_png(sheet, output / f"{name}.png")
        if split == "test":
            _write_results(experiment, found, output / "results.json")
    log.info("wrote the classes of %d images to %s", sum(map(len, found.values())), output)
    return output


def _write_results(experiment: Experiment, found: dict[str, list[dict[str, Any]]], path: pathlib.Path) -> None:
    """The results file of the challenge, where all sets have its ids."""
    builders = cast(ImageSets, experiment.builder).builders
    ids = {}
    for name, builder in builders.items():
        try:
            ids[name] = builder.category_ids
        except (AttributeError, ValueError) as error:
            log.info("no results file for the challenge: %s", error)
            return
    classes = {name: experiment.data_info.sets[name].classes for name in found}
    predictions = {
        name: [(image_id(line["id"]), classes[name].index(line["predicted"])) for line in lines]
        for name, lines in found.items()
    }
    write_results(path, coco_results(predictions, ids))
    log.info("wrote %s for the challenge", path)
