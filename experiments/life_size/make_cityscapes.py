"""Makes Cityscapes at its real size: 2975 + 500 + 1525 images of 1024x2048, as folders, and 300 of them as zips.

    python experiments/life_size/make_cityscapes.py --scratch=runs/life_size folders zips

16 rendered scenes (10 for train, 3 for val, 3 for test) are linked under official names: raw/cityscapes, some 100 MB on
disk. Camera files are not linked: each image has its own. raw/cityscapes_zips holds 225 + 50 + 25 images in the four
zips of the download page. The PNG images have about 4 MB, the official ones about 2.3 MB.
"""

import json
import pathlib
import sys
import zipfile

import numpy as np
from inputs import ROOT, link, parser, part_of, whole

from mtan_jax.data.streets import render

sys.path.append(str(ROOT / "tests" / "data"))
from helpers.cityscapes_release import PACKAGES, scene_files

SIZE = (1024, 2048)
SCENES = {"train": 10, "val": 3, "test": 3}
IN_ZIPS = {"train": 225, "val": 50, "test": 25}
# Numbers of images by city; those of the official release, from memory. The sums are the published 2975, 500, 1525.
CITIES = {
    "train": {"aachen": 174, "bochum": 96, "bremen": 316, "cologne": 154, "darmstadt": 85, "dusseldorf": 221}
    | {"erfurt": 109, "hamburg": 248, "hanover": 196, "jena": 119, "krefeld": 99, "monchengladbach": 94}
    | {"strasbourg": 365, "stuttgart": 196, "tubingen": 144, "ulm": 95, "weimar": 142, "zurich": 122},
    "val": {"frankfurt": 267, "lindau": 59, "munster": 174},
    "test": {"berlin": 544, "bielefeld": 181, "bonn": 46, "leverkusen": 58, "mainz": 298, "munich": 398},
}
SUFFIXES = {
    "leftImg8bit": ("leftImg8bit.png",),
    "gtFine": ("gtFine_labelIds.png", "gtFine_color.png"),
    "disparity": ("disparity.png",),
    "camera": ("camera.json",),
}


def main() -> None:
    """Makes the requested parts that do not exist yet."""
    arguments = parser(__doc__)
    arguments.add_argument("kinds", nargs="+", choices=["folders", "zips"])
    given = arguments.parse_args()
    raw = given.scratch / "raw"
    scenes = {split: part_of(count, given.fraction) for split, count in SCENES.items()}
    write_scenes(raw / "cityscapes_scenes", scenes)
    for kind in given.kinds:
        folder = raw / ("cityscapes" if kind == "folders" else "cityscapes_zips")
        if not folder.exists():
            write = write_folders if kind == "folders" else write_zips
            with whole(folder) as part:
                write(raw / "cityscapes_scenes", part, scenes, given.fraction)


def write_scenes(folder: pathlib.Path, scenes: dict[str, int]) -> None:
    """Renders the distinct scenes, each into a folder of files named after their suffix."""
    for number, (split, index) in enumerate((split, i) for split, count in scenes.items() for i in range(count)):
        place = folder / f"{split}_{index}"
        if place.exists():
            continue
        scene = render(7, "train", number, SIZE)
        scene |= {"city": "", "split": split, "inverse_depth": scene["depth"]}
        if split == "test":  # the labels of test are not public: their files hold "unlabeled" everywhere
            scene["label_ids"] = np.zeros(SIZE, np.uint8)
        content = {suffix: data for _, suffix, data in scene_files(scene)}
        content["gtFine_color.png"] = content["gtFine_labelIds.png"]  # not read
        with whole(place) as part:
            for suffix, data in content.items():
                (part / suffix).write_bytes(data)


def stems(counts: dict[str, dict[str, int]], scenes: dict[str, int]) -> list[tuple[str, str, str, str]]:
    """Yields split, city, stem and scene of each image."""
    found = []
    for split, cities in counts.items():
        names = [(city, number) for city, count in cities.items() for number in range(count)]
        for i, (city, number) in enumerate(names):
            found.append((split, city, f"{city}_{number:06d}_000019", f"{split}_{i % scenes[split]}"))
    return found


def camera(path: pathlib.Path, number: int) -> bytes:
    """Returns the camera of a scene with a different roll per image, because official files differ."""
    content = json.loads(path.read_text())
    content["extrinsic"]["roll"] = number * 1e-5
    return json.dumps(content, indent=4).encode()


def write_folders(scenes_dir: pathlib.Path, folder: pathlib.Path, scenes: dict[str, int], fraction: float) -> None:
    """Links the scenes under official names."""
    counts = {
        split: {city: part_of(count, fraction) for city, count in cities.items()} for split, cities in CITIES.items()
    }
    for number, (split, city, stem, scene) in enumerate(stems(counts, scenes)):
        for part in PACKAGES:
            place = folder / part / split / city
            place.mkdir(parents=True, exist_ok=True)
            for suffix in SUFFIXES[part]:
                source = scenes_dir / scene / suffix
                if part == "camera":
                    (place / f"{stem}_{suffix}").write_bytes(camera(source, number))
                else:
                    link(source, place / f"{stem}_{suffix}")


def write_zips(scenes_dir: pathlib.Path, folder: pathlib.Path, scenes: dict[str, int], fraction: float) -> None:
    """Packs images of the first city of each split into one zip per part."""
    counts = {split: {next(iter(CITIES[split])): part_of(count, fraction)} for split, count in IN_ZIPS.items()}
    for part in PACKAGES:
        with zipfile.ZipFile(
            folder / f"{part}_trainvaltest.zip", "w", zipfile.ZIP_DEFLATED, compresslevel=1
        ) as archive:
            archive.writestr("license.txt", "A file that the official zips hold too.")
            for number, (split, city, stem, scene) in enumerate(stems(counts, scenes)):
                for suffix in SUFFIXES[part]:
                    source = scenes_dir / scene / suffix
                    data = camera(source, number) if part == "camera" else source.read_bytes()
                    archive.writestr(f"{part}/{split}/{city}/{stem}_{suffix}", data)


if __name__ == "__main__":
    main()
