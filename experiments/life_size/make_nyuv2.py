"""Makes the raw data of NYUv2: all 1449 frames as the official release, parts of it, and the authors' layout.

    python experiments/life_size/make_nyuv2.py --scratch=runs/life_size release images first authors

`release`: raw/nyuv2, 4 GB, by tools/make_full_nyuv2.py of the folder --shared. `first`: raw/nyuv2_first, the first 400
frames of train and 8 of val. `images`: raw/nyuv2_images, 32 JPEGs of 640x480. `authors`: raw/nyuv2_authors, all frames
as float64 arrays of 288x384 (10 GB), derived from the prepared 13-class dataset.
"""

import json
import pathlib
import shutil
import subprocess
import sys

import h5py
import numpy as np
import scipy.io
from inputs import parser, part_of, whole

from mtan_jax.data.nyuv2 import NYUv2

MAT, SPLITS_MAT = "nyu_depth_v2_labeled.mat", "splits.mat"
SPLITS = {"train": ("trainNdxs", 795), "val": ("testNdxs", 654)}
FIRST = {"train": 400, "val": 8}
IMAGES = 32


def main() -> None:
    """Makes the requested parts that do not exist yet."""
    arguments = parser(__doc__)
    arguments.add_argument("kinds", nargs="+", choices=["release", "first", "images", "authors"])
    given = arguments.parse_args()
    raw = given.scratch / "raw"
    for kind in given.kinds:
        folder = raw / ("nyuv2" if kind == "release" else f"nyuv2_{kind}")
        if folder.exists():
            continue
        if kind == "images":
            copy_images(given.shared, folder)
        elif kind == "authors":
            write_authors(given.scratch / "prepared", folder)
        else:
            full = write_full(given.shared, raw / "nyuv2_full")
            counts = {name: part_of(count, given.fraction, 10) for name, (_, count) in SPLITS.items()}
            if kind == "first":
                counts = {name: min(FIRST[name], count) for name, count in counts.items()}
            if kind == "release" and given.fraction == 1:
                folder.symlink_to(full.name)
            else:
                write_first(full, folder, counts)


def write_full(shared: pathlib.Path, folder: pathlib.Path) -> pathlib.Path:
    """Writes the release with all frames."""
    if not folder.exists():
        tool = shared / "tools" / "make_full_nyuv2.py"
        if not tool.is_file():
            raise SystemExit(f"{tool} is missing; name the folder that holds tools/ and data/ with --shared")
        with whole(folder) as part:
            subprocess.run([sys.executable, tool, part], check=True)
    return folder


def write_first(full: pathlib.Path, folder: pathlib.Path, counts: dict[str, int]) -> None:
    """Writes a release with the first frames of each split, and a matching split file."""
    content = scipy.io.loadmat(full / SPLITS_MAT)
    frames = {name: np.sort(content[key].ravel())[: counts[name]] for name, (key, _) in SPLITS.items()}
    chosen = np.sort(np.concatenate(list(frames.values())))
    with (
        whole(folder) as part,
        h5py.File(full / MAT, "r") as source,
        h5py.File(part / MAT, "w") as target,
    ):
        for key in ("images", "depths", "labels"):
            array = source[key]
            copy = target.create_dataset(key, (len(chosen), *array.shape[1:]), array.dtype)
            for i, number in enumerate(chosen):
                copy[i] = array[number - 1]
        split = {SPLITS[name][0]: np.searchsorted(chosen, found)[:, None] + 1 for name, found in frames.items()}
        scipy.io.savemat(part / SPLITS_MAT, split)


def copy_images(shared: pathlib.Path, folder: pathlib.Path) -> None:
    """Copies some frames as image files, for --images."""
    with whole(folder) as part:
        for index in range(0, 1449, 1449 // IMAGES)[:IMAGES]:
            shutil.copy(shared / "data" / "nyuv2_full" / "image" / f"{index}.jpg", part)


def write_authors(data_dir: pathlib.Path, folder: pathlib.Path) -> None:
    """Writes the authors' preprocessed layout, with their dtypes."""
    builder = NYUv2(data_dir=str(data_dir))
    if not builder.is_prepared():
        raise SystemExit(f"{data_dir} holds no prepared NYUv2 with 13 classes at 288x384; run the part nyuv2 first")
    with whole(folder) as part:
        for split in SPLITS:
            for kind in ("image", "label", "depth", "normal"):
                (part / split / kind).mkdir(parents=True, exist_ok=True)
            for number, example in enumerate(builder.as_data_source(split)):
                arrays = {"image": example["image"] / 255.0, "label": example["semantic"]}
                arrays |= {kind: example[kind] for kind in ("depth", "normal")}
                for kind, array in arrays.items():
                    np.save(part / split / kind / f"{number}.npy", array.astype(np.float64))
        (part / "source.json").write_text(json.dumps({"derived from": str(builder.data_path)}))


if __name__ == "__main__":
    main()
