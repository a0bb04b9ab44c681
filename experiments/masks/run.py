"""Looks at the attention masks of a trained network: statistics, what they are worth, and a picture.

    python experiments/masks/run.py streets --workdir=runs/masks/streets
    python experiments/masks/run.py rooms --workdir=runs/masks/rooms --raw_dir=FOLDER_OF_NYUV2

A working directory without a complete run is trained first, as `mtan-equal-0` of experiments/architectures. Writes
results/NAME.json and docs/images/masks_NAME.png; report.py makes the tables of docs/masks.md.
"""

import argparse
import json
import logging
import pathlib
import runpy
from collections.abc import Callable, Iterator, Mapping

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import ml_collections
import numpy as np
from flax import linen as nn

import mtan_jax as mtan
from mtan_jax.models.attention import AttentionMask
from mtan_jax.steps import stage_names
from mtan_jax.training import evaluation

FOLDER = pathlib.Path(__file__).parent
ROOT = FOLDER.parents[1]
SCENES = {"streets": (3, 42, 117), "rooms": (10, 200, 400)}  # of the validation split, chosen before they were seen
# At these stages a mask looks like the photograph, and photographs of NYUv2 may not be published here.
LEFT_OUT = {"streets": (), "rooms": ("encoder_0", "encoder_1")}


def main() -> None:
    """Trains if necessary, measures and draws."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=sorted(SCENES))
    parser.add_argument("--workdir", required=True)
    parser.add_argument("--raw_dir", help="folder of the raw NYUv2 release, for rooms")
    parser.add_argument("--data_dir", help="folder of prepared datasets")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    config = get_config(arguments.name)
    config.data.raw_dir, config.data.data_dir = arguments.raw_dir, arguments.data_dir
    run = mtan.fit(config, arguments.workdir)
    stages = stage_names(run.experiment.model, run.experiment.abstract_variables, run.experiment.data.info.image_size)
    results = {
        "tasks": list(config.tasks),
        "trained": statistics(run, stages, "newest"),
        "untrained": statistics(run, stages, "initial"),
        "metrics": worth(run),
    }
    path = FOLDER / "results" / f"{arguments.name}.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(results, indent=1) + "\n")
    draw(run, stages, arguments.name)


def get_config(name: str) -> ml_collections.ConfigDict:
    """The configuration of the study's MTAN with equal weights, seed 0."""
    grid = runpy.run_path(str(ROOT / "experiments" / "architectures" / "grid.py"))
    (found,) = [run for run in grid["get_runs"](name) if run.name == "mtan-equal-0"]
    config = mtan.load_config(str(ROOT / found.config))
    for field, value in found.fields.items():
        config.update_from_flattened_dict({field: value})
    return config


def statistics(run: mtan.Run, stages: tuple[str, ...], checkpoint: str) -> dict[str, dict[str, object]]:
    """Statistics of the masks over the validation split, by stage.

    `from_half`: mean |m - 1/2| per task. `over_pixels`: per task, the standard deviation over the pixels of an image,
    averaged over channels and images: 0 for a mask that only selects channels. `between_tasks`: mean |m_s - m_t| over
    all pairs of tasks.
    """
    sums: dict[str, dict[str, np.ndarray]] = {stage: {} for stage in stages}
    count = 0
    for images, _, masks in predictions_of_split(run, checkpoint):
        count += len(images)
        for stage in stages:
            mask = masks[stage].astype(np.float64)
            first, second = np.triu_indices(mask.shape[1], k=1)
            found = {
                "from_half": np.abs(mask - 0.5).mean(axis=(2, 3, 4)),
                "over_pixels": mask.std(axis=(2, 3)).mean(axis=-1),
                "between_tasks": np.abs(mask[:, first] - mask[:, second]).mean(axis=(1, 2, 3, 4)),
            }
            for name, value in found.items():
                sums[stage][name] = sums[stage].get(name, 0) + value.sum(axis=0)
    return {
        stage: {name: np.round(total / count, 4).tolist() for name, total in found.items()}
        for stage, found in sums.items()
    }


def predictions_of_split(
    run: mtan.Run, checkpoint: str
) -> Iterator[tuple[np.ndarray, dict[str, np.ndarray], dict[str, np.ndarray]]]:
    """Images, predictions by task, and masks by stage [b, tasks, h, w, channels] of the validation split, by batch."""
    state = run.restore(checkpoint)
    for batch in run.experiment.data.whole_split("val"):
        inputs = {"image": jnp.asarray(batch["image"])[None]}  # one device
        predictions, masks = jax.device_get(run.experiment.predict_step(state.variables, inputs))
        rows = np.asarray(batch["weight"]) > 0  # without those that pad the last batch
        yield (
            np.asarray(batch["image"])[rows],
            {task: prediction[0, rows] for task, prediction in predictions.items()},
            {stage: np.moveaxis(mask[0], 0, 1)[rows] for stage, mask in masks.items()},
        )


