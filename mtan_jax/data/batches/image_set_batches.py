"""Batches of several sets of labelled images, each a function of the data, the seed and the step alone."""

import zlib
from collections.abc import Generator, Iterator, Mapping, Sequence
from typing import Any

import grain
import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

from mtan_jax.data.batches import pipeline
from mtan_jax.data.batches.examples import Example, Records
from mtan_jax.data.batches.set_order import Itinerary, Plan
from mtan_jax.data.image_sets import ImageSet, ImageSetsInfo
from mtan_jax.data.raw.image_files import read_stored

Sources = Mapping[str, Sequence[Any]]


def train_batches(
    sources: Sources,
    info: ImageSetsInfo,
    itinerary: Itinerary,
    *,
    seed: int,
    steps: int,
    start_step: int,
    process_index: int,
    process_count: int,
    augment: bool,
    workers: int,
    streams: int = 1,
) -> Generator[pipeline.Batch, None, None]:
    """This process' rows of the batches of training, from a step to the last.

    The images of a set, shuffled anew each epoch, form one endless stream; a step takes the next of each set that it
    visits. Row i of a batch is of the step's set i mod g, g being the number of sets a step.

    Args:
        sources: of the sets that are trained on, by name; see `Records`.
        info: of all sets, in the order of the tasks.
        itinerary: which sets a step visits, of those in `sources`.
        seed: of the order of the images and of their augmentation.
        steps: number of steps in all.
        start_step: number of batches already used.
        process_index: of this process.
        process_count: a divisor of the rows of a set.
        augment: whether images are cut out at random places and mirrored, where the set allows it.
        workers: processes that read and augment; 0 for threads of this process.
        streams: iterators of this kind that are read at the same time; see `pipeline.with_second`.

    Returns:
        An iterator over batches as the batch contract has them, with the key "task", the position of each row's task,
        and "id" besides.

    Raises:
        ValueError: the rows of a set cannot be divided among the processes.
        WorkerError: from the iterator, where a worker process died.
    """
    rows = itinerary.rows
    local_rows = pipeline.local_batch_size(rows, process_count)
    images = [_stream(sources[name], info, name, seed, augment) for name in itinerary.sizes]
    data = Columns(images, itinerary.plan(steps), rows)
    data = data.slice(slice(start_step * rows + process_index, None, process_count))
    return pipeline.iterate(data, local_rows, _stack_columns, workers=workers, streams=streams)


def eval_batches(
    sources: Sources, info: ImageSetsInfo, *, batch_size: int, process_index: int, process_count: int
) -> Iterator[pipeline.Batch]:
    """This process' rows of one pass over a split of every set, one set after the other; a batch is of one set.

    The last batch of a set is filled up with rows of weight 0.

    Args:
        sources: of the sets, by name.
        info: of all sets, in the order of the tasks.
        batch_size: rows of all processes together.
        process_index: of this process.
        process_count: a divisor of `batch_size`.
    """
    local = pipeline.local_batch_size(batch_size, process_count)
    for name, source in sources.items():
        images = LabelledImages(source, info, name)
        data = grain.MapDataset.source(pipeline.Padded(Finished(images), batch_size))
        yield from pipeline.iterate(data.slice(slice(process_index, None, process_count)), local, stack)


def stack(examples: Sequence[Example]) -> pipeline.Batch:
    """Makes a batch of examples."""
    return pipeline.stack(examples) | {"task": np.stack([example["task"] for example in examples])}


def _stack_columns(columns: Sequence[Sequence[Example]]) -> pipeline.Batch:
    return stack([example for column in columns for example in column])


class Columns(grain.MapDataset):
    """The images of all steps: element k * rows + i holds image i of each set that step k visits.

    Args:
        streams: endless, one a set.
        plan: of the steps.
        rows: images that a step takes of each of its sets.
    """

    def __init__(self, streams: Sequence[grain.MapDataset], plan: Plan, rows: int):
        super().__init__(streams)
        self._plan, self._rows = plan, rows

    def __len__(self) -> int:
        return len(self._plan.sets) * self._rows

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return self.slice(index)
        step, row = divmod(index, self._rows)
        places = zip(self._plan.sets[step], self._plan.starts[step], strict=True)
        return [self._parents[position][int(start) + row] for position, start in places]


