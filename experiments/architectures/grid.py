"""The grids of this study; see README.md.

    python -m mtan_jax.sweep --grid=experiments/architectures/grid.py:streets --workdir=runs/architectures/streets

Grids: streets and rooms (architectures x weightings), streets_weightings (two architectures x 12 methods), and
streets_fixed (two architectures x 10 settings of constant weights). Lengths and sizes are equal for all runs of a
dataset. The first seed of all runs comes first.
"""

from mtan_jax.sweep import SweepRun

ARCHITECTURES = ("split", "split_wide", "split_deep", "dense", "cross_stitch", "mtan")
SINGLE_TASK = ("single", "stan")  # networks without shared parameters, for which weights only scale gradients
WEIGHTINGS = ("equal", "uncertainty", "dwa")
MORE_WEIGHTINGS = ("rlw", "stch", "famo", "pcgrad", "cagrad", "imtl_g", "nash_mtl", "aligned_mtl", "fairgrad")
# Weights of depth and normals; that of segmentation is 1.
FIXED = ((1, 10), (10, 1), (5, 5), (10, 10), (20, 20), (40, 40), (10, 40), (40, 10), (20, 80), (80, 20))

STREETS = {
    "data.options.image_size": (32, 64),
    "model.width": 0.125,
    "batch_size": 4,
    "eval.batch_size": 20,
    "duration": "1600 steps",
    "eval.every": "400 steps",
    "checkpoint.every": "400 steps",
    "log_every": "100 steps",
}
# NYUv2 with the recipe of streets: the paper's 200 epochs at full size are far beyond two CPU cores.
ROOMS = {
    **STREETS,
    "data.options.image_size": (64, 96),
    "data.workers": 0,
    "eval.batch_size": 6,
    "optimizer.learning_rate": 3e-3,
    "optimizer.schedule": "cosine",
    "optimizer.warmup": "20 steps",
}
DATASETS = {"streets": ("configs/streets.py", STREETS, (0, 1, 2)), "rooms": ("configs/nyuv2.py", ROOMS, (0, 1))}


def get_runs(arg: str = "streets") -> list[SweepRun]:
    """The runs of a grid, by its name."""
    dataset, _, study = arg.partition("_")
    config, fields, seeds = DATASETS[dataset]
    found = []
    for seed in seeds:
        for architecture, name, overrides in _settings(study):
            changed = {**fields, "model.arch": architecture, **overrides, "seed": seed}
            found.append(SweepRun(config, changed, f"{architecture}-{name}-{seed}"))
    return found


def _settings(study: str) -> list[tuple[str, str, dict[str, object]]]:
    """Architecture, name of the weighting and its fields."""
    if study == "weightings":
        return [(arch, name, {"weighting": name}) for arch in ("mtan", "split") for name in MORE_WEIGHTINGS]
    if study == "fixed":
        return [
            (arch, f"fixed-{depth}-{normal}", _static(depth, normal))
            for arch in ("mtan", "split")
            for depth, normal in FIXED
        ]
    if study:
        raise ValueError(f"no grid is called {study!r}; known: weightings, fixed")
    alone = [(arch, "equal", {"weighting": "equal"}) for arch in SINGLE_TASK]
    return alone + [(arch, name, {"weighting": name}) for arch in ARCHITECTURES for name in WEIGHTINGS]


def _static(depth: int, normal: int) -> dict[str, object]:
    weights = {"semantic": 1.0, "depth": float(depth), "normal": float(normal)}
    return {"weighting": "static", "weighting_options.static.weights": weights}
