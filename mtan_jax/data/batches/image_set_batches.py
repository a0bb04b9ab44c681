"""Batches of several sets of labelled images; each depends only on the data, the seed and the step."""

import zlib
from collections.abc import Iterator, Mapping, Sequence
from typing import TypeAlias, cast, overload

import grain
import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

from mtan_jax.data.batches import pipeline
from mtan_jax.data.batches.examples import Example, Records
from mtan_jax.data.batches.set_order import Plan, SetOrder
from mtan_jax.data.image_sets import ImageSet, ImageSetsInfo
from mtan_jax.data.preparation.preparable import StoredExample
from mtan_jax.data.raw.image_files import read_stored
from mtan_jax.types import Batch, Batches

Sources: TypeAlias = Mapping[str, Sequence[StoredExample]]


def train_batches(
    sources: Sources,
    info: ImageSetsInfo,
    set_order: SetOrder,
    *,
    seed: int,
    steps: int,
    start_step: int,
    process_index: int,
    process_count: int,
    augment: bool,
    workers: int,
    streams: int = 1,
) -> Batches:
    """Iterates over this process' rows of the training batches, from a step to the last.

    The images of each set, reshuffled each epoch, form one endless stream. A step uses the next images of each of its
    sets. Row i of a batch is from the step's set i mod g, where g is the number of sets per step.

    Args:
        sources: the training splits, by name of the set; see `Records`.
        info: of all sets, in the order of the tasks.
        set_order: the sets of each step, among those in `sources`.
        seed: of shuffling and augmentation.
        steps: total number of steps.
        start_step: number of batches already used.
        process_index: index of this process.
        process_count: a divisor of the number of rows per set.
        augment: whether to crop at random positions and to flip, in sets that allow flips.
        workers: number of processes that read and augment; 0 uses threads of this process.
        streams: number of iterators of this kind that are read concurrently; 2 for `pipeline.with_second`.

    Returns:
        An iterator over batches that include "task" and "id".

    Raises:
        ValueError: the rows of a set are not divisible by the number of processes.
        WorkerError: from the iterator, if a worker process died.
    """
    rows = set_order.rows
    local_rows = pipeline.local_batch_size(rows, process_count)
    images = [_stream(sources[name], info, name, seed, augment) for name in set_order.sizes]
    data = StepExamples(images, set_order.plan(steps), rows)
    data = data.slice(slice(start_step * rows + process_index, None, process_count))
    return pipeline.iterate(data, local_rows, _stack_steps, workers=workers, streams=streams)


def eval_batches(
    sources: Sources, info: ImageSetsInfo, *, batch_size: int, process_index: int, process_count: int
) -> Iterator[Batch]:
    """Iterates over this process' rows of one pass over a split of each set; each batch is from one set.

    The last batch of a set is padded with rows of weight 0.

    Args:
        sources: the splits, by name of the set.
        info: of all sets, in the order of the tasks.
        batch_size: rows of all processes together.
        process_index: index of this process.
        process_count: a divisor of `batch_size`.
    """
    local = pipeline.local_batch_size(batch_size, process_count)
    for name, source in sources.items():
        images = LabelledImages(source, info, name)
        data = grain.MapDataset.source(pipeline.Padded(CentreCropped(images), batch_size))
        yield from pipeline.iterate(data.slice(slice(process_index, None, process_count)), local, stack)


def stack(examples: Sequence[Example]) -> Batch:
    """Stacks examples to a batch."""
    return {**pipeline.stack(examples), "task": np.stack([example["task"] for example in examples])}


def _stack_steps(rows: Sequence[Sequence[Example]]) -> Batch:
    return stack([example for row in rows for example in row])


class StepExamples(grain.MapDataset):
    """The examples of all steps: element k * rows + i is a list with example i of each set of step k.

    Args:
        streams: one endless stream of examples per set.
        plan: the sets of each step.
        rows: number of examples per step from each set of the step.
    """

    def __init__(self, streams: Sequence[grain.MapDataset], plan: Plan, rows: int):
        super().__init__(streams)
        self._plan, self._rows = plan, rows

    def __len__(self) -> int:
        return len(self._plan.sets) * self._rows

    @overload
    def __getitem__(self, index: slice) -> grain.MapDataset: ...
    @overload
    def __getitem__(self, index: int) -> list[Example]: ...
    def __getitem__(self, index: int | slice) -> grain.MapDataset | list[Example]:
        if isinstance(index, slice):
            return self.slice(index)
        step, row = divmod(index, self._rows)
        sets = zip(self._plan.sets[step], self._plan.starts[step], strict=True)
        return [cast(Example, self._parents[index][int(start) + row]) for index, start in sets]