def _stream(source: Sequence[Any], info: ImageSetsInfo, name: str, seed: int, augment: bool) -> grain.MapDataset:
    """The images of a set without end. Its order does not depend on the other sets."""
    images = LabelledImages(source, info, name)
    own_seed = int(np.random.SeedSequence((seed, zlib.crc32(name.encode()))).generate_state(1)[0])
    data = grain.MapDataset.source(images).seed(own_seed).shuffle().repeat()
    return data.random_map(images.vary) if augment else data.map(images.finish)


class LabelledImages:
    """A split of a set, read; safe to share among threads and to pickle.

    Args:
        source: `builder.as_data_source(split)` of an `ImageSetBuilder`, or any sequence of examples as it describes
            them.
        info: of all sets.
        name: of this one.
    """

    def __init__(self, source: Sequence[Any], info: ImageSetsInfo, name: str):
        self._records = Records(source, encoded=("image",))
        self._set: ImageSet = info.sets[name]
        self._names = tuple(info.sets)
        self._size = info.image_size

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: int) -> Example:
        """The image as stored, brought to a size that just covers the one needed."""
        example = self._records[index]
        identity, label = example["id"], np.int32(example["label"])
        identity = identity.decode() if isinstance(identity, bytes) else str(identity)
        image = read_stored(example["image"], identity)
        own = self._set.name
        return {
            "id": identity,
            "image": cover(image, self._size),
            "targets": {name: label if name == own else np.int32(-1) for name in self._names},
            "labelled": {name: np.bool_(name == own and label >= 0) for name in self._names},
            "weight": np.float32(1),
            "task": np.int32(self._names.index(own)),
        }

    def vary(self, example: Example, rng: np.random.Generator) -> Example:
        """Cut out at a random place, mirrored half the time where that keeps the class, and normalised."""
        image = example["image"]
        height, width = self._size
        if self._set.flip:  # as the authors do: no random place either for the sets that must not be mirrored
            top = int(rng.integers(image.shape[0] - height, endpoint=True))
            left = int(rng.integers(image.shape[1] - width, endpoint=True))
            image = image[top : top + height, left : left + width]
            if rng.random() < 0.5:
                image = image[:, ::-1]
            return example | {"image": normalise(image, self._set)}
        return self.finish(example)

    def finish(self, example: Example) -> Example:
        """Cut out of the middle and normalised."""
        return example | {"image": normalise(centre(example["image"], self._size), self._set)}


class Finished:
    """Images as evaluation sees them."""

    def __init__(self, images: LabelledImages):
        self._images = images

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> Example:
        return self._images.finish(self._images[index])


def cover(image: UInt8[np.ndarray, "h w 3"], size: tuple[int, int]) -> UInt8[np.ndarray, "h2 w2 3"]:
    """Resizes so that the image just covers `size`, and keeps its proportions (bilinear, with antialiasing)."""
    scale = max(size[0] / image.shape[0], size[1] / image.shape[1])
    height, width = (max(round(side * scale), least) for side, least in zip(image.shape[:2], size, strict=True))
    if (height, width) == image.shape[:2]:
        return image
    return np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR))


def centre(image: UInt8[np.ndarray, "h w 3"], size: tuple[int, int]) -> UInt8[np.ndarray, "h2 w2 3"]:
    """Crops the middle."""
    height, width = size
    top, left = (image.shape[0] - height) // 2, (image.shape[1] - width) // 2
    return image[top : top + height, left : left + width]


def normalise(image: UInt8[np.ndarray, "h w 3"], image_set: ImageSet) -> Float[np.ndarray, "h w 3"]:
    """Brings each channel to mean 0 and standard deviation 1 over the set."""
    mean, std = np.asarray(image_set.mean, np.float32), np.asarray(image_set.std, np.float32)
    return (image.astype(np.float32) / np.float32(255) - mean) / std


def denormalise(image: Float[np.ndarray, "h w 3"], image_set: ImageSet) -> Float[np.ndarray, "h w 3"]:
    """The image in 0..1, for pictures."""
    return np.clip(image * np.asarray(image_set.std, np.float32) + np.asarray(image_set.mean, np.float32), 0, 1)
