"""Writes the results file of the Visual Decathlon challenge."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path


def image_id(example_id: str) -> int:
    """Returns a test image's id in the challenge from its example id, such as "dtd/test/10000001".

    Raises:
        ValueError: if the example is not a test image of the official layout.
    """
    parts = example_id.split("/")
    if len(parts) != 3 or parts[1] != "test" or not parts[2].isdecimal():
        raise ValueError(
            f"The example {example_id!r} has no challenge id; expected a test image such as 'dtd/test/10000001'. "
            "Prepare the dataset with --config.data.options.layout=official."
        )
    return int(parts[2])


def coco_results(
    predictions: Mapping[str, Sequence[tuple[int, int]]], category_ids: Mapping[str, Sequence[int]]
) -> list[dict[str, int]]:
    """Converts the predictions for all test images to the challenge's format.

    Args:
        predictions: for each dataset, pairs of an image's challenge id and the predicted label.
        category_ids: for each dataset, the challenge's category id of each label; see `DecathlonSet.category_ids`.

    Returns:
        One entry per prediction with `image_id` and `category_id`.

    Raises:
        ValueError: if a dataset or a label has no category id, or an image has two predictions.
    """
    results, seen = [], set()
    for name, pairs in predictions.items():
        if name not in category_ids:
            raise ValueError(f"{name!r} has no category ids; got those of {', '.join(category_ids)}.")
        ids = category_ids[name]
        for image, label in pairs:
            if not 0 <= label < len(ids):
                raise ValueError(
                    f"{name}: image {image} has the label {label}, but there are only category ids for labels 0 to "
                    f"{len(ids) - 1}."
                )
            if image in seen:
                raise ValueError(f"{name}: image {image} has two predictions; expected one.")
            seen.add(image)
            # `json` does not accept NumPy integers.
            results.append({"image_id": int(image), "category_id": int(ids[label])})
    return results


def write_results(path: str | Path, results: Sequence[Mapping[str, int]]) -> None:
    """Writes the output of `coco_results` as JSON. The challenge expects a "results.json" in a zip."""
    Path(path).write_text(json.dumps(list(results)))