def _stream(
    source: Sequence[StoredExample], info: ImageSetsInfo, name: str, seed: int, augment: bool
) -> grain.MapDataset:
    """The endless stream of a set's examples, whose order is independent of the other sets."""
    images = LabelledImages(source, info, name)
    own_seed = int(np.random.SeedSequence((seed, zlib.crc32(name.encode()))).generate_state(1)[0])
    data = grain.MapDataset.source(images).seed(own_seed).shuffle().repeat()
    return data.random_map(images.augment) if augment else data.map(images.centre_crop)


class LabelledImages:
    """The examples of a split of a set, decoded and resized; thread-safe and picklable.

    Args:
        source: `builder.as_data_source(split)` of an `ImageSetBuilder`, or any sequence of examples in that format.
        info: of all sets.
        name: of this set.
    """

    def __init__(self, source: Sequence[StoredExample], info: ImageSetsInfo, name: str):
        self._records = Records(source, encoded=("image",))
        self._set: ImageSet = info.sets[name]
        self._names = tuple(info.sets)
        self._size = info.image_size

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: int) -> Example:
        """Reads an example; its image is resized by `cover`, but neither cropped nor normalised."""
        example = self._records[index]
        name, label = example["id"], np.int32(example["label"])
        name = name.decode() if isinstance(name, bytes) else str(name)
        image = read_stored(example["image"], name)
        own = self._set.name
        return {
            "id": name,
            "image": cover(image, self._size),
            "targets": {task: np.asarray(label if task == own else -1, np.int32) for task in self._names},
            "labelled": {task: np.bool_(task == own and label >= 0) for task in self._names},
            "weight": np.float32(1),
            "task": np.int32(self._names.index(own)),
        }

    def augment(self, example: Example, rng: np.random.Generator) -> Example:
        """Crops at a random position, flips with probability 1/2 and normalises.

        If flips would change the class, crops the centre instead, as the authors do.
        """
        image = example["image"]
        height, width = self._size
        if self._set.flip:
            top = int(rng.integers(image.shape[0] - height, endpoint=True))
            left = int(rng.integers(image.shape[1] - width, endpoint=True))
            image = image[top : top + height, left : left + width]
            if rng.random() < 0.5:
                image = image[:, ::-1]
            return {**example, "image": normalise(image, self._set)}
        return self.centre_crop(example)

    def centre_crop(self, example: Example) -> Example:
        """Crops the centre and normalises."""
        return {**example, "image": normalise(centre(example["image"], self._size), self._set)}


class CentreCropped:
    """Examples for evaluation: cropped to the centre and normalised."""

    def __init__(self, images: LabelledImages):
        self._images = images

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> Example:
        return self._images.centre_crop(self._images[index])


def cover(image: UInt8[np.ndarray, "h w 3"], size: tuple[int, int]) -> UInt8[np.ndarray, "h2 w2 3"]:
    """Resizes to the smallest size that covers `size`, keeping the aspect ratio (bilinear, with antialiasing)."""
    scale = max(size[0] / image.shape[0], size[1] / image.shape[1])
    height, width = (max(round(side * scale), least) for side, least in zip(image.shape[:2], size, strict=True))
    if (height, width) == image.shape[:2]:
        return image
    return np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR))


def centre(image: UInt8[np.ndarray, "h w 3"], size: tuple[int, int]) -> UInt8[np.ndarray, "h2 w2 3"]:
    """Crops the centre."""
    height, width = size
    top, left = (image.shape[0] - height) // 2, (image.shape[1] - width) // 2
    return image[top : top + height, left : left + width]


def normalise(image: UInt8[np.ndarray, "h w 3"], image_set: ImageSet) -> Float[np.ndarray, "h w 3"]:
    """Normalises each channel by its mean and standard deviation over the set."""
    mean, std = np.asarray(image_set.mean, np.float32), np.asarray(image_set.std, np.float32)
    return (image.astype(np.float32) / np.float32(255) - mean) / std


def denormalise(image: Float[np.ndarray, "h w 3"], image_set: ImageSet) -> Float[np.ndarray, "h w 3"]:
    """Inverts `normalise` for pictures, clipped to 0..1."""
    return np.clip(image * np.asarray(image_set.std, np.float32) + np.asarray(image_set.mean, np.float32), 0, 1)
