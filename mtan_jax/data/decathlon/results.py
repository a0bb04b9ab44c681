"""The results file of the Visual Decathlon challenge."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path


def image_id(example_id: str) -> int:
    """The challenge's id of a test image, from the id of its example such as "dtd/test/10000001".

    Raises:
        ValueError: the example is no test image of the official layout.
    """
    parts = example_id.split("/")
    if len(parts) != 3 or parts[1] != "test" or not parts[2].isdecimal():
        raise ValueError(
            f"The example {example_id!r} has no id in the challenge; test images prepared with "
            "--config.data.options.layout=official have one, as in 'dtd/test/10000001'."
        )
    return int(parts[2])


def coco_results(
    predictions: Mapping[str, Sequence[tuple[int, int]]], category_ids: Mapping[str, Sequence[int]]
) -> list[dict[str, int]]:
    """Predictions of the test images of all sets, in the form that the challenge takes.

    Args:
        predictions: of each set, the image's id in the challenge and the label predicted.
        category_ids: of each set, the challenge's category id of each label; see `DecathlonSet.category_ids`.

    Raises:
        ValueError: a set or a label has no category id, or an image has two predictions.
    """
    results, seen = [], set()
    for name, pairs in predictions.items():
        if name not in category_ids:
            raise ValueError(f"There are no category ids of {name!r}; there are those of {', '.join(category_ids)}.")
        ids = category_ids[name]
        for image, label in pairs:
            if not 0 <= label < len(ids):
                raise ValueError(
                    f"{name}: the image {image} has the label {label}, which has no category id; there are {len(ids)}, "
                    f"for labels from 0 to {len(ids) - 1}."
                )
            if image in seen:
                raise ValueError(f"{name}: the image {image} has two predictions; one is expected.")
            seen.add(image)
            # Plain integers, which NumPy's are not for `json`.
            results.append({"image_id": int(image), "category_id": int(ids[label])})
    return results


def write_results(path: str | Path, results: Sequence[Mapping[str, int]]) -> None:
    """Writes what `coco_results` returned; the challenge takes a file "results.json" in a zip."""
    Path(path).write_text(json.dumps(list(results)))
