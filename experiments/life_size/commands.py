"""The commands that run at real size: those of README.md and of the configurations, with overrides."""

import dataclasses
import functools
import json
import pathlib
from collections.abc import Mapping

NINE = "aircraft+cifar100+daimlerpedcls+dtd+gtsrb+omniglot+svhn+ucf101+vgg-flowers"
NARROW = "0.0625"
SOON = ("--config.log_every=2 steps",)


@dataclasses.dataclass(frozen=True)
class Run:
    """One command.

    Attributes:
        name: name of its row in the table.
        flags: after `python -m mtan_jax.main`, or a script of this folder and its arguments.
        inputs: scripts that make the raw data first, with their arguments.
        prepares: pattern of the datasets that it prepares, below the scratch folder; they are removed first.
        sets: number of datasets that match.
        reads: pattern of the datasets whose examples `passes` counts, if the command prepares none.
        passes: number of passes over each split.
        examples: number of examples, if no prepared dataset gives it.
        until: "prepared" or "logged" (the first line of metrics.jsonl): when to interrupt the command, as by Ctrl-C.
        discards: folders below the scratch folder to remove afterwards.
        script: whether the first of `flags` is a script.
    """

    name: str
    flags: tuple[str, ...]
    inputs: tuple[tuple[str, ...], ...] = ()
    prepares: str | None = None
    sets: int = 1
    reads: str | None = None
    passes: Mapping[str, float] = dataclasses.field(default_factory=dict)
    examples: int | None = None
    until: str | None = None
    discards: tuple[str, ...] = ()
    script: bool = False

    @property
    def workdir(self) -> str | None:
        """Returns the working directory named by the flags."""
        return next((flag.partition("=")[2] for flag in self.flags if flag.startswith("--workdir=")), None)


def finished(pattern: str, scratch: pathlib.Path) -> list[pathlib.Path]:
    """Returns the finished datasets (folders with dataset_info.json) that match a pattern."""
    found = scratch.glob(f"{pattern}/*/dataset_info.json")
    return sorted(path.parent for path in found if "incomplete" not in str(path.relative_to(scratch)))


def split_sizes(folders: list[pathlib.Path]) -> dict[str, int]:
    """Returns the total number of examples in each split of prepared datasets."""
    sizes: dict[str, int] = {}
    for folder in folders:
        for split in json.loads((folder / "dataset_info.json").read_text())["splits"]:
            sizes[split["name"]] = sizes.get(split["name"], 0) + sum(map(int, split["shardLengths"]))
    return sizes


def _flags(config: str, workdir: str, raw: str, *more: str, data_dir: str = "prepared") -> tuple[str, ...]:
    folders = (f"--workdir=runs/{workdir}", f"--config.data.raw_dir=raw/{raw}", f"--config.data.data_dir={data_dir}")
    return (f"--config=configs/{config}", *folders, *more)


def _nyuv2() -> tuple[Run, ...]:
    make = functools.partial(_maker, "make_nyuv2.py")
    printed = _flags("nyuv2.py", "nyuv2", "nyuv2")
    batches = ("--config.batch_size=8", "--config.eval.batch_size=8")
    narrow = _flags(f"nyuv2.py:width={NARROW}", "nyuv2_narrow", "nyuv2", *batches, "--config.duration=2 epochs")
    dataset = "prepared/nyuv2/13-288x384-release"
    forty = _flags("nyuv2.py", "nyuv2_40", "nyuv2", "--config.data.options.num_classes=40")
    authors = _flags("nyuv2.py", "nyuv2_authors", "nyuv2_authors", "--config.data.options.layout=authors")
    folder_40, folder_authors = "prepared/nyuv2/40-288x384-release", "prepared/nyuv2/13-288x384-authors"
    return (
        Run(
            "NYUv2, .mat, 288x384, 13 classes: prepare (README's command)",
            printed,
            make("release"),
            prepares=dataset,
            until="prepared",
        ),
        Run("NYUv2, the same command: 2 steps at full width", (*printed, *SOON), examples=2 * 2, until="logged"),
        Run(
            "NYUv2, .mat, 288x384, 40 classes: prepare",
            forty,
            prepares=folder_40,
            until="prepared",
            discards=(folder_40,),
        ),
        Run(
            "NYUv2, authors' float64 arrays, 288x384: prepare",
            authors,
            make("authors"),
            prepares=folder_authors,
            until="prepared",
            discards=(folder_authors, "raw/nyuv2_authors"),
        ),
        Run("NYUv2, width 1/16, batch 8: train 2 epochs", narrow, reads=dataset, passes={"train": 2}),
        Run("NYUv2, the same: eval on val", (*narrow, "--mode=eval"), reads=dataset, passes={"val": 1}),
        Run("NYUv2, the same: predict 8 of val", (*narrow, "--mode=predict"), examples=8),
        Run(
            "NYUv2, the same: predict 32 images of 640x480",
            (*narrow, "--mode=predict", "--images=raw/nyuv2_images"),
            make("images"),
            examples=32,
        ),
    )