def worth(run: mtan.Run) -> dict[str, dict[str, float]]:
    """Metrics on the validation split with the learned masks, and with others in their place.

    `learned`; `mean`: each channel's mean over the split, the same at every pixel of every image; `half`: 1/2
    everywhere; `swapped`: each task has the attention module of the next task.
    """
    state = run.restore("newest")
    means = mean_masks(run)

    def constant(path: tuple[str, ...], mask: jax.Array) -> jax.Array:
        task, stage = path[0].removeprefix("attention_"), path[1]
        return jnp.broadcast_to(means[stage][run.config.tasks.index(task)], mask.shape)

    tasks = list(run.config.tasks)
    renamed = {f"attention_{a}": f"attention_{b}" for a, b in zip(tasks, [*tasks[1:], tasks[0]], strict=True)}
    swapped = state.replace(
        params={name: state.params[renamed.get(name, name)] for name in state.params},
        batch_stats={name: state.batch_stats[renamed.get(name, name)] for name in state.batch_stats},
    )
    return {
        "learned": evaluate(run, state),
        "mean": evaluate(run, state, constant),
        "half": evaluate(run, state, lambda path, mask: jnp.full_like(mask, 0.5)),
        "swapped": evaluate(run, swapped),
    }


def mean_masks(run: mtan.Run) -> Mapping[str, np.ndarray]:
    """The mean of each channel's mask over the validation split, by stage: [tasks, channels]."""
    total, count = {}, 0
    for images, _, masks in predictions_of_split(run, "newest"):
        count += len(images)
        for stage, mask in masks.items():
            total[stage] = total.get(stage, 0) + mask.mean(axis=(2, 3)).sum(axis=0)
    return {stage: value / count for stage, value in total.items()}


def evaluate(
    run: mtan.Run, state, change: Callable[[tuple[str, ...], jax.Array], jax.Array] = lambda path, mask: mask
) -> dict[str, float]:
    """Metrics with every mask replaced by `change(path of its module, mask)`."""

    def intercept(call, args, kwargs, context):
        found = call(*args, **kwargs)
        if isinstance(context.module, AttentionMask) and context.method_name == "__call__":
            return change(context.module.path, found)
        return found

    experiment = mtan.Experiment.from_config(run.config)  # a new one, whose evaluation step is traced anew
    experiment.data.prepare()
    with nn.intercept_methods(intercept):
        return evaluation.evaluate(experiment, state)


def draw(run: mtan.Run, stages: tuple[str, ...], name: str) -> None:
    """Draws, per scene, stage and task, the channel in which the tasks' masks differ most over the split.

    The first column is the image, for rooms the predicted classes.
    """
    wanted, stages = SCENES[name], tuple(stage for stage in stages if stage not in LEFT_OUT[name])
    difference, kept, images, classes, number = {}, {}, {}, {}, 0
    for batch, predictions, masks in predictions_of_split(run, "newest"):
        for stage, mask in masks.items():
            difference[stage] = difference.get(stage, 0) + mask.std(axis=1).mean(axis=(1, 2)).sum(axis=0)
        for row in range(len(batch)):
            if number in wanted:
                kept[number] = {stage: mask[row] for stage, mask in masks.items()}
                images[number] = batch[row]
                classes[number] = predictions["semantic"][row].argmax(-1)
            number += 1
    channels = {stage: int(value.argmax()) for stage, value in difference.items()}
    tasks, palette = list(run.config.tasks), run.experiment.data.info.palette
    height, width = run.experiment.data.info.image_size
    rows, columns = len(wanted) * len(tasks), 1 + len(stages)
    size = 14, 14 / columns * (height / width) * rows * 1.12
    figure, axes = plt.subplots(rows, columns, figsize=size, layout="constrained")
    figure.get_layout_engine().set(w_pad=0.02, h_pad=0.02, wspace=0, hspace=0)
    for block, scene in enumerate(wanted):
        for row, task in enumerate(tasks):
            line = axes[block * len(tasks) + row]
            context = images[scene] if name == "streets" else palette[classes[scene]]
            if row == 0:
                line[0].imshow(context)
            line[0].axis("off")
            for stage, axis in zip(stages, line[1:], strict=True):
                drawn = axis.imshow(kept[scene][stage][row, ..., channels[stage]], cmap="gray", vmin=0, vmax=1)
                axis.set(xticks=[], yticks=[])
                if block == row == 0:
                    axis.set_title(f"{stage}\nchannel {channels[stage]}", fontsize=8)
            line[1].set_ylabel(task, fontsize=8)
    axes[0, 0].set_title("image" if name == "streets" else "predicted classes", fontsize=8)
    figure.colorbar(drawn, ax=axes, shrink=0.4, aspect=30, pad=0.01)
    figure.savefig(ROOT / "docs" / "images" / f"masks_{name}.png", dpi=100)


if __name__ == "__main__":
    main()
