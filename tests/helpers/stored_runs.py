"""Working directories as training leaves them, with metrics of one's choice."""

import json
import math

import mtan_jax as mtan
from mtan_jax.data.dataset_record import DataRecord
from mtan_jax.data.nyuv2 import classes
from mtan_jax.reporting.metrics_file import MetricsFile
from mtan_jax.training.config_record import flatten_config

TRAIN, BATCH = 795, 2  # an epoch of NYUv2 has 397.5 steps
EPOCHS = 4
# Published results of SegNet-MTAN on NYUv2: a single-task network per task, the sum of losses, and Nash-MTL (Navon et
# al., ICML 2022, table 1). Fractions, meters and degrees.
NAMES = (
    *("semantic/miou", "semantic/pixel_accuracy", "depth/abs_error", "depth/rel_error", "normal/mean", "normal/median"),
    *("normal/within_11.25", "normal/within_22.5", "normal/within_30"),
)
STL = dict(zip(NAMES, (0.3830, 0.6376, 0.6754, 0.2780, 25.01, 19.21, 0.3014, 0.5720, 0.6915), strict=True))
LS = dict(zip(NAMES, (0.3929, 0.6533, 0.5493, 0.2263, 28.15, 23.96, 0.2209, 0.4750, 0.6108), strict=True))
NASH = dict(zip(NAMES, (0.4013, 0.6593, 0.5261, 0.2171, 25.26, 20.08, 0.2840, 0.5547, 0.6815), strict=True))


def of_task(values, task):
    """The metrics of one task."""
    return {name: value for name, value in values.items() if name.startswith(f"{task}/")}


def change(values, factor):
    """All values times a factor."""
    return {name: value * factor for name, value in values.items()}


def write(folder, values, *, arg="nyuv2", epochs=EPOCHS, logged=None, record=None, **fields):
    """Writes a run that was evaluated after every epoch, with values that approach the given ones at the end.

    Args:
        folder: the working directory.
        values: metrics of the last evaluation; before it, they were 1 % larger for every epoch that was left.
        arg: the configuration and its arguments.
        epochs: epochs that were trained, of `EPOCHS`.
        logged: {name: value at the end} of the split "train".
        record: fields of `data.json` that differ.
        fields: fields of the configuration, with "__" for dots.
    """
    config = mtan.load_config(arg)
    config.duration, config.batch_size = f"{EPOCHS} epochs", BATCH
    for name, value in fields.items():
        *parents, last = name.split("__")
        node = config
        for parent in parents:
            node = node[parent]
        node[last] = value
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(flatten_config(config)))
    data = DataRecord(
        "nyuv2",
        (288, 384),
        classes.names(13),
        {"nyuv2": {"train": TRAIN, "val": 654}},
        {},
        {"nyuv2": "13-release"},
    )
    (folder / "data.json").write_text(json.dumps({**json.loads(data.to_json()), **(record or {})}))
    file = MetricsFile(folder, 0)
    for epoch in range(1, epochs + 1):
        step = math.ceil(epoch * TRAIN / BATCH)
        at = {"epoch": step * BATCH / TRAIN}
        train = {name: value * (1 + 0.1 * (EPOCHS - epoch)) for name, value in (logged or {}).items()}
        file.write(step, "train", {**at, **train, "learning_rate": 1e-4, "steps_per_second": 1.0})
        file.write(step, "val", {**at, **change(values, 1 + 0.01 * (EPOCHS - epoch))})
    if epochs == EPOCHS:
        file.write(step, "val_constant", at)
    file.close()
    return folder