def _cityscapes() -> tuple[Run, ...]:
    make = functools.partial(_maker, "make_cityscapes.py")
    printed = _flags("cityscapes.py", "cityscapes", "cityscapes")
    dataset = "prepared/cityscapes/7-128x256-disparity-release"
    large = _flags("cityscapes.py", "cityscapes_large", "cityscapes", "--config.data.options.image_size=(256, 512)")
    folder_large = "prepared/cityscapes/7-256x512-disparity-release"
    zips = _flags("cityscapes.py", "cityscapes_zips", "cityscapes_zips", data_dir="prepared_zips")
    narrow = _flags(f"cityscapes.py:width={NARROW}", "cityscapes_narrow", "cityscapes", "--config.duration=1 epochs")
    return (
        Run(
            "Cityscapes, folders, 128x256: prepare (the printed command)",
            printed,
            make("folders"),
            prepares=dataset,
            until="prepared",
        ),
        Run("Cityscapes, the same command: 2 steps at full width", (*printed, *SOON), examples=2 * 8, until="logged"),
        Run(
            "Cityscapes, folders, 256x512: prepare",
            large,
            prepares=folder_large,
            until="prepared",
            discards=(folder_large,),
        ),
        Run(
            "Cityscapes, zips, 128x256: prepare",
            zips,
            make("zips"),
            prepares="prepared_zips/cityscapes/7-128x256-disparity-release",
            until="prepared",
            discards=("prepared_zips",),
        ),
        Run("Cityscapes, width 1/16: train 1 epoch", narrow, reads=dataset, passes={"train": 1}),
    )


def _decathlon() -> tuple[Run, ...]:
    make = functools.partial(_maker, "make_decathlon.py")
    nine = _flags(f"decathlon.py:sets={NINE}", "decathlon_nine", "decathlon")
    one = _flags("decathlon.py:sets=imagenet12", "decathlon_imagenet12", "decathlon")
    small = ("--config.duration=1 epochs", "--config.data.options.image_size=(32, 32)")
    schedule = _flags(f"decathlon.py:width={NARROW}", "decathlon_pass", "decathlon", *small)
    return (
        Run(
            "Decathlon, nine sets: prepare",
            nine,
            make("ten"),
            prepares="prepared/decathlon/*-official",
            sets=9,
            until="prepared",
        ),
        Run(
            "Decathlon, imagenet12 whole: list and check its order",
            ("listing.py", "--raw_dir=raw/imagenet12", "--set=imagenet12"),
            make("imagenet12"),
            examples=1_329_405,
            script=True,
        ),
        Run(
            "Decathlon, imagenet12, a slice: prepare",
            one,
            make("ten"),
            prepares="prepared/decathlon/imagenet12-official",
            until="prepared",
        ),
        Run(
            "Decathlon, ten sets, width 1/16, cut to 32x32: one pass of the authors' schedule",
            schedule,
            reads="prepared/decathlon/*-official",
            passes={"train": 1},
        ),
    )


def _maker(script: str, *kinds: str) -> tuple[tuple[str, ...], ...]:
    return ((script, *kinds),)


PARTS = {"nyuv2": _nyuv2(), "cityscapes": _cityscapes(), "decathlon": _decathlon()}
